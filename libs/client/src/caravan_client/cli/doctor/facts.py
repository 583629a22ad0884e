"""What the probes have found. Plain values, without judgement and without secrets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caravan_client.errors import CaravanError
from caravan_client.resources import GatewayStatus, Model

SERVICES = ("gateway", "policy", "telemetry", "engine")


@dataclass(frozen=True, slots=True)
class Machine:
    """This computer. None is what could not be found out.

    Attributes:
        memory_limit_bytes: the control group's, where it is below what the computer has.
        cpu_features: as the kernel names them.
        clock_synchronized: whether the kernel believes its clock.
    """

    python: tuple[int, int, int]
    architecture: str
    num_cpus: int
    cpu_features: frozenset[str] | None = None
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_limit_bytes: int | None = None
    open_files_limit: int | None = None
    clock_synchronized: bool | None = None


@dataclass(frozen=True, slots=True)
class Llama:
    """How the installed llama_cpp was built, or why it cannot be imported."""

    version: str = ""
    features: frozenset[str] = frozenset()
    backends: tuple[str, ...] = ("CPU",)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Installation:
    """The services' code on this computer.

    Attributes:
        root: the checkout; None where the packages are installed without one.
        python: the interpreter that runs the services; it may not exist.
        has_python: whether it does.
        answers: whether it could be asked; the rest is empty otherwise.
        versions: of every installed distribution, names lower case with dashes.
        locked: what requirements.lock pins; several versions are for several platforms.
        conditional: packages that not every platform needs.
        settings_faults: what the services would refuse to start with.
        tools: compilers and cmake by purpose, None where missing.
        has_gpu: whether there is an NVIDIA device.
    """

    root: Path | None
    python: Path
    has_python: bool
    answers: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    conditional: frozenset[str] = frozenset()
    llama: Llama | None = None
    settings_faults: tuple[str, ...] = ()
    tools: Mapping[str, str | None] = field(default_factory=dict)
    cmake_version: tuple[int, ...] | None = None
    cpu_features: frozenset[str] | None = None
    has_gpu: bool = False


@dataclass(frozen=True, slots=True)
class FileMode:
    """A file or folder, what it may be used for by whom, and whether it is ours."""

    path: Path
    mode: int
    is_mine: bool


@dataclass(frozen=True, slots=True)
class Certificate:
    """A service's certificate as its peers would see it; `fault` is why they would refuse it."""

    service: str
    end_time_s: float | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class LogFile:
    """The recent end of a service's log."""

    service: str
    path: Path
    num_errors: int
    last_error: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Home:
    """The data directory."""

    path: Path
    exists: bool
    now_s: float
    is_writable: bool = False
    free_bytes: int | None = None
    private_files: tuple[FileMode, ...] = ()
    has_admin_key: bool = False
    certificates: tuple[Certificate, ...] = ()
    newest_s: float | None = None
    logs: tuple[LogFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who listens on a port, as far as this user may know.

    Attributes:
        service: the Caravan service that it is, if it is one.
        home: its CARAVAN_HOME, if it has one.
    """

    pid: int | None = None
    program: str = "a process of another user"
    service: str | None = None
    home: Path | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service seen from outside.

    Attributes:
        listens: whether its gRPC port takes connections.
        ready: None where the ops port does not answer.
        missing: what it waits for, by condition, when it is not ready.
    """

    name: str
    address: str
    ops_address: str
    listens: bool
    ready: bool | None
    missing: Mapping[str, str] = field(default_factory=dict)
    owner: Owner | None = None
    ops_owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway through the eyes of a client; what failed holds its error instead.

    Attributes:
        is_local: whether it is on this computer.
        fault: why no call was made.
        roles: of the key, where the key may ask; else None.
        may_administer: whether the key may manage keys and principals; None is unknown.
        may_infer: whether it may run models; None is unknown.
    """

    address: str
    is_local: bool
    now_s: float
    fault: CaravanError | None = None
    status: GatewayStatus | CaravanError | None = None
    models: tuple[Model, ...] | CaravanError | None = None
    principal: str = ""
    roles: tuple[str, ...] | None = None
    may_administer: bool | None = None
    may_infer: bool | None = None
    client_version: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs: the services on this computer, if they are to be here, and the gateway."""

    services: tuple[Service, ...]
    gateway: Gateway
    home: Path
    can_start: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything; None is what was not asked for, does not exist here, or took too long."""

    machine: Machine | None = None
    installation: Installation | None = None
    home: Home | None = None
    deployment: Deployment | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
