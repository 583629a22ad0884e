"""Tries certificates the way the services use them: with a TLS handshake, in memory.

That finds whatever makes a peer refuse one (expired, not yet valid, of another CA, with another's
key), and needs neither a network nor a library beside the standard one.
"""

import ssl
from pathlib import Path

from caravan_client.cli.doctor.facts import Certificate


def try_certificate(service: str, ca: Path, certificate: Path, key: Path) -> Certificate:
    """Shakes hands with a certificate."""
    for path in (ca, certificate, key):
        if not path.is_file():
            return Certificate(service, fault=f"{path.name} is missing")
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(certificate, key, password=_no_password)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(ca)
    except OSError as error:  # ssl's own errors are OSErrors too
        return Certificate(service, fault=_load_fault(certificate, key, error))
    try:
        peer = _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        return Certificate(service, fault=error.verify_message)
    except ssl.SSLError as error:
        return Certificate(service, fault=error.reason or "the handshake fails")
    ends = [ssl.cert_time_to_seconds(str(peer["notAfter"]))] if "notAfter" in peer else []
    ends += [ssl.cert_time_to_seconds(str(one["notAfter"])) for one in client.get_ca_certs()]
    return Certificate(service, end_time_s=min(ends, default=None))


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, object]:
    """What the client has learned of the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    asked = answered = False
    while not (asked and answered):
        asked = asked or _step(asking)
        answered = answered or _step(answering)
    return dict(asking.getpeercert() or {})


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _no_password() -> str:
    """Keeps OpenSSL from asking at the terminal for the password of an encrypted key."""
    return ""


def _load_fault(certificate: Path, key: Path, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"{key.name} is not the key of {certificate.name}"
        return f"{certificate.name}, {key.name} or the CA's certificate is damaged"
    return f"cannot be read ({error.strerror or 'error'})"
