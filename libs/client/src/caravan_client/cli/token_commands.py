"""`caravan embed`, `caravan tokenize` and `caravan detokenize`."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from caravan_client.cli.completion import complete_model
from caravan_client.cli.input_text import read_text
from caravan_client.cli.json_text import to_json
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import open_session

MOST_INPUTS = 256

_Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", autocompletion=complete_model)
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(embed)
    app.command()(tokenize)
    app.command()(detokenize)


@grouped
def embed(
    context: typer.Context,
    connection: ConnectionOptions,
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT]...", help="What to embed; without any, each line of stdin."),
    ] = None,
    model: _Model = "bundled",
) -> None:
    """Turn texts into vectors: one JSON array a line, in the order of the texts.

    caravan embed "a caravan of camels" "a train of camels"
    """
    texts = iter(text) if text else _lines()
    with (
        open_session(context, connection) as session,
        session.output.counting("embedding", len(text) if text else None) as done,
    ):
        while batch := list(islice(texts, MOST_INPUTS)):
            with session.output.working(f"embedding {len(batch)} texts"):
                result = session.client.embed(batch, model=model)
            done(len(batch))
            if session.output.as_json:
                session.output.document(result)
                continue
            for one in result.embeddings:
                session.output.line(to_json(one.values))


@grouped
def tokenize(
    context: typer.Context,
    connection: ConnectionOptions,
    text: Annotated[
        str | None,
        typer.Argument(metavar="[TEXT]", help="`-`, or nothing with a pipe, reads stdin."),
    ] = None,
    model: _Model = "bundled",
    chat: Annotated[
        bool, typer.Option("--chat", help="As a user's message in the model's chat template.")
    ] = False,
) -> None:
    """Split a text into the model's tokens, and print their ids.

    caravan tokenize "Once upon a time"
    """
    from caravan_client.generation import Message

    given = read_text(text)
    if given is None:
        raise typer.BadParameter("give a text, or pipe one in", param_hint="TEXT")
    with open_session(context, connection) as session:
        ids = session.client.tokenize([Message.user(given)] if chat else given, model=model)
        if session.output.as_json:
            session.output.document({"ids": ids})
        else:
            session.output.line(" ".join(map(str, ids)))


@grouped
def detokenize(
    context: typer.Context,
    connection: ConnectionOptions,
    ids: Annotated[
        list[int] | None,
        typer.Argument(metavar="[ID]...", help="Token ids; without any, those in stdin."),
    ] = None,
    model: _Model = "bundled",
) -> None:
    """Write tokens out as text.

    caravan tokenize "Once upon a time" | caravan detokenize
    """
    given = ids or [_id(word) for line in _lines() for word in line.split()]
    with open_session(context, connection) as session:
        text = session.client.detokenize(given, model=model)
        if session.output.as_json:
            session.output.document({"text": text})
            return
        session.output.text(text)
        session.output.end_line()


def _id(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise typer.BadParameter(f"{word[:40]!r} is no token id", param_hint="ID") from None


def _lines() -> Iterator[str]:
    """Lines of stdin as they come, without their breaks."""
    if sys.stdin is None or sys.stdin.isatty():
        raise typer.BadParameter("give something, or pipe it in", param_hint="TEXT")
    for line in sys.stdin.buffer:
        try:
            yield line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise typer.BadParameter("what stdin holds is not UTF-8", param_hint="TEXT") from None
