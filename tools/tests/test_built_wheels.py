import os
import platform
import sys

import pytest

import built_wheels
import setup_env
from built_wheels import BuiltWheels

GCC = "(Debian 12.2.0) 12.2.0"


@pytest.fixture(autouse=True)
def no_choices(monkeypatch):
    for name in ("CC", "CXX", *built_wheels.FLAGS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def compilers(tmp_path, monkeypatch):
    """Puts compilers that only tell their version, and nothing else, on the PATH."""

    def install(folder, version=GCC, names=("cc", "c++")):
        folder = tmp_path / folder
        folder.mkdir()
        for name in names:
            script = folder / name
            script.write_text(
                f'#!/bin/sh\ncase "$1" in\n--version) echo "{name} {version}";;'
                "\n-dumpmachine) echo x86_64-linux-gnu;;\nesac\n"
            )
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return folder

    return install


@pytest.fixture
def wheels(tmp_path):
    """The wheels of one source, as the compiler on the PATH finds them."""
    return lambda: BuiltWheels(tmp_path / "wheels", built_wheels.compiler())


def build(wheels):
    wheels.place.mkdir(parents=True)
    wheel = wheels.place / "llama-py3-none-linux_x86_64.whl"
    wheel.touch()
    return wheel


def test_a_wheel_is_found_again_by_another_path_to_the_same_compiler(compilers, wheels):
    compilers("usr")
    built = build(wheels())
    compilers("elsewhere", names=("gcc", "g++"))

    assert wheels().find() == built


@pytest.mark.parametrize("variable", ["CC", "CXX"])
def test_another_compiler_makes_another_wheel(compilers, wheels, monkeypatch, variable):
    folder = compilers("clang", "clang 14", names=("clang", "clang++"))
    clang = folder / ("clang" if variable == "CC" else "clang++")
    compilers("gcc")
    build(wheels())
    monkeypatch.setenv(variable, str(clang))

    assert wheels().find() is None


def test_a_newer_compiler_makes_another_wheel(compilers, wheels):
    compilers("old")
    build(wheels())
    compilers("new", version="(Debian 13.1.0) 13.1.0")

    assert wheels().find() is None


@pytest.mark.parametrize("variable", built_wheels.FLAGS)
def test_other_flags_of_the_compiler_make_another_wheel(compilers, wheels, monkeypatch, variable):
    compilers("usr")
    build(wheels())
    monkeypatch.setenv(variable, "-O0")

    assert wheels().find() is None


def test_without_a_compiler_the_wheel_of_any_is_taken(compilers, wheels, monkeypatch):
    compilers("usr")
    built = build(wheels())
    monkeypatch.setenv("PATH", os.devnull)

    assert wheels().compiler is None
    assert wheels().find() == built


def test_without_a_compiler_and_without_a_wheel_there_is_none(wheels, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)

    assert wheels().find() is None


def test_a_wheel_does_not_depend_on_the_python_that_asks(monkeypatch):
    before = setup_env.wheel_inputs([])
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
    monkeypatch.setattr(sys, "executable", "/somewhere/else/python3")

    assert setup_env.wheel_inputs([]) == before


@pytest.mark.parametrize("what", ["machine", "c_library"])
def test_a_wheel_depends_on_the_machine(monkeypatch, what):
    before = setup_env.wheel_inputs([])
    other = ("another",) if what == "machine" else "musl 1.2"
    monkeypatch.setattr(built_wheels, what, lambda: other)

    assert setup_env.wheel_inputs([]) != before


def test_a_wheel_depends_on_the_options_of_the_build():
    assert setup_env.wheel_inputs(["-DGGML_CUDA=on"]) != setup_env.wheel_inputs([])
