"""The small model that lets a first run answer without any download."""

from pathlib import Path

_FILE_NAME = "bundled.gguf"


def model_path() -> Path:
    """Returns the path of the GGUF that is shipped inside this distribution.

    The file is read-only data of the installation: copy it before changing anything.

    Raises:
        FileNotFoundError: the distribution was installed without its data.
    """
    path = Path(__file__).with_name(_FILE_NAME)
    if not path.is_file():
        raise FileNotFoundError(f"{_FILE_NAME} is missing; reinstall caravan-bundled-model")
    return path
