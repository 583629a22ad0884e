"""Makes the development CA and one certificate per service.

`python -m caravan_rpckit.certificates --home .caravan [--name engine=engine-1.example]`. Runs
before any service does, so it needs no gRPC. Changes only what is missing, expiring or wrong.
"""

import argparse
import contextlib
import fcntl
import ipaddress
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from caravan_rpckit.errors import CaravanError, Reason

SERVICES = ("gateway", "engine", "policy", "telemetry")
IDENTITY_PREFIX = "spiffe://caravan/"
CA_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=365)
RENEWED_BEFORE_END = timedelta(days=30)

_CLOCK_SKEW = timedelta(hours=1)
_DNS_NAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE | re.ASCII)
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class CertificatesError(CaravanError):
    """The certificates can't be made; names files, so it is for the operator's eyes only."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_certificates(
    home: Path, *, names: Mapping[str, Collection[str]] | None = None, now: datetime | None = None
) -> list[str]:
    """Brings `home/certs` up to date and returns what was made ("ca", or a service).

    A new CA makes all certificates new. A certificate keeps the names that it has: `names` only
    adds to them; to take one away, delete the file.

    Args:
        home: the data directory; `certs` inside is made private.
        names: further DNS names or IP addresses by service.
        now: the present moment; the system's by default.

    Raises:
        CertificatesError: a certificate is needed, but the CA's key isn't there; an unknown
            service or an invalid name; files that can't be read or written.
    """
    moment = now or datetime.now(UTC)
    wanted = {service: _wanted_names(service, names or {}) for service in SERVICES}
    if strangers := set(names or {}) - set(SERVICES):
        raise CertificatesError(f"no such service: {', '.join(sorted(strangers))}")
    folder = home / "certs"
    try:
        with _locked(folder):
            return _ensure(folder, wanted, moment)
    except OSError as error:
        raise CertificatesError(f"can't keep certificates in {folder}: {error}") from error


def _ensure(folder: Path, wanted: Mapping[str, frozenset[str]], now: datetime) -> list[str]:
    ca = _read_certificate(folder / "ca.crt")
    made: list[str] = []
    if ca is None or _ends_soon(ca, now) or _is_torn(folder, ca):
        ca = _make_ca(folder, now)
        made.append("ca")
    for service, names in wanted.items():
        present = _read_certificate(folder / f"{service}.crt")
        if present is not None and _is_issued_by(present, ca):
            names |= _names_of(present)
            if _is_good(folder, service, present, names, now):
                (folder / f"{service}.key").chmod(0o600)
                continue
        _make_certificate(folder, service, names, ca, now)
        made.append(service)
    return made


def _is_good(
    folder: Path, service: str, present: x509.Certificate, names: frozenset[str], now: datetime
) -> bool:
    key = _read_key(folder / f"{service}.key")
    return (
        key is not None
        and key.public_key() == present.public_key()
        and not _ends_soon(present, now)
        and _names_of(present) >= names
        and _identities_of(present) == [IDENTITY_PREFIX + service]
    )


def _make_ca(folder: Path, now: datetime) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Caravan development CA")])
    ca = (
        _builder(name, name, key.public_key(), now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_key_id(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "ca", _Pair(ca, key))
    return ca


def _make_certificate(
    folder: Path, service: str, names: frozenset[str], ca: x509.Certificate, now: datetime
) -> None:
    ca_key = _read_key(folder / "ca.key")
    if ca_key is None:
        raise CertificatesError(
            f"{service} needs a certificate, but {folder / 'ca.key'} isn't there or is damaged; "
            f"put it back, or delete {folder} to begin anew"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
    identity = x509.UniformResourceIdentifier(IDENTITY_PREFIX + service)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    general_names = [*map(_general_name, sorted(names)), identity]
    life = min(CERTIFICATE_LIFE, ca.not_valid_after_utc - now)
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(general_names), critical=False)
        .add_extension(_key_id(key.public_key()), critical=False)
        .add_extension(_issuer_key_id(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pair(folder, service, _Pair(certificate, key))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _issuer_key_id(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _wanted_names(service: str, names: Mapping[str, Collection[str]]) -> frozenset[str]:
    return frozenset(
        _normal_name(service, name) for name in (*_LOOPBACK_NAMES, service, *names.get(service, ()))
    )


def _normal_name(service: str, name: str) -> str:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name))
    if not _DNS_NAME.fullmatch(name):
        raise CertificatesError(f"{service}: {name!r} is neither a DNS name nor an IP address")
    return name.lower()


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _names_of(certificate: x509.Certificate) -> frozenset[str]:
    names = _alternative_names(certificate)
    addresses = map(str, names.get_values_for_type(x509.IPAddress))
    return frozenset((*names.get_values_for_type(x509.DNSName), *addresses))


def _identities_of(certificate: x509.Certificate) -> list[str]:
    return _alternative_names(certificate).get_values_for_type(x509.UniformResourceIdentifier)


def _ends_soon(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc < now + RENEWED_BEFORE_END


def _is_issued_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _is_torn(folder: Path, ca: x509.Certificate) -> bool:
    """Whether the CA's key is another one's; a key that is kept elsewhere is all right."""
    key = _read_key(folder / "ca.key")
    return key is not None and key.public_key() != ca.public_key()


def _read_certificate(path: Path) -> x509.Certificate | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return x509.load_pem_x509_certificate(path.read_bytes())
    return None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        return key if isinstance(key, ec.EllipticCurvePrivateKey) else None
    return None


def _write_pair(folder: Path, name: str, pair: _Pair) -> None:
    """Replaces both files; a crash between the two leaves a pair that the next run renews."""
    key = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _replace(folder / f"{name}.key", key, mode=0o600)
    certificate = pair.certificate.public_bytes(serialization.Encoding.PEM)
    _replace(folder / f"{name}.crt", certificate, mode=0o644)


def _replace(path: Path, content: bytes, *, mode: int) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps out a second run meanwhile."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _parsed_names(pairs: Sequence[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for pair in pairs:
        service, _, name = pair.partition("=")
        names.setdefault(service, []).append(name)
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, or 3 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m caravan_rpckit.certificates",
        description="Makes or renews Caravan's development CA and service certificates.",
    )
    default = Path(os.environ.get("CARAVAN_HOME") or ".caravan")
    parser.add_argument("--home", type=Path, default=default, help="data directory")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="SERVICE=NAME",
        help="a further DNS name or IP address of a service; may be repeated",
    )
    options = parser.parse_args(arguments)
    try:
        made = ensure_certificates(options.home, names=_parsed_names(options.name))
    except CertificatesError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)
        return 3
    print(f"certificates made: {', '.join(made)}" if made else "certificates are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
