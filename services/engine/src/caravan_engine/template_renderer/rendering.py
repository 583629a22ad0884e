"""Renders one chat template in Jinja2's sandbox, up to a size.

The sandbox stops attribute escapes and range bombs; it does not stop loops or memory. The process
around it does: see `__main__`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = Mapping[str, str]


class TemplateRefusedError(Exception):
    """The template called `raise_exception`; holds its words."""


class OutputTooLongError(Exception):
    """The template wrote more than allowed."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: the template, as the model's file has it.
        variables: what it may use beside the messages, such as `bos_token`.
        output_limit: most characters that one rendering may have.

    Raises:
        TemplateError: the source is not a template.
    """

    def __init__(self, source: str, variables: Mapping[str, str], output_limit: int) -> None:
        self._template = _environment().from_string(source)
        self._variables = dict(variables)
        self._output_limit = output_limit

    def render(self, messages: Sequence[Message]) -> str:
        """Returns the prompt for `messages`, up to where the assistant begins to speak.

        Raises:
            TemplateRefusedError: the template refuses these messages.
            OutputTooLongError: the prompt is over the limit.
            TemplateError: the template is wrong, or the sandbox stopped it.
        """
        pieces: list[str] = []
        room = self._output_limit
        context = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": True,
            # Templates test these with `is not none`, which an undefined name passes.
            "tools": None,
            "documents": None,
            **self._variables,
        }
        for piece in self._template.generate(context):
            room -= len(piece)
            if room < 0:
                raise OutputTooLongError
            pieces.append(piece)
        return "".join(pieces)


class _GenerationMarks(Extension):
    """Accepts `{% generation %}...{% endgeneration %}`, marks for training that change nothing."""

    tags = {"generation"}  # noqa: RUF012 (declared so by the base class)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Returns what is between the tags, unchanged."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that model authors write templates for, blanks and functions included."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols", _GenerationMarks],
    )
    environment.filters["tojson"] = _to_json
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _refuse,
        "strftime_now": _now,
    }
    environment.globals.update(functions)
    return environment


def _refuse(message: object) -> NoReturn:
    raise TemplateRefusedError(str(message))


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    """Like `json.dumps`: Jinja's own filter escapes for HTML, which would reach the model."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


__all__ = ["ChatTemplate", "OutputTooLongError", "TemplateError", "TemplateRefusedError"]
