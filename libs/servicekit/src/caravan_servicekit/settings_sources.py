"""Where settings come from: the TOML file, the environment, the command line.

Each source gives assignments to known settings, and a fault for everything else: nothing that a
user wrote for this service is dropped silently.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from caravan_servicekit.settings_faults import SettingsFault, unknown_setting
from caravan_servicekit.settings_fields import FieldPath, Setting

SERVICES = ("gateway", "engine", "policy", "telemetry")
"""The tables that one shared TOML file may have."""

Action = Literal["run", "print-toml", "print-json", "help-settings", "help"]
Settings = Mapping[FieldPath, Setting]

_ACTIONS: Mapping[str, Action] = {
    "--print-config": "print-toml",
    "--print-config=toml": "print-toml",
    "--print-config=json": "print-json",
    "--help-settings": "help-settings",
    "--help": "help",
    "-h": "help",
}
_SHARED: tuple[FieldPath, ...] = (("home",),)
_OPPOSITES = {"true": "false", "1": "0", "yes": "no", "on": "off"}
_OPPOSITES |= {no: yes for yes, no in _OPPOSITES.items()}


@dataclass(frozen=True, slots=True)
class Assignment:
    """A value for one setting, not validated yet, and who gave it."""

    path: FieldPath
    value: object
    origin: str


class Findings:
    """What one source says: its assignments in order, and what is wrong with the rest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.assignments: list[Assignment] = []
        self.faults: list[SettingsFault] = []

    def take_text(
        self, dotted: str, text: str | None, origin: str, *, negated: bool = False
    ) -> None:
        """Takes a value from a flag or the environment; None where a value is missing.

        `negated` says that the name it was given by means the opposite of the setting.
        """
        setting = self._setting(tuple(dotted.split(".")), origin)
        if setting is None:
            return
        if text is None:
            self.faults.append(
                SettingsFault(dotted, f"given without a value ({origin})", setting.allowed)
            )
            return
        if negated:  # any other word is left for pydantic to refuse
            text = _OPPOSITES.get(text.strip().lower(), text)
        try:
            self.assignments.append(Assignment(setting.path, setting.parse(text), origin))
        except ValueError:
            fault = SettingsFault(dotted, f"given no valid JSON ({origin})", setting.allowed)
            self.faults.append(fault)

    def take_value(self, path: FieldPath, value: object, origin: str) -> None:
        """Takes a typed value from a file; "none" stands for what TOML can't express."""
        setting = self._setting(path, origin)
        if setting is not None:
            is_none = value == "none" and setting.parse("none") is None
            self.assignments.append(Assignment(path, None if is_none else value, origin))

    def _setting(self, path: FieldPath, origin: str) -> Setting | None:
        setting = self._settings.get(path)
        if setting is None:
            known = [setting.dotted for setting in self._settings.values()]
            self.faults.append(unknown_setting(".".join(path), origin, known))
        return setting


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the arguments of a service say."""

    action: Action
    config_path: Path | None
    findings: Findings


def parse_command_line(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    settings: Settings,
    aliases: Mapping[str, str],
) -> CommandLine:
    """Reads flags: `--section.field VALUE` or `=VALUE`, aliases, `--config PATH`, the actions."""
    action: Action = "run"
    config = environment.get("CARAVAN_CONFIG") or None
    findings = Findings(settings)
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument in _ACTIONS:
            action = _ACTIONS[argument]
        elif not _is_flag(argument, aliases):  # not shown: it may be a secret
            number = len(arguments) - len(remaining)
            fault = SettingsFault(f"argument {number}", "not a flag", "--section.field VALUE")
            findings.faults.append(fault)
        elif argument.partition("=")[0] == "--config":
            config = _value_of(argument, remaining, aliases)
            if not config:
                fault = SettingsFault("--config", "given without a value", "path of a TOML file")
                findings.faults.append(fault)
        else:
            _take_flag(argument, remaining, settings, aliases, findings)
    return CommandLine(action, Path(config) if config else None, findings)


def read_environment(
    environment: Mapping[str, str],
    service: str,
    aliases: Mapping[str, str],
    settings: Settings,
) -> Findings:
    """Reads the aliases, then `CARAVAN_<SERVICE>__SECTION__FIELD`."""
    findings = Findings(settings)
    prefix = f"CARAVAN_{service.upper()}__"
    names = [name for name in aliases if name in environment]
    names += sorted(name for name in environment if name.startswith(prefix))
    for name in names:
        target = aliases.get(name) or name.removeprefix(prefix).lower().replace("__", ".")
        findings.take_text(
            target.removeprefix("!"),
            environment[name],
            f"environment {name}",
            negated=target.startswith("!"),
        )
    return findings


def read_file(path: Path | None, service: str, settings: Settings) -> Findings:
    """Reads the shared top level and the table of `service`; other services' tables are theirs."""
    findings = Findings(settings)
    if path is None:
        return findings
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        fault = SettingsFault("--config", f"can't read {path}: {error.strerror}", "a TOML file")
        findings.faults.append(fault)
    except ValueError as error:  # also what isn't UTF-8
        findings.faults.append(SettingsFault("--config", f"{path}: {error}", "a TOML file"))
    else:
        _take_document(document, f"file {path}", service, settings, findings)
    return findings


