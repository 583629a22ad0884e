"""Which models there are, and by which names they are called. Pure: what is on disk is given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from caravan_engine.domain.errors import ModelFileInvalidError
from caravan_engine.host.errors import UnknownModelError


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file on disk. `fault` completes "the file ..." when it can't be served."""

    name: str
    path: Path
    size_bytes: int = 0
    modified_ns: int = 0
    fault: str | None = None

    def require_sound(self) -> None:
        """Raises ModelFileInvalidError when the file can't be served."""
        if self.fault is not None:
            raise file_fault(self.name, self.fault)


def file_fault(name: str, fault: str) -> ModelFileInvalidError:
    """The error for a model whose file has a fault, a phrase such as "does not exist"."""
    return ModelFileInvalidError(f"the file of model {name!r} {fault}", metadata={"model": name})


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One look at the disk: the models by name, and where their other names lead."""

    files: dict[str, ModelFile]
    aliases: dict[str, str]

    def resolve(self, name: str) -> ModelFile:
        """Finds a model by name or alias.

        Raises:
            UnknownModelError: there is none.
        """
        file = self.files.get(self.aliases.get(name, name))
        if file is None:
            raise UnknownModelError(name)
        return file

    def aliases_of(self, name: str) -> tuple[str, ...]:
        """Other names of the model `name`, sorted."""
        return tuple(sorted(alias for alias, target in self.aliases.items() if target == name))


Source = Callable[[], Iterable[ModelFile]]


class Registry:
    """Looks at its sources in order; the first to have a name keeps it.

    `aliases` leads from a name to a file's path, so that it holds whatever the file is called; an
    alias that equals a model's name is not needed and gives way.
    """

    def __init__(self, sources: Iterable[Source], aliases: dict[str, Path]) -> None:
        self._sources = tuple(sources)
        self._aliases = aliases

    def scan(self) -> Catalogue:
        """Looks at the disk. Blocks shortly: call it in a thread."""
        files: dict[str, ModelFile] = {}
        for source in self._sources:
            for file in source():
                files.setdefault(file.name, file)
        named = {file.path: file.name for file in files.values()}
        aliases = {
            alias: named[path]
            for alias, path in self._aliases.items()
            if path in named and alias not in files
        }
        return Catalogue(dict(sorted(files.items())), aliases)
