"""What the fields of a settings tree are, in words and for parsing text."""

import enum
import json
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

FieldPath = tuple[str, ...]

_NONE_WORDS = ("", "none")
_TYPE_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "secret text",
    SecretBytes: "secret text",
    dict: "table",
}
_BOUND_WORDS = {
    "gt": "more than {}",
    "ge": "at least {}",
    "lt": "less than {}",
    "le": "at most {}",
    "multiple_of": "a multiple of {}",
    "min_length": "length at least {}",
    "max_length": "length at most {}",
    "pattern": "matching {}",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of a settings tree."""

    path: FieldPath
    field: FieldInfo
    default: object
    """`PydanticUndefined` where it must be set."""

    @property
    def dotted(self) -> str:
        """Its name as users write it in flags and faults: `server.port`."""
        return ".".join(self.path)

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is PydanticUndefined

    @property
    def is_secret(self) -> bool:
        """Whether its value must not be shown."""
        return _mentions(self.field.annotation, (SecretStr, SecretBytes))

    @property
    def is_switch(self) -> bool:
        """Whether a flag without a value means true."""
        return self.field.annotation is bool

    @property
    def allowed(self) -> str:
        """Its type and bounds in words."""
        return _describe(self.field.annotation, _bounds(self.field.metadata))

    def parse(self, text: str) -> object:
        """Turns text from a flag or the environment into what pydantic can validate.

        Raises:
            ValueError: what should be JSON isn't.
        """
        if text.strip().lower() in _NONE_WORDS and _allows_none(self.field.annotation):
            return None
        if text.lstrip().startswith(("[", "{")) and self._is_compound:
            loaded: object = json.loads(text)
            return loaded
        if self._is_list:
            return [part.strip() for part in text.split(",") if part.strip()]
        return text

    @property
    def _is_list(self) -> bool:
        return any(_is_collection(part) for part in _alternatives(self.field.annotation))

    @property
    def _is_compound(self) -> bool:
        return self._is_list or any(
            typing.get_origin(part) is dict or part is dict or _is_model(part)
            for part in _alternatives(self.field.annotation)
        )


def settings_of(
    model: type[BaseModel], prefix: FieldPath = (), instance: BaseModel | None = None
) -> dict[FieldPath, Setting]:
    """Returns the leaves of a tree in the order of their declaration.

    A section's own default (`server: Server = Field(Server(port=1))`) gives the defaults of its
    leaves; `instance` is that default while the walk is inside the section.
    """
    found: dict[FieldPath, Setting] = {}
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        default = getattr(instance, name) if instance is not None else _default(field)
        if _is_model(field.annotation):
            section = default if isinstance(default, BaseModel) else None
            found |= settings_of(typing.cast("type[BaseModel]", field.annotation), path, section)
        else:
            found[path] = Setting(path, field, default)
    return found


def _default(field: FieldInfo) -> object:
    return field.get_default(call_default_factory=True, validated_data={})


def _describe(annotation: object, bounds: Collection[str] = ()) -> str:
    parts = [part for part in _alternatives(annotation) if part is not types.NoneType]
    words = ", ".join([" or ".join(dict.fromkeys(map(_describe_one, parts))), *bounds])
    return f"{words}, or none" if _allows_none(annotation) else words


def _describe_one(annotation: object) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _describe(arguments[0], _bounds(arguments[1:]))
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    if _is_collection(annotation):
        members = [argument for argument in arguments if argument is not Ellipsis]
        return "list of " + (_describe(members[0]) if members else "values")
    plain = origin or annotation
    return _TYPE_WORDS.get(plain, getattr(plain, "__name__", str(plain)))


def _bounds(metadata: Collection[Any]) -> list[str]:
    """Words for the constraints of annotated-types and pydantic, known by their attributes."""
    words = []
    for constraint in metadata:
        inner = _bounds(getattr(constraint, "metadata", ()))  # a Field() inside Annotated
        own = [
            template.format(value)
            for attribute, template in _BOUND_WORDS.items()
            if (value := getattr(constraint, attribute, None)) is not None
        ]
        words += own or inner
    return words


def _alternatives(annotation: object) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _allows_none(annotation: object) -> bool:
    return types.NoneType in _alternatives(annotation)


def _is_collection(annotation: object) -> bool:
    return (typing.get_origin(annotation) or annotation) in (list, tuple, set, frozenset)


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _mentions(annotation: object, wanted: tuple[type, ...]) -> bool:
    if annotation in wanted:
        return True
    return any(_mentions(argument, wanted) for argument in typing.get_args(annotation))
