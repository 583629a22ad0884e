"""Shows a settings tree: as TOML that can be loaded again, as JSON, as a markdown table."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from caravan_servicekit.settings import ServiceSettings
from caravan_servicekit.settings_fields import Setting, settings_of


def masked(settings: ServiceSettings) -> dict[str, Any]:
    """Returns the tree as plain values, with asterisks for secrets."""
    return settings.model_dump(mode="json")


def as_json(settings: ServiceSettings) -> str:
    """Returns the tree as indented JSON, secrets masked."""
    return json.dumps(masked(settings), indent=2, ensure_ascii=False)


def as_toml(settings: ServiceSettings) -> str:
    """Returns the tree as a TOML file that gives the same settings again, but for secrets."""
    tree = masked(settings)
    leaves = settings_of(type(settings))
    lines = [f"home = {_toml_value(tree['home'])}"]
    table: tuple[str, ...] | None = None
    for path in sorted(leaves, key=lambda path: path[:-1]):
        if path == ("home",):
            continue
        if path[:-1] != table:
            table = path[:-1]
            lines += ["", f"[{'.'.join((settings.service, *table))}]"]
        lines.append(f"{path[-1]} = {_toml_value(_at(tree, path))}")
    return "\n".join(lines)


def settings_table(settings_type: type[ServiceSettings]) -> str:
    """Returns the markdown table of all settings that a README carries."""
    aliases = settings_type.all_aliases()
    rows = [
        (
            _names(setting.dotted, aliases),
            setting.allowed,
            _default_words(setting),
            setting.field.description or "",
        )
        for setting in settings_of(settings_type).values()
    ]
    return "\n".join(_markdown_rows([("setting", "allowed", "default", "meaning"), *rows]))


def help_text(settings_type: type[ServiceSettings]) -> str:
    """Returns what `--help` prints."""
    service = settings_type.service
    return (
        f"usage: python -m caravan_{service} [--config PATH] [--section.field VALUE ...]\n\n"
        f"Settings: defaults < TOML file (--config or CARAVAN_CONFIG, table [{service}])\n"
        f"< environment (CARAVAN_{service.upper()}__SECTION__FIELD) < flags.\n\n"
        "--print-config[=toml|json]  print the result, secrets masked, and exit\n"
        "--help-settings             print the table of all settings and exit"
    )


def _markdown_rows(rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    for index, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        if index == 0:
            yield "| " + " | ".join("---" for _ in row) + " |"


def _names(dotted: str, aliases: Mapping[str, str]) -> str:
    others = [_code(alias) for alias, target in aliases.items() if target in (dotted, f"!{dotted}")]
    return _code(dotted) + (f" ({', '.join(others)})" if others else "")


def _default_words(setting: Setting) -> str:
    default = setting.default
    if setting.is_required:
        return "must be set"
    if setting.is_secret and default is not None:
        return "(secret)"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return _code(str(default).lower())
    if isinstance(default, (tuple, list, frozenset, set)):
        return _code(", ".join(str(item) for item in default)) if default else "empty"
    return _code(str(getattr(default, "value", default))) if default != "" else "empty"


def _code(text: str) -> str:
    return f"`{text}`"


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> object:
    value: Any = tree
    for name in path:
        value = value[name]
    return value


def _toml_value(value: object) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        pairs = (f"{_toml_value(key)} = {_toml_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value)
