"""Reads messages at the terminal with editing, history and several lines.

The only importer of prompt_toolkit, which takes a fifth of a second to load: nobody but a
conversation waits for it.
"""

import sys
from collections.abc import Callable, Iterable, Iterator

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import completion_is_selected, has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.output.vt100 import Vt100_Output

from caravan_client.cli.chat_history import ChatHistory
from caravan_client.cli.chat_input import is_complete

PROMPT = "> "
_CONTINUATION = "… "


def open_editor(
    history: ChatHistory | None, complete: Callable[[str], Iterable[str]]
) -> "PlainEditor | TerminalEditor":
    """The editor for this terminal.

    Args:
        history: where messages are kept; None keeps them for this conversation only.
        complete: what the Tab key offers in place of all that was typed.
    """
    if not (sys.stdout.isatty() or sys.stderr.isatty()):
        return PlainEditor()
    return TerminalEditor(history, complete)


class PlainEditor:
    """Lines as they come, for a person whose screen is elsewhere."""

    def read(self) -> str:
        """The next message; a backslash or triple quotes continue it as at a terminal."""
        text = ""
        while True:
            line = sys.stdin.readline()
            if not line:
                raise EOFError
            text += line.removesuffix("\n")
            if is_complete(text):
                return text
            text += "\n"


class TerminalEditor:
    """Editing with prompt_toolkit; what is pasted stays one message."""

    def __init__(
        self, history: ChatHistory | None, complete: Callable[[str], Iterable[str]]
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            message=[("bold", PROMPT)],
            multiline=True,
            prompt_continuation=_continuation,
            history=InMemoryHistory() if history is None else _FileHistory(history),
            completer=_Completer(complete),
            complete_while_typing=False,
            enable_history_search=False,
            key_bindings=_bindings(),
            output=_output(),
        )

    def read(self) -> str:
        """The next message."""
        return self._session.prompt()


class _FileHistory(History):
    """Our file, as prompt_toolkit wants it: read once, newest first."""

    def __init__(self, file: ChatHistory) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterator[str]:
        return reversed(self._file.load())

    def store_string(self, string: str) -> None:
        self._file.add(string)


class _Completer(Completer):
    def __init__(self, complete: Callable[[str], Iterable[str]]) -> None:
        self._complete = complete

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        typed = document.text_before_cursor
        for text in self._complete(typed):
            yield Completion(text, start_position=-len(typed))


def _bindings() -> KeyBindings:
    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER) & ~completion_is_selected

    @bindings.add("enter", filter=typing)
    def _enter(event: KeyPressEvent) -> None:
        """Sends the message, or begins another line of it."""
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter", filter=typing)
    def _alt_enter(event: KeyPressEvent) -> None:
        """Begins another line."""
        event.current_buffer.insert_text("\n")

    return bindings


def _continuation(width: int, line_number: int, wrap_count: int) -> StyleAndTextTuples:
    return [("", " " * width if wrap_count else _CONTINUATION)]


def _output() -> Output:
    """The terminal, also when stdout is a pipe.

    Terminals are not asked for their cursor's position: one that does not answer would get a
    warning, and an answer that comes late would be taken for typing.
    """
    output = create_output(always_prefer_tty=True)
    if isinstance(output, Vt100_Output):
        output.enable_cpr = False
    return output
