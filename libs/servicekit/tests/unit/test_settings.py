import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, SecretStr, model_validator

from caravan_rpckit.errors import Reason
from caravan_servicekit.settings import Section, ServiceSettings, load_settings
from caravan_servicekit.settings_faults import SettingsError
from caravan_servicekit.settings_fields import settings_of
from caravan_servicekit.settings_report import as_json, as_toml, help_text, settings_table
from caravan_servicekit.settings_sources import parse_command_line


class Mode(StrEnum):
    FAST = "fast"
    SAFE = "safe"


class Server(Section):
    port: int = Field(50053, ge=0, le=65535, description="Port; 0 takes a free one.")
    peers: tuple[str, ...] = Field(("gateway",), description="Services that may call.")
    drain_s: float = Field(10.0, ge=0, description="Grace in seconds; 0 ends calls at once.")
    strict: bool = Field(False, description="Whether to be strict.")


class Store(Section):
    url: SecretStr = Field(SecretStr("sqlite:///x"), description="Database.")
    mode: Mode = Field(Mode.SAFE, description="How.")
    level: Literal["low", "high"] = Field("low", description="How much.")
    most: Annotated[int, Field(gt=0)] | None = Field(None, description="Cap; none is no cap.")
    weights: dict[str, int] = Field({}, description="By name.")
    path: Path | None = Field(None, description="Where.")


class Example(ServiceSettings):
    service: ClassVar[str] = "policy"
    aliases: ClassVar[dict[str, str]] = {
        "PORT": "server.port",
        "CARAVAN_PORT": "server.port",
        "--port": "server.port",
        "-p": "server.port",
        "--lenient": "!server.strict",
        "LENIENT": "!server.strict",
    }

    server: Server = Field(Server(), description="Listener.")
    store: Store = Field(Store(), description="Storage.")

    @model_validator(mode="after")
    def _agree(self):
        if self.server.strict and self.store.mode is Mode.FAST:
            raise ValueError("server.strict needs store.mode safe")
        return self


def load(*arguments, env=None, toml=None, tmp_path=None):
    environment = dict(env or {})
    if toml is not None:
        path = tmp_path / "caravan.toml"
        path.write_text(toml)
        arguments = ("--config", str(path), *arguments)
    aliases = Example.all_aliases()
    line = parse_command_line(arguments, environment, settings_of(Example), aliases)
    return load_settings(Example, line, environment)


def faults_of(*arguments, **sources):
    with pytest.raises(SettingsError) as raised:
        load(*arguments, **sources)
    assert raised.value.reason is Reason.INVALID_CONFIGURATION
    return {fault.name: fault for fault in raised.value.faults}


def test_defaults_stand_where_nobody_speaks():
    assert load() == Example()
    assert load().home == Path.cwd() / ".caravan"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    toml = "[policy.server]\nport = 1\ndrain_s = 1\npeers = ['file']\n[policy.store]\nmode='fast'"
    env = {"CARAVAN_POLICY__SERVER__PORT": "2", "CARAVAN_POLICY__SERVER__DRAIN_S": "2"}
    settings = load("--server.port", "3", env=env, toml=toml, tmp_path=tmp_path)
    assert settings.server == Server(port=3, drain_s=2, peers=("file",))
    assert settings.store.mode is Mode.FAST


def test_the_long_name_wins_over_its_alias():
    env = {"CARAVAN_PORT": "1", "CARAVAN_POLICY__SERVER__PORT": "2"}
    assert load(env=env).server.port == 2
    assert load("--port=4", env=env).server.port == 4


def test_of_two_variables_for_one_setting_the_later_declared_wins():
    assert load(env={"CARAVAN_PORT": "1", "PORT": "2"}).server.port == 1


def test_an_alias_may_be_a_short_flag():
    assert load("-p", "7").server.port == 7
    assert load("-p=8").server.port == 8


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["-q", "7"], ["not a flag", "not a flag"]),
        (["-p", "--lenient"], ["given without a value (flag -p)"]),
        (["--lenient", "-p"], ["given without a value (flag -p)"]),
        (
            ["--!server.strict"],
            ["unknown setting (flag --!server.strict), did you mean server.strict?"],
        ),
        (["--lenient=maybe"], ["given 'maybe' (flag --lenient)"]),
    ],
)
def test_short_and_negated_flags_are_read_strictly(arguments, given):
    with pytest.raises(SettingsError) as caught:
        load(*arguments)
    assert [fault.given for fault in caught.value.faults] == given


