"""The first administrator: made with the database, replaced on request, never silently.

The key file is written inside the transaction, before it commits. So a crash leaves either a
database that was never set up (the next start does it again and replaces the file), or one whose
key is in the file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from caravan_policy.domain.api_keys import ApiKey, Credential
from caravan_policy.domain.ports import AdminKeyFile, Clock, PolicyWriter, WriteTransaction
from caravan_policy.domain.principals import (
    ADMIN,
    BUILT_IN_ROLES,
    DEFAULT_TENANT,
    PrincipalRef,
)

_ADMIN_REF = PrincipalRef(DEFAULT_TENANT, ADMIN)


@dataclass(frozen=True, slots=True)
class IssuedAdminKey:
    """Which key was written to the file, and which one it replaced."""

    key_id: str
    replaced_key_id: str | None = None


class FirstStart:
    """Sets the policy up. Blocks; for use before anything is served."""

    def __init__(
        self,
        writer: PolicyWriter,
        admin_key_file: AdminKeyFile,
        clock: Clock,
        *,
        mint: Callable[[], Credential] = Credential.mint,
    ) -> None:
        self._writer = writer
        self._file = admin_key_file
        self._clock = clock
        self._mint = mint

    def ensure(self) -> IssuedAdminKey | None:
        """Sets up a new database with tenant, roles, administrator and key; else changes nothing.

        Returns:
            The key that was written, or None where the database was set up before.

        Raises:
            StoreUnusableError: the key file cannot be written; then nothing was set up.
        """
        now = self._clock()
        with self._writer.transaction() as tx:
            if tx.has_tenant(DEFAULT_TENANT):
                return None
            return self._set_up(tx, now)

    def reset_admin_key(self) -> IssuedAdminKey:
        """Writes a new admin key to the file; the one written before stops working.

        Raises:
            StoreUnusableError: the key file cannot be written; then nothing has changed.
        """
        now = self._clock()
        with self._writer.transaction() as tx:
            if not tx.has_tenant(DEFAULT_TENANT):
                return self._set_up(tx, now)
            replaced = tx.admin_file_key_id()
            if replaced is not None:
                tx.revoke_key(replaced, now)
            issued = self._issue(tx, now, "made by --reset-admin-key")
            return IssuedAdminKey(issued.key_id, replaced)

    def _set_up(self, tx: WriteTransaction, now: datetime) -> IssuedAdminKey:
        tx.insert_tenant(DEFAULT_TENANT, now)
        for role in BUILT_IN_ROLES:
            tx.insert_role(role)
        tx.insert_principal(_ADMIN_REF, (ADMIN,), now)
        return self._issue(tx, now, "made at the first start")

    def _issue(self, tx: WriteTransaction, now: datetime, description: str) -> IssuedAdminKey:
        credential = self._mint()
        key = ApiKey(credential.key_id, _ADMIN_REF, description, now)
        tx.insert_key(key, credential.sha256)
        tx.set_admin_file_key_id(key.id)
        tx.advance()
        self._file.write(credential.text)
        return IssuedAdminKey(key.id)
