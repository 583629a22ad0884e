"""Finds model files on disk and reads them for their digest. Never changes a model file."""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from caravan_engine.host.errors import LoadAbandonedError
from caravan_engine.host.registry import ModelFile, file_fault

_CHUNK_BYTES = 4 * 1024 * 1024
_LATER_PART = re.compile(r".+-(?!00001)\d{5}-of-\d{5}")


def find_models(directory: Path) -> list[ModelFile]:
    """Describes each `*.gguf` in `directory`, faulty ones included; none when it is missing.

    Links are followed wherever they lead: who may write the directory decides what is served.
    """
    try:
        paths = sorted(directory.glob("*.gguf"))
    except OSError:
        return []
    return [describe(path) for path in paths if _is_servable_name(path)]


def describe(path: Path) -> ModelFile:
    """Looks at one file without reading its contents; `fault` says why it can't be served."""
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return ModelFile(path.stem, path, fault=_missing_fault(path))
    fault = None
    if not resolved.is_file():
        fault = "is not a regular file"
    elif not os.access(resolved, os.R_OK):
        fault = "cannot be read by the engine's user"
    return ModelFile(path.stem, resolved, status.st_size, status.st_mtime_ns, fault)


def sha256_of(
    file: ModelFile, on_progress: Callable[[float], None], abandoned: threading.Event
) -> str:
    """Reads the whole file and returns its SHA-256 in hex. Blocks: call it in a thread.

    Raises:
        LoadAbandonedError: `abandoned` was set meanwhile.
        ModelFileInvalidError: it can't be read to its end, or changed meanwhile.
    """
    digest = hashlib.sha256()
    num_read = 0
    try:
        with file.path.open("rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                if abandoned.is_set():
                    raise LoadAbandonedError(file.name)
                digest.update(chunk)
                num_read += len(chunk)
                on_progress(min(1.0, num_read / max(1, file.size_bytes)))
    except OSError as error:
        raise file_fault(file.name, f"cannot be read: {error.strerror}") from error
    if num_read != file.size_bytes:
        raise file_fault(file.name, "changed while it was read")
    return digest.hexdigest()


def _is_servable_name(path: Path) -> bool:
    """Whether a name can travel in messages; a split model is listed by its first part only."""
    return path.stem.isprintable() and not _LATER_PART.fullmatch(path.stem)


def _missing_fault(path: Path) -> str:
    return "is a link that leads nowhere" if path.is_symlink() else "does not exist"
