"""`caravan chat` without a message: a conversation at the terminal.

Ctrl-C ends an answer, not the program; what was said of it stays in the conversation.
"""

import contextlib
import sys

from caravan_client.cli.answering import print_stream
from caravan_client.cli.failures import report_error
from caravan_client.cli.session import Session
from caravan_client.errors import CaravanError
from caravan_client.generation import GenerateOptions, Message

_PROMPT = "> "
_HELP = "/clear begins anew, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


class Conversation:
    """The turns so far, and the loop that adds to them."""

    def __init__(
        self, session: Session, options: GenerateOptions, system: str | None, *, stats: bool
    ) -> None:
        self._session = session
        self._options = options
        self._beginning = [] if system is None else [Message.system(system)]
        self._turns = list(self._beginning)
        self._stats = stats

    def run(self) -> None:
        """Asks and answers until the person leaves."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 (gives `input` line editing)
        self._session.output.hint(f"{self._options['model']}: {_HELP}")
        while True:
            try:
                text = self._ask()
                if text in (None, "/exit", "/quit"):
                    return
                self._obey_or_answer(text)
            except KeyboardInterrupt:
                self._session.output.hint("(/exit or Ctrl-D leaves)")

    def _ask(self) -> str | None:
        """One line from the person, or None at the end."""
        if not sys.stdout.isatty():
            sys.stderr.write(_PROMPT)
            sys.stderr.flush()
        try:
            return input(_PROMPT if sys.stdout.isatty() else "").strip()
        except EOFError:
            self._session.output.hint("")
            return None
        except KeyboardInterrupt:
            self._session.output.hint("")
            raise

    def _obey_or_answer(self, text: str) -> None:
        match text:
            case "":
                pass
            case "/clear":
                self._turns = list(self._beginning)
                self._session.output.hint("(begun anew)")
            case "/help":
                self._session.output.hint(_HELP)
            case _:
                self._answer(Message.user(text))

    def _answer(self, question: Message) -> None:
        """Prints the answer; a question that got none is not part of the conversation."""
        client, output = self._session.client, self._session.output
        try:
            with client.stream_chat([*self._turns, question], **self._options) as stream:
                try:
                    print_stream(stream, output, stats=self._stats)
                finally:
                    if stream.text_so_far:
                        self._turns += [question, Message.assistant(stream.text_so_far)]
        except KeyboardInterrupt:
            output.hint("(stopped)")
        except CaravanError as error:
            report_error(error, as_json=False)
