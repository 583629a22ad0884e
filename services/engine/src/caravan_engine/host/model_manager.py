"""All models of the host: lists them, loads and unloads them, and shows gateways the picture."""

import asyncio
from collections.abc import AsyncIterator

from caravan_engine.host.broadcast import Broadcast
from caravan_engine.host.errors import HostDrainingError
from caravan_engine.host.models import LoadProgress, ModelState, ModelView, Picture
from caravan_engine.host.registry import Catalogue, ModelFile, Registry
from caravan_engine.host.replica_set import Drained
from caravan_engine.host.served_model import LoadTools, ServedModel


class ModelManager:
    """Belongs to the event loop. Loading and unloading survive the callers that asked for them."""

    def __init__(self, registry: Registry, tools: LoadTools, *, max_watchers: int) -> None:
        self._registry = registry
        self._tools = tools
        self._catalogue = Catalogue({}, {})
        self._served: dict[str, ServedModel] = {}
        self._draining = False
        self.picture = Broadcast(Picture(), max_watchers=max_watchers)

    async def refresh(self) -> Catalogue:
        """Looks at the disk again and returns what is there.

        Loaded models stay, whatever became of their files.
        """
        found = await asyncio.to_thread(self._registry.scan)
        served_now = self._served.values()
        loaded = {each.file.name: each.file for each in served_now if each.failure is None}
        self._catalogue = Catalogue(dict(sorted((found.files | loaded).items())), found.aliases)
        self._publish()
        return self._catalogue

    async def list_models(self) -> tuple[ModelView, ...]:
        """All models, by name."""
        await self.refresh()
        return self.picture.value.models

    async def get_model(self, name: str) -> ModelView:
        """One model, by name or alias.

        Raises:
            UnknownModelError: there is none.
        """
        return self.view((await self.refresh()).resolve(name).name)

    def view(self, name: str) -> ModelView:
        """The model `name` as it is now.

        Raises:
            UnknownModelError: there is none any more.
        """
        return self._view(self._catalogue.resolve(name))

    async def begin_load(self, name: str, replica_count: int | None = None) -> ServedModel:
        """Starts to load a model, unless that is done or under way, and returns at once.

        Args:
            name: or alias.
            replica_count: how many workers; None: one, or as many as it has.

        Raises:
            UnknownModelError: there is none.
            ModelTooLargeError: more workers than before find no memory.
            HostDrainingError: the host is shutting down.
        """
        file = (await self.refresh()).resolve(name)
        while (served := self._served.get(file.name)) is not None and served.is_unloading:
            await served.unload(0)
            file = (await self.refresh()).resolve(name)
        if self._draining:
            raise HostDrainingError
        if served is None or served.failure is not None:
            served = ServedModel(file, self._tools, self._publish, replica_count or 1)
            self._served[file.name] = served
            self._publish()
        elif replica_count is not None:
            await served.resize(replica_count)
        return served

    async def load(
        self, name: str, replica_count: int | None = None
    ) -> AsyncIterator[tuple[ModelView, LoadProgress]]:
        """Loads a model and yields its progress until it is ready, with all its workers.

        Raises:
            CaravanError: as `begin_load`, or why it can't be served.
        """
        served = await self.begin_load(name, replica_count)
        async for progress in served.progress.watch():
            yield self.view(served.file.name), progress
        if served.failure is not None:
            raise served.failure

    async def unload(self, name: str, timeout_s: float) -> tuple[ModelView, int]:
        """Drains and ends a model; returns it and how many requests were ended. Repeatable.

        Raises:
            UnknownModelError: there is none.
        """
        file = (await self.refresh()).resolve(name)
        served = self._served.get(file.name)
        ended = 0 if served is None else await served.unload(timeout_s)
        return self._view(file), ended

    async def drain(
        self, name: str | None, index: int | None, timeout_s: float, *, restart: bool
    ) -> Drained:
        """Drains workers and ends or replaces them; a caller that leaves doesn't stop that.

        Args:
            name: of a model or alias; None: all that are loaded.
            index: which of its workers; None: all of them.
            timeout_s: how long their requests may take to finish.
            restart: whether each is replaced before the next one is drained.

        Raises:
            UnknownModelError: there is none.
        """
        if name is not None:
            served = self._served.get((await self.refresh()).resolve(name).name)
            chosen = [] if served is None else [served]
        else:
            chosen = list(self._served.values())
        drains = (served.drain(index, timeout_s, restart=restart) for served in chosen)
        return sum(await asyncio.gather(*drains), Drained())

    async def shut_down(self, timeout_s: float) -> None:
        """Takes no more orders, and unloads everything at once."""
        self._draining = True
        await asyncio.gather(*(served.unload(timeout_s) for served in list(self._served.values())))
        self.picture.close()

    def _publish(self) -> None:
        self._served = {
            name: served for name, served in self._served.items() if not served.has_ended
        }
        endpoints = [end for served in self._served.values() for end in served.endpoints()]
        models = [self._view(file) for file in self._catalogue.files.values()]
        self.picture.publish(Picture(tuple(models), tuple(endpoints), leaving=self._draining))

    def _view(self, file: ModelFile) -> ModelView:
        aliases = self._catalogue.aliases_of(file.name)
        served = self._served.get(file.name)
        if served is None:
            return _unloaded(file, aliases, self._tools.digests.get(file) or "")
        state, detail = served.state()
        return ModelView(
            name=file.name,
            aliases=aliases,
            state=state,
            detail=detail,
            digest=served.digest,
            size_bytes=served.file.size_bytes,
            details=served.details,
            replicas=served.replicas(),
        )


def _unloaded(file: ModelFile, aliases: tuple[str, ...], digest: str) -> ModelView:
    sound = file.fault is None
    return ModelView(
        name=file.name,
        aliases=aliases,
        state=ModelState.UNLOADED if sound else ModelState.FAILED,
        detail="" if sound else f"the file {file.fault}",
        digest=digest,
        size_bytes=file.size_bytes,
        details=None,
        replicas=(),
    )
