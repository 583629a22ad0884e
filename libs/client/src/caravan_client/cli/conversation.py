"""`caravan chat` without a message: a conversation at the terminal.

Ctrl-C ends an answer, not the program; what was shown of it stays in the conversation.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from caravan_client.cli.answering import print_stream
from caravan_client.cli.chat_input import Command, message_of, parse_command
from caravan_client.cli.failures import report_error
from caravan_client.cli.session import Session
from caravan_client.errors import CaravanError
from caravan_client.generation import GenerateOptions, Message

HELP = (
    ("/help", "this"),
    ("/clear", "begins anew; the system prompt stays"),
    ("/system TEXT", "instructions to the model from here on; without TEXT none"),
    ("/model NAME", "goes on with another model; without NAME lists them"),
    ("/save FILE", "writes the conversation as Markdown, or as JSON to FILE.json"),
    ("/exit", "leaves, as Ctrl-D does"),
    ("Ctrl-C", "stops an answer; what was shown of it stays in the conversation"),
    ('\\ or """', "a backslash at the end of a line, or triple quotes around it all, "),
    ("", "make a message of several lines; so do Alt-Enter and pasting"),
)
COMMANDS = ("help", "clear", "system", "model", "save", "exit", "quit")

_TAKES_ARGUMENT = ("system", "model", "save")


class Editor(Protocol):
    """Where messages come from."""

    def read(self) -> str:
        """The next message, with its line breaks.

        Raises:
            EOFError: the person leaves.
            KeyboardInterrupt: the person has given up on this one.
        """
        ...


@dataclass(slots=True)
class Transcript:
    """What has been said, and under which instructions."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def with_question(self, question: Message) -> list[Message]:
        """What is sent to have `question` answered."""
        beginning = [] if self.system is None else [Message.system(self.system)]
        return [*beginning, *self.turns, question]

    def as_json(self, model: str) -> str:
        """The conversation for programs."""
        messages = [{"role": turn.role, "content": turn.content} for turn in self._all()]
        document = {"model": model, "messages": messages}
        return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

    def as_markdown(self) -> str:
        """The conversation for people."""
        return "\n\n".join(f"## {turn.role}\n\n{turn.content}" for turn in self._all()) + "\n"

    def _all(self) -> list[Message]:
        beginning = [] if self.system is None else [Message.system(self.system)]
        return [*beginning, *self.turns]


class Conversation:
    """The turns so far, and the loop that adds to them."""

    def __init__(
        self, session: Session, options: GenerateOptions, system: str | None, *, stats: bool
    ) -> None:
        self._session = session
        self._options = options
        self._transcript = Transcript(system)
        self._stats = stats
        self._leaving = False

    def run(self, editor: Editor) -> None:
        """Asks and answers until the person leaves."""
        self._hint(f"{self._options['model']}: /help shows what can be done, Ctrl-D leaves")
        while not self._leaving:
            try:
                self._take(editor.read())
            except EOFError:
                return
            except KeyboardInterrupt:
                self._hint("(/exit or Ctrl-D leaves)")

    def complete(self, typed: str) -> Iterable[str]:
        """Commands, and names of models, that begin with what was typed."""
        if typed.startswith("/model "):
            return [line for line in map("/model {}".format, self._models()) if _fits(line, typed)]
        spaced = [f"/{name} " if name in _TAKES_ARGUMENT else f"/{name}" for name in COMMANDS]
        return [line for line in spaced if typed and _fits(line, typed)]

    def _take(self, text: str) -> None:
        command = parse_command(text)
        if command is not None:
            self._obey(command)
        elif message := message_of(text):
            self._answer(Message.user(message))

    def _obey(self, command: Command) -> None:
        try:
            match command.name:
                case "help":
                    self._help()
                case "clear":
                    self._transcript.turns.clear()
                    self._hint("(begun anew)")
                case "system":
                    self._instruct(command.argument)
                case "model":
                    self._change_model(command.argument)
                case "save":
                    self._save(command.argument)
                case "exit" | "quit":
                    self._leaving = True
                case _:
                    self._hint(f"(no command /{command.name}; /help lists them)")
        except CaravanError as error:
            report_error(error, as_json=False)

    def _help(self) -> None:
        width = max(len(name) for name, _ in HELP)
        for name, meaning in HELP:
            self._session.output.aside(f"  {name:<{width}}  {meaning}")

    def _instruct(self, text: str) -> None:
        self._transcript.system = message_of(text) or None
        self._hint("(the system prompt is set)" if text else "(there is no system prompt)")

    def _change_model(self, name: str) -> None:
        if not name:
            models = ", ".join(self._models())
            self._hint(f"(the model is {self._options['model']}; there are: {models})")
            return
        found = self._session.client.models.get(name)
        self._options["model"] = found.name
        state = "" if found.state == "ready" else f", which is {found.state}"
        self._hint(f"(the model is {found.name}{state})")

    def _models(self) -> list[str]:
        try:
            return [model.name for model in self._session.client.models.list(timeout_s=1)]
        except CaravanError:
            return []

    def _save(self, name: str) -> None:
        if not name:
            self._hint("(give a file: /save FILE)")
            return
        path = Path(name).expanduser()
        as_json = path.suffix == ".json"
        model = self._options["model"]
        text = self._transcript.as_json(model) if as_json else self._transcript.as_markdown()
        try:
            with path.open("x", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            self._hint(f"(not saved: {path}: {error.strerror})")
        else:
            self._hint(f"(saved to {path})")

    def _answer(self, question: Message) -> None:
        """Prints the answer; a question that got none is not part of the conversation."""
        client, output = self._session.client, self._session.output
        messages = self._transcript.with_question(question)
        try:
            with client.stream_chat(messages, **self._options) as stream:
                try:
                    print_stream(stream, output, stats=self._stats)
                finally:
                    if stream.text_so_far:
                        answer = Message.assistant(stream.text_so_far)
                        self._transcript.turns += [question, answer]
        except KeyboardInterrupt:
            self._hint("(stopped)")
        except CaravanError as error:
            report_error(error, as_json=False)

    def _hint(self, text: str) -> None:
        self._session.output.hint(text)


def _fits(line: str, typed: str) -> bool:
    return line.startswith(typed) and line != typed
