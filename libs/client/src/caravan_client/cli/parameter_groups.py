"""Lets several commands share a group of options: a dataclass whose fields are typer parameters.

The obvious way, each option repeated in each command's signature, gives functions of 25 parameters
that drift apart.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces each parameter of `command` whose type is a dataclass by that class's fields.

    The fields need distinct names over all groups of a command, and defaults.
    """
    hints = get_type_hints(command, include_extras=True)
    names = list(inspect.signature(command).parameters)
    groups = {name: hints[name] for name in names if is_dataclass(hints[name])}
    parameters = list(_flat(inspect.signature(command), hints, groups))

    @functools.wraps(command)
    def flat(**values: Any) -> None:  # noqa: ANN401 (whatever typer has parsed)
        for name, group in groups.items():
            values[name] = group(**{entry.name: values.pop(entry.name) for entry in fields(group)})
        command(**values)

    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    flat.__dict__["__signature__"] = inspect.Signature(parameters)
    return flat


def _flat(
    signature: inspect.Signature, hints: dict[str, Any], groups: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    for name, parameter in signature.parameters.items():
        if name not in groups:
            yield parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        annotations = get_type_hints(groups[name], include_extras=True)
        for entry in fields(groups[name]):
            yield inspect.Parameter(
                entry.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(entry),
                annotation=annotations[entry.name],
            )


def _default(entry: "Field[Any]") -> object:
    if entry.default is MISSING:
        raise TypeError(f"option group field {entry.name} needs a default")
    return entry.default