@pytest.mark.parametrize(
    ("arguments", "environment", "strict"),
    [
        (["--server.strict", "--lenient"], {}, False),
        (["--lenient", "--server.strict"], {}, True),
        (["--lenient=false"], {}, True),
        (["--lenient", "no"], {}, True),
        ([], {"LENIENT": "0"}, True),
        (["--server.strict"], {"LENIENT": "On"}, True),
        ([], {"LENIENT": "true", "CARAVAN_POLICY__SERVER__STRICT": "true"}, True),
    ],
)
def test_a_negated_alias_means_the_opposite(arguments, environment, strict):
    assert load(*arguments, env=environment).server.strict is strict


def test_home_is_shared_and_absolute(tmp_path):
    assert load(env={"CARAVAN_HOME": "~/x"}).home == Path.home() / "x"
    assert load(toml='home = "/data"', tmp_path=tmp_path).home == Path("/data")
    assert load("--home", "/flag", env={"CARAVAN_HOME": "/env"}).home == Path("/flag")


def test_the_file_may_be_named_by_the_environment(tmp_path):
    (tmp_path / "c.toml").write_text("[policy.server]\nport = 7")
    assert load(env={"CARAVAN_CONFIG": str(tmp_path / "c.toml")}).server.port == 7


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        (["--server.strict"], ("server", "strict"), True),
        (["--server.strict", "--server.port", "1"], ("server", "strict"), True),
        (["--server.strict", "false"], ("server", "strict"), False),
        (["--server.strict=no"], ("server", "strict"), False),
        (["--server.drain-s", "1.5"], ("server", "drain_s"), 1.5),
        (["--server.peers", "a, b"], ("server", "peers"), ("a", "b")),
        (["--server.peers", '["a,b"]'], ("server", "peers"), ("a,b",)),
        (["--server.peers="], ("server", "peers"), ()),
        (["--store.most", "5"], ("store", "most"), 5),
        (["--store.most", "none"], ("store", "most"), None),
        (["--store.weights", '{"a": 1}'], ("store", "weights"), {"a": 1}),
        (["--store.path", "x"], ("store", "path"), Path("x")),
    ],
)
def test_text_becomes_typed_values(flags, path, value):
    settings = load(*flags)
    assert getattr(getattr(settings, path[0]), path[1]) == value


def test_all_faults_of_all_sources_are_reported_at_once(tmp_path):
    faults = faults_of(
        "--server.drain_s",
        "soon",
        "--server.prot",
        "1",
        "stray",
        env={"CARAVAN_POLICY__STORE__MODE": "wild", "CARAVAN_POLICY__STOER__MODE": "fast"},
        toml="polcy = 1\n[policy]\nserver.port = 70000\nserver.x.y = 1\n[gateway]\nanything = 1",
        tmp_path=tmp_path,
    )
    assert {name: fault.allowed for name, fault in faults.items()} == {
        "server.drain_s": "number, at least 0",
        "server.prot": "what --help-settings lists",
        "argument 7": "--section.field VALUE",
        "store.mode": "one of fast, safe",
        "stoer.mode": "what --help-settings lists",
        "polcy": "what --help-settings lists",
        "server.port": "integer, at least 0, at most 65535",
        "server.x.y": "what --help-settings lists",
    }
    assert faults["server.port"].given == f"given 70000 (file {tmp_path / 'caravan.toml'})"
    assert faults["server.drain_s"].given == "given 'soon' (flag --server.drain_s)"
    assert faults["store.mode"].given == "given 'wild' (environment CARAVAN_POLICY__STORE__MODE)"


def test_a_sections_own_default_survives_an_override_of_its_neighbour():
    class Shifted(Example):
        server: Server = Field(Server(port=9), description="Listener.")

    line = parse_command_line(["--server.strict"], {}, settings_of(Shifted), {})
    assert load_settings(Shifted, line, {}).server == Server(port=9, strict=True)
    assert "| `9` |" in settings_table(Shifted)


def test_a_required_setting_is_named_when_its_whole_section_is_absent():
    class Required(Section):
        name: str = Field(min_length=2, description="Name.")

    class Demanding(ServiceSettings):
        service: ClassVar[str] = "policy"
        inner: Required = Field(description="Inner.")

    line = parse_command_line([], {}, settings_of(Demanding), {})
    with pytest.raises(SettingsError) as raised:
        load_settings(Demanding, line, {})
    assert str(raised.value) == "policy: inner.name: not set; allowed: text, length at least 2"
    assert "must be set" in settings_table(Demanding)


