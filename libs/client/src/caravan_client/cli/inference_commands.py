"""`caravan chat` and `caravan generate`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.options import (
    ConnectionOptions,
    GenerationFlags,
    SamplingFlags,
    generate_options,
)
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import Session, open_session

if TYPE_CHECKING:
    from caravan_client.generation import GenerateOptions, Message

_TextArgument = Annotated[
    str | None,
    typer.Argument(metavar="[TEXT]", help="`-`, or nothing with a pipe, reads stdin."),
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(chat)
    app.command()(generate)


@grouped
def chat(
    context: typer.Context,
    connection: ConnectionOptions,
    flags: GenerationFlags,
    sampling: SamplingFlags,
    text: _TextArgument = None,
    system: Annotated[
        str | None,
        typer.Option("--system", "-s", metavar="TEXT", help="Instructions to the model."),
    ] = None,
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            help="Keep what is typed in a conversation for the next one.",
            rich_help_panel="Output",
        ),
    ] = True,
) -> None:
    """Ask a model, or talk with it when no text is given at a terminal.

    caravan chat "What is Caravan?"
    """
    from caravan_client.generation import Message

    options = generate_options(flags, sampling)
    message = _read_text(text)
    if message is None:
        with open_session(context, connection) as session:
            _converse(session, options, system, stats=flags.stats, history=history)
        return
    turns = [] if system is None else [Message.system(system)]
    turns.append(Message.user(message.removesuffix("\n")))
    with open_session(context, connection) as session:
        _answer(session, turns, options, flags)


@grouped
def generate(
    context: typer.Context,
    connection: ConnectionOptions,
    flags: GenerationFlags,
    sampling: SamplingFlags,
    text: _TextArgument = None,
) -> None:
    """Continue a text, which is taken as it is, stdin to its last line break.

    caravan generate "Once upon a time"
    """
    options = generate_options(flags, sampling)
    prompt = _read_text(text)
    if prompt is None:
        raise typer.BadParameter("give a text, or pipe one in", param_hint="TEXT")
    with open_session(context, connection) as session:
        _answer(session, prompt, options, flags)


def _answer(
    session: Session,
    prompt: "str | list[Message]",
    options: "GenerateOptions",
    flags: GenerationFlags,
) -> None:
    from caravan_client.cli.answering import Stopwatch, print_stream, print_whole

    client, output = session.client, session.output
    if flags.stream:
        if isinstance(prompt, str):
            stream = client.stream(prompt, **options)
        else:
            stream = client.stream_chat(prompt, **options)
        print_stream(stream, output, stats=flags.stats)
        return
    watch = Stopwatch()
    with output.waiting("…"):
        if isinstance(prompt, str):
            generation = client.generate(prompt, **options)
        else:
            generation = client.chat(prompt, **options)
    print_whole(generation, watch, output, stats=flags.stats)


def _converse(
    session: Session,
    options: "GenerateOptions",
    system: str | None,
    *,
    stats: bool,
    history: bool,
) -> None:
    if session.output.as_json:
        raise typer.BadParameter("--json needs a text", param_hint="TEXT")
    from caravan_client.cli.chat_history import ChatHistory, history_path
    from caravan_client.cli.conversation import Conversation
    from caravan_client.cli.line_editor import open_editor

    conversation = Conversation(session, options, system, stats=stats)
    kept = ChatHistory(history_path()) if history else None
    conversation.run(open_editor(kept, conversation.complete))


def _read_text(argument: str | None) -> str | None:
    """The text from the command line or stdin, or None when a person is to be asked."""
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return None
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise typer.BadParameter("what stdin holds is not UTF-8", param_hint="TEXT") from None
    if not text:
        raise typer.BadParameter("none given, and stdin is empty", param_hint="TEXT")
    return text
