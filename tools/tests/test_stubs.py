"""Which languages `stubs.py` leaves out, and that its versions agree with those who use them."""

import json
import re
from pathlib import Path

import pytest

import protoc_plugins
import stubs

CLIENTS = stubs.ROOT / "tests" / "clients"


def write_one(out: Path) -> None:
    (out / "src").mkdir()
    (out / "src" / "stub").write_text("one")


def lack_a_tool(_: Path) -> None:
    raise protoc_plugins.ToolMissingError("go not on the PATH")


def fail(_: Path) -> None:
    raise protoc_plugins.StepFailedError("go install: no such version")


@pytest.fixture
def languages(tmp_path, monkeypatch):
    """Three languages of which one works, and where their stubs go."""
    chosen = {"good": write_one, "missing": lack_a_tool, "broken": fail}
    for name in chosen:
        (tmp_path / "packages" / name).mkdir(parents=True)
    (tmp_path / "packages" / "good" / "manifest").write_text("package")
    monkeypatch.setattr(stubs, "LANGUAGES", chosen)
    monkeypatch.setattr(stubs, "PACKAGES", tmp_path / "packages")
    return tmp_path / "out"


def test_a_language_without_tools_is_left_out_and_named(languages, capsys):
    assert stubs.main(["--out", str(languages), "good", "missing"]) == 0
    assert "missing: left out: go not on the PATH" in capsys.readouterr().out
    assert not (languages / "missing").exists()
    assert (languages / "good" / "src" / "stub").read_text() == "one"


def test_a_tool_that_fails_is_told_and_the_others_still_come(languages, capsys):
    assert stubs.main(["--out", str(languages), "broken", "good"]) == 1
    assert "go install: no such version" in capsys.readouterr().err
    assert (languages / "good" / "manifest").read_text() == "package"


def test_an_unknown_language_is_refused(languages):
    with pytest.raises(SystemExit) as caught:
        stubs.main(["--out", str(languages), "cobol"])
    assert caught.value.code == 2


def test_what_is_right_already_is_not_touched_and_what_is_gone_goes(languages):
    stubs.generate("good", languages)
    kept = languages / "src" / "stub"
    before = kept.stat().st_mtime_ns
    (languages / "src" / "stale").write_text("of a contract that is gone")
    (languages / "node_modules").mkdir()
    stubs.generate("good", languages)
    assert kept.stat().st_mtime_ns == before
    assert not (languages / "src" / "stale").exists()
    assert (languages / "node_modules").is_dir()


def test_java_runs_on_the_protobuf_that_generates_it():
    compiler = protoc_plugins.JAVA_PROTOC.rpartition(":")[2]
    plugin = protoc_plugins.JAVA_PLUGIN.rpartition(":")[2]
    for pom in (stubs.PACKAGES / "java" / "pom.xml", CLIENTS / "java" / "pom.xml"):
        text = pom.read_text()
        assert f"<protobuf.version>{compiler}</protobuf.version>" in text
        assert f"<grpc.version>{plugin}</grpc.version>" in text


def test_go_runs_on_the_protobuf_that_generates_it():
    plugin = protoc_plugins.GO_PLUGINS[0].rpartition("@")[2]
    for module in (stubs.PACKAGES / "go" / "go.mod", CLIENTS / "go" / "go.mod"):
        assert f"google.golang.org/protobuf {plugin}" in module.read_text()


def test_typescript_runs_on_the_protobuf_that_generates_it():
    package = json.loads((stubs.PACKAGES / "typescript" / "package.json").read_text())
    client = json.loads((CLIENTS / "node" / "package.json").read_text())
    version = package["devDependencies"]["@bufbuild/protoc-gen-es"]
    assert package["dependencies"]["@bufbuild/protobuf"] == version
    assert client["dependencies"]["@bufbuild/protobuf"] == version


def test_locks_of_other_languages_hold_no_addresses():
    for folder in (stubs.PACKAGES, CLIENTS):
        for lock in folder.rglob("package-lock.json"):
            if "node_modules" not in lock.parts:
                assert re.search(r"https?://", lock.read_text()) is None, lock
