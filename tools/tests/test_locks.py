import pytest

import locks
from locks import Lock

PINNED = """\
# Written by `make lock`.
{digest}
numpy==2.1.0 \\
    --hash=sha256:0123 \\
    --hash=sha256:4567
"""


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """A lock that pins numpy and is in order."""
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    monkeypatch.setattr(locks, "MAIN_LOCK", tmp_path / "requirements.lock")
    lock = Lock(tmp_path / "requirements.lock", ("numpy>=2",))
    lock.path.write_text(PINNED.format(digest=lock.digest_line()))
    return lock


def append(lock, text):
    lock.path.write_text(lock.path.read_text() + text)


def test_a_lock_in_order_has_no_faults(lock):
    assert locks.find_faults(lock) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://registry.example/simple\n",
        "--extra-index-url=registry.example\n",
        "--find-links /opt/wheels\n",
        "numpy @ file:///tmp/numpy.whl\n",
        "-e ./libs/rpckit\n",
        "# via -r /home/me/caravan/requirements.in\n",
    ],
)
def test_an_address_is_found(lock, line):
    append(lock, line)

    assert [fault for fault in locks.find_faults(lock) if "address" in fault]


def test_a_lock_older_than_its_inputs_is_found(lock):
    newer = Lock(lock.path, ("numpy>=2", "rich>=14"))

    assert "requirements.lock is older than its inputs: `make lock`" in locks.find_faults(newer)


def test_a_pin_without_hash_is_found(lock):
    append(lock, "rich==14.0.0\n")

    assert locks.find_faults(lock) == ["requirements.lock: rich has no hash"]


def test_a_pin_that_does_not_fit_its_input_is_found(lock):
    lock.path.write_text(lock.path.read_text().replace("==2.1.0", "==1.26.0"))

    assert locks.find_faults(lock) == ["requirements.lock: nothing satisfies 'numpy>=2'"]


def test_a_package_that_shadows_another_is_found(lock):
    append(lock, "casbin==1.0.0 \\\n    --hash=sha256:89ab\n")

    assert locks.find_faults(lock) == [
        "requirements.lock: casbin: it and pycasbin own the same import"
    ]


def test_a_service_lock_that_differs_from_the_main_one_is_found(lock):
    service = Lock(lock.path.with_name("service.lock"), ("numpy>=2",))
    pinned = PINNED.format(digest=service.digest_line())
    service.path.write_text(pinned.replace("2.1.0", "2.2.0"))

    assert locks.find_faults(service) == ["service.lock: numpy differs from requirements.lock"]


def test_the_needs_of_own_distributions_are_followed():
    projects = {
        "caravan-gateway": ["caravan-rpckit", "tenacity>=9"],
        "caravan-rpckit": ["grpcio>=1.85", "caravan-protos"],
        "caravan-protos": ["protobuf>=7"],
        "caravan-engine": ["numpy>=2"],
    }

    assert locks.third_party("caravan-gateway", projects) == {
        "tenacity>=9",
        "grpcio>=1.85",
        "protobuf>=7",
    }
