"""Mutual TLS between services: who a process is, and who calls it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from caravan_rpckit.refusals import InvalidTlsFilesError

IDENTITY_PREFIX = "spiffe://caravan/"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """The files that say who a service is and whose certificates it believes."""

    ca_path: Path
    certificate_path: Path
    key_path: Path

    @classmethod
    def in_home(cls, home: Path, service: str) -> "TlsIdentity":
        """The identity that `python -m caravan_rpckit.certificates` made for `service`."""
        certs = home / "certs"
        return cls(certs / "ca.crt", certs / f"{service}.crt", certs / f"{service}.key")

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that demands a certificate of the same CA from each client.

        Raises:
            InvalidTlsFilesError: a file cannot be read.
        """
        return grpc.ssl_server_credentials(
            [(_read(self.key_path), _read(self.certificate_path))],
            root_certificates=_read(self.ca_path),
            require_client_auth=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client that shows its certificate.

        Raises:
            InvalidTlsFilesError: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_path),
            private_key=_read(self.key_path),
            certificate_chain=_read(self.certificate_path),
        )


@dataclass(frozen=True, slots=True)
class PublicTls:
    """Certificate and key of a public listener, whose clients show no certificate."""

    certificate_path: Path
    key_path: Path

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials of a server that any client may call.

        Raises:
            InvalidTlsFilesError: a file cannot be read.
        """
        pair = (_read(self.key_path), _read(self.certificate_path))
        return grpc.ssl_server_credentials([pair])


def peer_service(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """Name of the service whose verified certificate the caller showed, or None."""
    for name in auth_context.get("x509_subject_alternative_name", ()):
        text = name.decode("utf-8", "replace")
        if text.startswith(IDENTITY_PREFIX):
            return text.removeprefix(IDENTITY_PREFIX)
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidTlsFilesError(
            f"cannot read {path.name} of the service's certificates: {error.strerror}. "
            "Make them with `python -m caravan_rpckit.certificates --home <CARAVAN_HOME>`."
        ) from error
