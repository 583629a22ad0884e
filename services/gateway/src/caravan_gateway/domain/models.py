"""Which models exist and where their workers are, over all watched engine hosts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    GatewayError,
    ModelDrainingError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotFoundError,
    ModelNotLoadedError,
    WorkerDiedError,
)


class ModelState(StrEnum):
    """Sums up a model's replicas."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of one host.

    `restarting`: one of its workers died and comes back. `starting`: one isn't ready yet; after
    the death of a host it has to be waited for as well.
    """

    name: str
    aliases: tuple[str, ...]
    state: ModelState
    restarting: bool = False
    starting: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A worker that takes requests. `worker_id` names the process."""

    model: str
    model_digest: str
    replica_index: int
    worker_id: str
    address: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that one host said last."""

    host_id: str
    models: tuple[ServedModel, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    leaving: bool = False  # the host shuts down; what it drains comes back with the next one


@dataclass(slots=True)
class _Host:
    picture: Picture | None = None
    connected: bool = False


class ModelCatalog:
    """The pictures of all hosts together. Owned by the event loop.

    The picture of a host that cannot be reached is kept: its names are still known, and its
    workers are tried as long as no other host offers the model.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = {address: _Host() for address in hosts}
        self._names: dict[str, str] = {}

    def update(self, host: str, picture: Picture) -> None:
        """Replaces what `host` said before."""
        self._hosts[host].picture = picture
        self._hosts[host].connected = True
        self._names = _names_of([model for one in self._pictures() for model in one.models])

    def lose(self, host: str) -> None:
        """`host` cannot be reached at present."""
        self._hosts[host].connected = False

    def is_connected(self, host: str) -> bool:
        """Whether the news of `host` arrive."""
        return self._hosts[host].connected

    @property
    def num_connected_hosts(self) -> int:
        """How many hosts are watched successfully."""
        return sum(host.connected for host in self._hosts.values())

    @property
    def num_endpoints(self) -> int:
        """How many workers take requests, as far as their hosts said."""
        return sum(len(picture.endpoints) for picture in self._pictures())

    def endpoints(self) -> tuple[Endpoint, ...]:
        """All workers that take requests, as far as their hosts said."""
        return tuple(each for picture in self._pictures() for each in picture.endpoints)

    def resolve(self, name: str) -> str | None:
        """Returns the model's own name for a name or alias; names come before aliases."""
        return self._names.get(name)

    def find(self, name: str) -> str:
        """Like `resolve`, for a name that has to exist.

        Raises:
            ModelNotFoundError: no host knows it.
            DependencyUnavailableError: a host that might know it was never reached.
        """
        resolved = self.resolve(name)
        if resolved is not None:
            return resolved
        if any(host.picture is None for host in self._hosts.values()):
            raise DependencyUnavailableError("engine")
        raise ModelNotFoundError(name)

    def endpoints_of(self, model: str) -> tuple[Endpoint, ...]:
        """The workers of `model` that take requests; never empty.

        Raises:
            GatewayError: why there are none.
        """
        fresh = tuple(self._endpoints(model, connected=True))
        candidates = fresh or tuple(self._endpoints(model, connected=False))
        if not candidates:
            raise self._reason_for_none(model)
        return candidates

    def loaded(self) -> tuple[str, ...]:
        """Names of all models that have workers, or are about to.

        Raises:
            DependencyUnavailableError: a host that might have some was never reached.
        """
        if any(host.picture is None for host in self._hosts.values()):
            raise DependencyUnavailableError("engine")
        idle = (ModelState.UNLOADED, ModelState.FAILED)
        models = (model for picture in self._pictures() for model in picture.models)
        return tuple(dict.fromkeys(each.name for each in models if each.state not in idle))

    def all_endpoints_of(self, model: str) -> tuple[Endpoint, ...]:
        """Every worker of `model`, also of hosts that can't be reached; never empty.

        Raises:
            GatewayError: there is none, or one of them is about to come back.
        """
        models = [each for one in self._pictures() for each in one.models if each.name == model]
        if any(each.restarting for each in models):
            raise WorkerDiedError(model)
        if any(each.starting for each in models):
            raise ModelLoadingError(model)
        found = (*self._endpoints(model, connected=True), *self._endpoints(model, connected=False))
        if not found:
            raise self._reason_for_none(model)
        return found

    def host_of(self, name: str) -> str:
        """The host to ask about a model: one that has it loaded, or else knows it, or any.

        Raises:
            DependencyUnavailableError: no host can be reached.
        """
        connected = [address for address, host in self._hosts.items() if host.connected]
        if not connected:
            raise DependencyUnavailableError("engine")
        return min(connected, key=lambda address: self._distance(address, name))

    def _distance(self, address: str, name: str) -> int:
        picture = self._hosts[address].picture
        models = () if picture is None else picture.models
        states = {model.state for model in models if name in (model.name, *model.aliases)}
        if not states:
            return 2
        return 1 if states == {ModelState.UNLOADED} else 0

    def _pictures(self) -> Iterator[Picture]:
        return (host.picture for host in self._hosts.values() if host.picture is not None)

    def _endpoints(self, model: str, *, connected: bool) -> Iterator[Endpoint]:
        for host in self._hosts.values():
            if host.connected is connected and host.picture is not None:
                yield from (one for one in host.picture.endpoints if one.model == model)

    def _reason_for_none(self, name: str) -> GatewayError:
        models = [
            model
            for picture in self._pictures()
            if not picture.leaving
            for model in picture.models
            if model.name == name
        ]
        states = {model.state for model in models}
        if any(model.restarting for model in models):
            return WorkerDiedError(name)
        if states & {ModelState.LOADING, ModelState.READY}:
            return ModelLoadingError(name)
        if ModelState.DRAINING in states:
            return ModelDrainingError(name)
        if ModelState.FAILED in states:
            return ModelFailedError(name)
        if not self.num_connected_hosts or any(each.leaving for each in self._pictures()):
            # A host that ends unloads its models first: its last word says nothing of the next.
            return DependencyUnavailableError("engine")
        return ModelNotLoadedError(name)


def _names_of(models: Sequence[ServedModel]) -> dict[str, str]:
    """From each name and alias to a model's own name; of equal aliases the first counts."""
    names = {alias: model.name for model in reversed(models) for alias in model.aliases}
    return names | {model.name: model.name for model in models}