def test_the_message_has_one_line_for_each_fault():
    with pytest.raises(SettingsError) as raised:
        load("--server.port", "-1", "--store.level=middle")
    assert str(raised.value).splitlines() == [
        "policy: server.port: given '-1' (flag --server.port); "
        "allowed: integer, at least 0, at most 65535",
        "policy: store.level: given 'middle' (flag --store.level); allowed: one of low, high",
    ]


@pytest.mark.parametrize(
    ("arguments", "name", "given"),
    [
        (["--server.port"], "server.port", "given without a value (flag --server.port)"),
        (["--config"], "--config", "given without a value"),
        (["--config="], "--config", "given without a value"),
        (["--config", "/no/file"], "--config", "can't read /no/file: No such file or directory"),
        (["--store.weights", "{"], "store.weights", "given no valid JSON (flag --store.weights)"),
        (["--server", "{}"], "server", "unknown setting (flag --server)"),
        (["--store.most", "0"], "store.most", "given '0' (flag --store.most)"),
        (["--server.drain_s", "nan"], "server.drain_s", "given 'nan' (flag --server.drain_s)"),
    ],
)
def test_each_kind_of_fault_is_named(arguments, name, given):
    assert faults_of(*arguments)[name].given == given


@pytest.mark.parametrize("toml", ["[policy\n", "policy = 3", "[[policy]]\nx = 1"])
def test_a_file_of_the_wrong_form_is_a_fault(toml, tmp_path):
    assert faults_of(toml=toml, tmp_path=tmp_path)


def test_a_file_that_is_not_utf8_is_a_fault(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xff")
    assert faults_of("--config", str(tmp_path / "c.toml"))


def test_a_rule_between_settings_speaks_for_itself():
    faults = faults_of("--server.strict", "--store.mode", "fast")
    assert faults["settings"].allowed == "server.strict needs store.mode safe"


def test_no_fault_shows_a_secret_or_an_unknown_value():
    env = {"CARAVAN_POLICY__STORE__UNKNOWN": "hunter2"}
    with pytest.raises(SettingsError) as raised:
        load("--store.uri=hunter2", "hunter2", "--server.port", "x", env=env)
    assert "hunter2" not in str(raised.value)


def test_variables_of_other_services_and_of_orchestrators_are_not_ours():
    env = {"CARAVAN_GATEWAY__X": "1", "CARAVAN_POLICY_PORT": "tcp://10.0.0.1:1", "HOME": "/"}
    assert load(env=env) == Example()


def test_printed_toml_gives_the_same_settings_again(tmp_path):
    settings = load(
        *["--server.peers", 'a"b,ü', "--store.weights", '{"x y": 2}', "--store.most", "none"],
        *["--server.strict", "--home", "/some where"],
    )
    text = as_toml(settings)
    again = load(toml=text, tmp_path=tmp_path)
    assert again.model_copy(update={"store": settings.store}) == settings
    assert again.store.weights == {"x y": 2}


def test_printed_settings_mask_secrets():
    settings = load("--store.url", "postgresql://user:hunter2@host/db")
    assert "hunter2" not in as_toml(settings) + as_json(settings) + repr(settings)
    assert json.loads(as_json(settings))["store"]["url"] == "**********"


def test_the_table_names_every_setting_with_bounds_default_and_meaning():
    table = settings_table(Example)
    row = (
        "| `server.port` (`PORT`, `CARAVAN_PORT`, `--port`, `-p`) | integer, at least 0, "
        "at most 65535 | `50053` | Port; 0 takes a free one. |"
    )
    assert row in table.splitlines()
    assert "| `server.strict` (`--lenient`, `LENIENT`) |" in table
    assert "| `store.url` | secret text | (secret) | Database. |" in table
    assert "| `store.most` | integer, more than 0, or none | none |" in table
    assert "| `store.path` | path, or none | none |" in table
    assert "| `home` (`CARAVAN_HOME`) |" in table
    assert "[policy]" in help_text(Example)


def test_settings_are_frozen_and_must_describe_themselves():
    with pytest.raises(ValueError, match="frozen"):
        load().server.port = 1
    with pytest.raises(TypeError, match="port needs a description"):

        class _Bare(Section):
            port: int = 1


@pytest.mark.parametrize(
    ("flag", "action"),
    [
        ("--print-config", "print-toml"),
        ("--print-config=json", "print-json"),
        ("--help-settings", "help-settings"),
        ("-h", "help"),
    ],
)
def test_actions_are_recognised(flag, action):
    assert parse_command_line([flag], {}, {}, {}).action == action
