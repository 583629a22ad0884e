"""The settings tree of a service: how it is declared, and how it is loaded.

Where values come from is in `settings_sources`; how they are shown is in `settings_report`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from caravan_servicekit.settings_faults import SettingsError, SettingsFault, validation_faults
from caravan_servicekit.settings_fields import FieldPath, Setting, settings_of
from caravan_servicekit.settings_sources import (
    Assignment,
    CommandLine,
    read_environment,
    read_file,
)


class Section(BaseModel):
    """A frozen group of settings; every field carries a description with its unit.

    Raises:
        TypeError: when a subclass is declared with a field that has no description.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Holds every declaration to its duty to explain itself."""
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"{cls.__name__}.{name} needs a description")


class ServiceSettings(Section):
    """The root of one service's settings; subclasses set `service` and add their sections.

    `aliases` gives further names, environment variables or flags, to single settings:
    `{"CARAVAN_MODEL": "model.path", "--model": "model.path", "-m": "model.path"}`. The long name
    wins over its alias, and of two variables the one declared later. A target behind an exclamation
    mark is a switch turned round: `{"--no-cache": "!cache.enabled"}`.
    """

    service: ClassVar[str]
    aliases: ClassVar[Mapping[str, str]] = {}

    home: Path = Field(
        default=Path(".caravan"),
        description="Data directory that all services share (`CARAVAN_HOME`).",
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @classmethod
    def all_aliases(cls) -> dict[str, str]:
        """Returns this service's aliases and those that every service has."""
        return {"CARAVAN_HOME": "home", **cls.aliases}


S = TypeVar("S", bound=ServiceSettings)


def load_settings(
    settings_type: type[S], command_line: CommandLine, environment: Mapping[str, str]
) -> S:
    """Returns the tree: defaults < TOML file < environment < flags.

    Raises:
        SettingsError: naming every fault of every source.
    """
    settings = settings_of(settings_type)
    aliases = settings_type.all_aliases()
    sources = (
        read_file(command_line.config_path, settings_type.service, settings),
        read_environment(environment, settings_type.service, aliases, settings),
        command_line.findings,
    )
    assignments = [assignment for source in sources for assignment in source.assignments]
    faults = [fault for source in sources for fault in source.faults]
    return _validated(settings_type, assignments, faults)


def _validated(
    settings_type: type[S], assignments: Sequence[Assignment], faults: list[SettingsFault]
) -> S:
    settings = settings_of(settings_type)
    defaults = [
        Assignment(path, setting.default, "default")
        for path, setting in settings.items()
        if not setting.is_required
    ]
    origins = {assignment.path: assignment.origin for assignment in (*defaults, *assignments)}
    try:
        tree = settings_type.model_validate(_nested([*defaults, *assignments], settings))
    except ValidationError as error:
        faults += validation_faults(error, settings, origins)
    else:
        if not faults:
            return tree
    raise SettingsError(settings_type.service, faults)


def _nested(
    assignments: Iterable[Assignment], settings: Mapping[FieldPath, Setting]
) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in settings:
        _branch(tree, path)
    for assignment in assignments:
        _branch(tree, assignment.path)[assignment.path[-1]] = assignment.value
    return tree


def _branch(tree: dict[str, Any], path: FieldPath) -> dict[str, Any]:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    return tree