def _take_document(
    document: Mapping[str, Any],
    origin: str,
    service: str,
    settings: Settings,
    findings: Findings,
) -> None:
    shared = {key: value for key, value in document.items() if key not in SERVICES}
    for path, value in _leaves(shared, settings):
        if path in _SHARED:
            findings.take_value(path, value, origin)
        else:
            known = [*SERVICES, *(".".join(path) for path in _SHARED)]
            findings.faults.append(unknown_setting(".".join(path), origin, known))
    table = document.get(service, {})
    if not isinstance(table, dict):
        findings.faults.append(SettingsFault(service, f"given a value ({origin})", "a table"))
        return
    for path, value in _leaves(table, settings):
        findings.take_value(path, value, origin)


def _leaves(
    table: Mapping[str, Any], settings: Settings, prefix: FieldPath = ()
) -> Iterator[tuple[FieldPath, Any]]:
    """Yields the values of a TOML table; a table that is itself a setting's value stays whole."""
    for key, value in table.items():
        path = (*prefix, key)
        if isinstance(value, dict) and path not in settings:
            yield from _leaves(value, settings, path)
        else:
            yield path, value


def _take_flag(
    argument: str,
    remaining: list[str],
    settings: Settings,
    aliases: Mapping[str, str],
    findings: Findings,
) -> None:
    flag = argument.partition("=")[0]
    target = aliases.get(flag, "")
    dotted = target.removeprefix("!") or flag.removeprefix("--").replace("-", "_")
    setting = settings.get(tuple(dotted.split(".")))
    if setting is not None and setting.is_switch and _stands_alone(argument, remaining):
        value: str | None = "true"
    else:
        value = _value_of(argument, remaining, aliases)
    findings.take_text(dotted, value, f"flag {flag}", negated=target.startswith("!"))


def _is_flag(argument: str, aliases: Mapping[str, str]) -> bool:
    """Whether it names something; with a single dash only what is an alias does."""
    return argument.startswith("--") or (
        argument.startswith("-") and argument.partition("=")[0] in aliases
    )


def _value_of(argument: str, remaining: list[str], aliases: Mapping[str, str]) -> str | None:
    """Takes the value of a flag off the front of what remains; None where there is none."""
    _, equals, value = argument.partition("=")
    if equals:
        return value
    return None if not remaining or _is_flag(remaining[0], aliases) else remaining.pop(0)


def _stands_alone(argument: str, remaining: Sequence[str]) -> bool:
    words = ("true", "false", "1", "0", "yes", "no", "on", "off")
    return "=" not in argument and (not remaining or remaining[0].lower() not in words)
