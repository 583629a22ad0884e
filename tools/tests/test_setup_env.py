import pytest

import setup_env
from setup_env import SetupError, Stage

LOCKED = """\
jinja2==3.1.6 \\
    --hash=sha256:aa
llama-cpp-python==0.3.36 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
numpy==2.4.6 ; python_version >= '3.11' \\
    --hash=sha256:dd
"""


def stage(name, made_from):
    return Stage(name, made_from, lambda: None)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment whose stamps the test sets."""
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setattr(setup_env, "PYTHON", python)
    monkeypatch.setattr(setup_env, "STAMPS", tmp_path / "stamps.json")
    return tmp_path


def test_one_package_is_taken_from_a_lock_with_all_its_hashes(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCKED)

    assert setup_env.entry(lock, "llama-cpp-python") == (
        "llama-cpp-python==0.3.36 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    )


def test_a_package_that_a_lock_lacks_is_refused(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCKED)

    with pytest.raises(SetupError, match="make lock"):
        setup_env.entry(lock, "torch")


def test_only_changed_stages_are_repeated(environment):
    (environment / "stamps.json").write_text('{"venv": "1", "packages": "1"}')

    wanted = [stage("venv", "1"), stage("packages", "2"), stage("own", "1")]

    assert [one.name for one in setup_env.pending(wanted)] == ["packages", "own"]


def test_a_moved_checkout_repeats_everything(environment):
    (environment / "stamps.json").write_text('{"venv": "old path", "packages": "1"}')

    wanted = [stage("venv", "new path"), stage("packages", "1")]

    assert setup_env.pending(wanted) == wanted


def test_a_missing_compiler_is_named_with_the_package_that_brings_it(monkeypatch):
    present = {"cc": "/usr/bin/cc", "cmake": "/usr/bin/cmake"}
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(setup_env.shutil, "which", present.get)

    with pytest.raises(SetupError, match=r"needs a C\+\+ compiler:  sudo apt install g\+\+"):
        setup_env.check_tools()


def test_the_users_build_options_come_last(monkeypatch):
    monkeypatch.setenv("CARAVAN_CMAKE_ARGS", "-DGGML_CUDA=on '-DX=a b'")

    assert setup_env.cmake_arguments()[-2:] == ["-DGGML_CUDA=on", "-DX=a b"]
