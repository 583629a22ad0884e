"""Pages that one worker leaves to whichever goes on with its requests: a folder for each request.

All workers of a model look in the same place. A request's folder appears when it is whole, and
whoever renames it has it alone. Nothing is believed that is found in it, as with pages on disk, and
nothing lies there for long.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.handover_settings import HandoverSettings
from caravan_engine.storage.owned_folder import is_private
from caravan_engine.storage.page_files import PageHeader, PageIdentity, PagePacker
from caravan_engine.storage.page_folder import PageFolder
from caravan_engine.storage.page_losses import LossCause, PageFileError, PageLosses

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (what is made in it is this user's alone)

_PARTIAL, _TAKEN = ".partial", ".taken"
_MOST_PAGES = 100_000
_NAME_BYTES, _PLACE_BYTES = 16, 8


class HandoverFolder:
    """For one model in one layout. Usable from any thread, one `put` at a time.

    Args:
        directory: That of all models.
        packer: Makes files of pages.
        identity: Of the contexts that pages come from and go to.
        budget_bytes: Most bytes of the model that lie here; what exceeds it is left out.
        is_private: Whether `directory` must be of this user alone. It may be missing at times, and
            somebody else's may be in its place.
    """

    def __init__(
        self,
        directory: Path,
        packer: PagePacker,
        identity: PageIdentity,
        budget_bytes: int,
        *,
        is_private: bool = False,
    ) -> None:
        self._directory = directory
        self._is_private = is_private
        self._path = directory / identity.folder_name
        self._packer = packer
        self._identity = identity
        self._budget_bytes = budget_bytes
        self._losses = PageLosses()
        self._numbers = itertools.count()
        self._files: dict[bytes, Path] = {}  # where this worker put a page last

    def put(self, name: str, images: Sequence[PageImage]) -> int:
        """Leaves a request's pages, each after the one that it continues.

        Returns:
            How many; what can't be left, with all that follows, is computed again.
        """
        if not self._is_trusted():
            self._report(PageFileError(LossCause.WRITE_FAILED, "not a folder of this user alone"))
            return 0
        partial = self._own(name, _PARTIAL)
        num_put = 0
        try:
            self._path.mkdir(mode=0o700, exist_ok=True)
            partial.mkdir(mode=0o700)
            free_bytes = self._budget_bytes - self._used_bytes()
            for image in images:
                free_bytes -= self._add(partial, image, free_bytes)
                num_put += 1
        except PageFileError as error:
            self._report(error)
        except OSError as error:
            self._report(PageFileError(LossCause.WRITE_FAILED, error.strerror or ""))
        return num_put if self._publish(partial, name, images[:num_put]) else 0

    def take(self, name: str, root: bytes) -> list[PageImage]:
        """Takes what there is of a request, which is gone then; each after the one before it.

        Args:
            name: Of the request.
            root: Of its tenant; pages of others are not taken.
        """
        if not self._is_trusted():
            return []
        taken = self._own(name, _TAKEN)
        try:
            (self._path / name).rename(taken)
        except OSError:  # nobody left it, or another one was faster
            return []
        try:
            return list(self._sound_pages(PageFolder(taken, self._identity), root))
        finally:
            shutil.rmtree(taken, ignore_errors=True)

    def erase(self, root: bytes) -> None:
        """Overwrites and removes what lies here of a tenant.

        Raises:
            OSError: it could not be overwritten; it is removed all the same.
        """
        bundles = self._path.glob(f"{root.hex()}-*") if self._is_trusted() else ()
        for bundle in bundles:
            pages = PageFolder(bundle, self._identity)
            try:
                for file in bundle.glob("*.page"):
                    pages.erase(bytes.fromhex(file.stem))
            finally:
                shutil.rmtree(bundle, ignore_errors=True)

    def _is_trusted(self) -> bool:
        return not self._is_private or is_private(self._directory)

    def _own(self, name: str, ending: str) -> Path:
        return self._path / f"{name}.{os.getpid()}-{next(self._numbers)}{ending}"

    def _used_bytes(self) -> int:
        """Counts a page once that several requests have."""
        sizes: dict[int, int] = {}
        for bundle in self._path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # somebody took it just now
                for path in bundle.iterdir():
                    status = path.lstat()
                    sizes[status.st_ino] = status.st_size
        return sum(sizes.values())

    def _add(self, partial: Path, image: PageImage, free_bytes: int) -> int:
        """Puts a page into a request's folder; returns what it takes."""
        key = image.info.key
        with contextlib.suppress(KeyError, OSError):  # nor if it was taken meanwhile
            (partial / f"{key.hex()}.page").hardlink_to(self._files[key])
            return 0
        header, stored = self._packer.pack(image, protected=False)
        num_bytes = len(header) + len(stored)
        if num_bytes > free_bytes:
            raise PageFileError(LossCause.DISPLACED)
        PageFolder(partial, self._identity).write(key, header, stored)
        return num_bytes

    def _publish(self, partial: Path, name: str, images: Sequence[PageImage]) -> bool:
        path = self._path / name
        try:
            if images:
                shutil.rmtree(path, ignore_errors=True)  # of an earlier worker, which nobody took
                partial.rename(path)
                keys = (image.info.key for image in images)
                self._files.update((key, path / f"{key.hex()}.page") for key in keys)
                return True
        except OSError as error:
            self._report(PageFileError(LossCause.WRITE_FAILED, error.strerror or ""))
        shutil.rmtree(partial, ignore_errors=True)
        return False

    def _sound_pages(self, pages: PageFolder, root: bytes) -> Iterator[PageImage]:
        known = {root}
        for info in self._infos(pages):
            if info.root != root or info.parent not in known:
                continue
            try:
                yield pages.read(info.key)
            except PageFileError as error:
                self._report(error)
            except OSError as error:
                self._report(PageFileError(LossCause.READ_FAILED, error.strerror or ""))
            else:
                known.add(info.key)

    def _infos(self, pages: PageFolder) -> list[PageInfo]:
        found = []
        for each in pages.scan(_MOST_PAGES):
            if isinstance(each, PageHeader):
                found.append(each.info)
            else:
                self._report(each)
        return sorted(found, key=lambda info: info.start)

    def _report(self, error: PageFileError) -> None:
        self._losses.count(error.cause)
        self._losses.report(error.cause, str(error))


def handover_name(root: bytes, request_id: str) -> str:
    """Names what is left of a request of a tenant."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=_NAME_BYTES)
    return f"{root.hex()}-{digest.hexdigest()}"


def handover_directory(settings: HandoverSettings, home: Path) -> Path | None:
    """Returns where workers of a host leave pages; None: nowhere."""
    if not settings.time_s or settings.budget_bytes == 0:
        return None
    if settings.directory is not None:
        return settings.directory
    place = hashlib.blake2b(os.fsencode(home.absolute()), digest_size=_PLACE_BYTES).hexdigest()
    return SHARED_MEMORY / f"{_own_prefix()}{place}" if SHARED_MEMORY.is_dir() else None


def handover_directories() -> list[Path]:
    """Returns those in shared memory of all hosts of this user."""
    pattern = re.compile(f"{_own_prefix()}[0-9a-f]{{{2 * _PLACE_BYTES}}}")
    return [path for path in SHARED_MEMORY.glob("*") if pattern.fullmatch(path.name)]


def _own_prefix() -> str:
    return f"caravan-handover-{os.geteuid()}-"
