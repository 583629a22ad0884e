import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from caravan_rpckit.certificates import (
    CA_LIFE,
    CERTIFICATE_LIFE,
    SERVICES,
    CertificatesError,
    ensure_certificates,
    main,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = ["ca", *SERVICES]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def certificate(home, name):
    return x509.load_pem_x509_certificate((home / "certs" / f"{name}.crt").read_bytes())


def extension(home, name, kind):
    return certificate(home, name).extensions.get_extension_for_class(kind).value


def handshake(home, server, client, hostname):
    """Runs a mutual TLS handshake in memory and returns the client's certificate."""
    certs = home / "certs"
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certs / "ca.crt")
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context(cafile=certs / "ca.crt")
    for context, name in ((server_side, server), (client_side, client)):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(certs / f"{name}.crt", certs / f"{name}.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server_side.wrap_bio(to_server, to_client, server_side=True)
    calling = client_side.wrap_bio(to_client, to_server, server_hostname=hostname)
    waiting = [calling, serving]
    for side in waiting * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return serving.getpeercert()


def test_files_are_private(home):
    assert ensure_certificates(home) == ALL
    certs = home / "certs"
    assert certs.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in certs.iterdir()} - {"lock"}
    assert names == {f"{name}.{kind}" for name in ALL for kind in ("crt", "key")}
    assert {path.stat().st_mode & 0o777 for path in certs.glob("*.key")} == {0o600}


def test_a_certificate_says_who_its_service_is(home):
    ensure_certificates(home, now=NOW)
    engine = certificate(home, "engine")
    assert engine.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "engine"
    names = extension(home, "engine", x509.SubjectAlternativeName)
    assert set(names.get_values_for_type(x509.DNSName)) == {"localhost", "engine"}
    assert {str(ip) for ip in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1"}
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://caravan/engine"]
    usages = set(extension(home, "engine", x509.ExtendedKeyUsage))
    assert usages == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert engine.not_valid_after_utc == NOW + CERTIFICATE_LIFE
    assert certificate(home, "ca").not_valid_after_utc == NOW + CA_LIFE


@pytest.mark.parametrize("hostname", ["localhost", "engine", "127.0.0.1", "::1"])
def test_two_services_shake_hands(home, hostname):
    ensure_certificates(home)
    seen = handshake(home, "engine", "gateway", hostname)
    assert ("URI", "spiffe://caravan/gateway") in seen["subjectAltName"]


def test_another_name_than_the_certificates_is_refused(home):
    ensure_certificates(home)
    with pytest.raises(ssl.SSLCertVerificationError, match="engine"):
        handshake(home, "policy", "gateway", "engine")


def test_a_second_run_changes_nothing(home):
    ensure_certificates(home)
    before = {path: path.read_bytes() for path in (home / "certs").iterdir()}
    assert ensure_certificates(home) == []
    assert {path: path.read_bytes() for path in (home / "certs").iterdir()} == before


def test_certificates_are_renewed_in_their_last_month_under_the_same_ca(home):
    ensure_certificates(home, now=NOW)
    ca = certificate(home, "ca")
    assert ensure_certificates(home, now=NOW + timedelta(days=334)) == []
    assert ensure_certificates(home, now=NOW + timedelta(days=336)) == list(SERVICES)
    assert certificate(home, "ca") == ca


def test_a_ca_in_its_last_month_is_replaced_with_all_it_signed(home):
    ensure_certificates(home, now=NOW)
    assert ensure_certificates(home, now=NOW + CA_LIFE - timedelta(days=29)) == ALL


def test_no_certificate_outlives_its_ca(home):
    ensure_certificates(home, now=NOW)
    ensure_certificates(home, now=NOW + CA_LIFE - timedelta(days=40))
    assert certificate(home, "engine").not_valid_after_utc == NOW + CA_LIFE


def test_further_names_are_added_once_and_kept(home):
    ensure_certificates(home)
    wanted = {"engine": ["engine-1.example", "10.0.0.7"]}
    assert ensure_certificates(home, names=wanted) == ["engine"]
    assert ensure_certificates(home, names=wanted) == []
    assert ensure_certificates(home) == []
    for hostname in ("engine-1.example", "10.0.0.7", "localhost"):
        handshake(home, "engine", "gateway", hostname)


def test_another_spelling_of_a_name_is_the_same_name(home):
    ensure_certificates(home)
    assert ensure_certificates(home, names={"engine": ["0:0:0:0:0:0:0:1", "LocalHost"]}) == []


def test_a_renewal_keeps_further_names(home):
    ensure_certificates(home, names={"engine": ["engine-1.example"]}, now=NOW)
    ensure_certificates(home, now=NOW + timedelta(days=340))
    names = extension(home, "engine", x509.SubjectAlternativeName)
    assert "engine-1.example" in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    "damage",
    [
        lambda certs: (certs / "engine.key").unlink(),
        lambda certs: (certs / "engine.crt").write_text("torn"),
        lambda certs: (certs / "engine.key").write_bytes((certs / "policy.key").read_bytes()),
        lambda certs: (certs / "engine.crt").write_bytes((certs / "policy.crt").read_bytes()),
    ],
)
def test_a_damaged_pair_is_renewed_alone(home, damage):
    ensure_certificates(home)
    damage(home / "certs")
    assert ensure_certificates(home) == ["engine"]
    handshake(home, "engine", "gateway", "engine")


