"""`caravan chat` and `caravan generate`."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.input_text import read_text
from caravan_client.cli.options import (
    ConnectionOptions,
    GenerationFlags,
    SamplingFlags,
    generate_options,
)
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.sampler_options import SamplerFlags
from caravan_client.cli.session import Session, open_session

if TYPE_CHECKING:
    from caravan_client.generation import GenerateOptions, Message

_TextArgument = Annotated[
    str | None,
    typer.Argument(metavar="[TEXT]", help="`-`, or nothing with a pipe, reads stdin."),
]


@dataclass(frozen=True, slots=True)
class ConversationFlags:
    """What only `caravan chat` takes."""

    system: Annotated[
        str | None,
        typer.Option("--system", "-s", metavar="TEXT", help="Instructions to the model."),
    ] = None
    history: Annotated[
        bool,
        typer.Option(
            "--history/--no-history",
            help="Keep what is typed in a conversation for the next one.",
            rich_help_panel="Output",
        ),
    ] = True


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
    samplers: SamplerFlags,
    conversation: ConversationFlags,
    text: _TextArgument = None,
) -> None:
    """Ask a model, or talk with it when no text is given at a terminal.

    caravan chat "What is Caravan?"
    """
    from caravan_client.generation import Message

    options = generate_options(flags, sampling, samplers)
    message = read_text(text)
    if message is None:
        with open_session(context, connection) as session:
            _converse(session, options, conversation, stats=flags.stats)
        return
    turns = [] if conversation.system is None else [Message.system(conversation.system)]
    turns.append(Message.user(message.removesuffix("\n")))
    with open_session(context, connection) as session:
        _refuse_unseen_logprobs(session, flags)
        _answer(session, turns, options, flags)


@grouped
def generate(
    context: typer.Context,
    connection: ConnectionOptions,
    flags: GenerationFlags,
    sampling: SamplingFlags,
    samplers: SamplerFlags,
    text: _TextArgument = None,
) -> None:
    """Continue a text, which is taken as it is, stdin to its last line break.

    caravan generate "Once upon a time"
    """
    options = generate_options(flags, sampling, samplers)
    prompt = read_text(text)
    if prompt is None:
        raise typer.BadParameter("give a text, or pipe one in", param_hint="TEXT")
    with open_session(context, connection) as session:
        _refuse_unseen_logprobs(session, flags)
        _answer(session, prompt, options, flags)


def _answer(
    session: Session,
    prompt: "str | list[Message]",
    options: "GenerateOptions",
    flags: GenerationFlags,
) -> None:
    from caravan_client.cli.answering import Stopwatch, print_stream, print_whole

    client, output = session.client, session.output
    if flags.stream and (output.as_json or (flags.choices or 1) == 1):
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


def _refuse_unseen_logprobs(session: Session, flags: GenerationFlags) -> None:
    if flags.logprobs is not None and not session.output.as_json:
        raise typer.BadParameter("they are printed with --json only", param_hint="--logprobs")


def _converse(
    session: Session,
    options: "GenerateOptions",
    flags: ConversationFlags,
    *,
    stats: bool,
) -> None:
    if session.output.as_json:
        raise typer.BadParameter("--json needs a text", param_hint="TEXT")
    if options.get("num_choices", 1) > 1:
        raise typer.BadParameter("--choices needs a text", param_hint="TEXT")
    from caravan_client.cli.chat_history import ChatHistory, history_path
    from caravan_client.cli.conversation import Conversation
    from caravan_client.cli.line_editor import open_editor

    options.setdefault("session_id", f"chat-{uuid.uuid4().hex}")
    conversation = Conversation(session, options, flags.system, stats=stats)
    kept = ChatHistory(history_path()) if flags.history else None
    conversation.run(open_editor(kept, conversation.complete))
