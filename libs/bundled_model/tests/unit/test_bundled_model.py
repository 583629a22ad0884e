import subprocess
import sys
from pathlib import Path

import pytest

from caravan_bundled_model import model_path

_SCRIPT = Path(__file__).parents[2] / "scripts" / "write_placeholder.py"
_MOST_BYTES = 1_500_000


def test_the_shipped_file_is_a_small_gguf():
    path = model_path()
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.stat().st_size < _MOST_BYTES


def test_the_script_writes_the_shipped_bytes_again(tmp_path):
    again = tmp_path / "again.gguf"
    subprocess.run([sys.executable, _SCRIPT, again], check=True, capture_output=True, timeout=60)
    assert again.read_bytes() == model_path().read_bytes()


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("caravan_bundled_model.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="reinstall caravan-bundled-model"):
        model_path()