@pytest.mark.parametrize("name", ["ca.crt", "ca.key"])
def test_a_torn_ca_is_replaced_with_all_it_signed(home, name, tmp_path):
    ensure_certificates(home)
    ensure_certificates(tmp_path / "other")
    stranger = (tmp_path / "other" / "certs" / name).read_bytes()
    (home / "certs" / name).write_bytes(stranger)
    assert ensure_certificates(home) == ALL


def test_a_ca_key_that_is_kept_elsewhere_is_missed_only_when_it_is_needed(home):
    ensure_certificates(home)
    (home / "certs" / "ca.key").unlink()
    assert ensure_certificates(home) == []
    with pytest.raises(CertificatesError, match=r"ca\.key isn't there"):
        ensure_certificates(home, names={"engine": ["new"]})


def test_a_key_that_others_may_read_is_made_private_again(home):
    ensure_certificates(home)
    (home / "certs" / "engine.key").chmod(0o644)
    ensure_certificates(home)
    assert (home / "certs" / "engine.key").stat().st_mode & 0o777 == 0o600


def test_runs_at_the_same_time_agree(home):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_certificates(home), range(4)))
    assert sorted(made) == [[], [], [], ALL]
    handshake(home, "engine", "gateway", "engine")


@pytest.mark.parametrize(
    "pair", ["kitchen=x", "engine=", "engine", "engine=a b", "engine=https://x", "engine=ä"]
)
def test_the_command_refuses_wrong_names_in_one_line(home, pair, capsys):
    assert main(["--home", str(home), "--name", pair]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_says_what_it_did(home, capsys):
    assert main(["--home", str(home), "--name", "engine=e1"]) == 0
    assert capsys.readouterr().out == f"certificates made: {', '.join(ALL)}\n"
    assert main(["--home", str(home)]) == 0
    assert capsys.readouterr().out == "certificates are up to date\n"


def test_a_place_that_takes_no_files_is_a_clear_error(tmp_path, capsys):
    (tmp_path / "home").write_text("")
    assert main(["--home", str(tmp_path / "home")]) == 3
    assert "can't keep certificates in" in capsys.readouterr().err


def test_the_module_needs_no_grpc():
    code = "import sys, caravan_rpckit.certificates; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_identities_are_those_that_servers_look_for():
    from caravan_rpckit import certificates, tls

    assert certificates.IDENTITY_PREFIX == tls.IDENTITY_PREFIX
