"""Prints: answers and results to stdout, everything about them to stderr.

The only module that knows whether somebody is looking at a terminal.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from caravan_client.cli.json_text import to_json
from caravan_client.cli.terminal_text import harmless, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


_COLUMN_GAP = 2

Block = str | tuple[Sequence[str], Sequence[Sequence[str]]]
"""A line, or a table: headings and rows."""


class Output:
    """Where a command prints to.

    Attributes:
        as_json: whether results are to be JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._ends_open = False

    @property
    def interactive(self) -> bool:
        """Whether both streams go to a terminal, so that moving pictures make sense."""
        return sys.stdout.isatty() and sys.stderr.isatty()

    def text(self, text: str) -> None:
        """Prints a piece of an answer at once, as it is; only a terminal is protected from it."""
        if not text:
            return
        sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
        self._ends_open = not text.endswith("\n")

    def end_line(self) -> None:
        """Ends a line that `text` has left open."""
        if self._ends_open:
            self.text("\n")

    def line(self, text: str) -> None:
        """Prints one line of a result."""
        self.text(f"{text}\n")

    def document(self, value: object) -> None:
        """Prints a value as one JSON document."""
        self.line(to_json(value))

    def note(self, text: str) -> None:
        """Prints one line about the result to stderr."""
        sys.stderr.write(f"{one_line(text)}\n")
        sys.stderr.flush()

    def hint(self, text: str) -> None:
        """Like `note`, but only for a person: nothing when stderr is not a terminal."""
        if sys.stderr.isatty() and not self.as_json:
            self.note(text)

    def aside(self, text: str) -> None:
        """Like `hint`, with the spaces as they are."""
        if sys.stderr.isatty() and not self.as_json:
            sys.stderr.write(f"{harmless(text)}\n")
            sys.stderr.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints rows under headings; in a pipe without colour and at full width."""
        console = self._console()
        console.print(_table(columns, rows, console.width))

    def styled(self, *parts: tuple[str, str]) -> None:
        """Prints one line of a result in parts, each with its style, which a pipe does not get."""
        from rich.text import Text

        line = Text.assemble(*((harmless(text), style) for text, style in parts))
        self._console().print(line, soft_wrap=True)

    def drawing(self, drawn: "Table") -> None:
        """Prints a table that is made already."""
        self._console().print(drawn)

    @contextmanager
    def refreshing(self) -> Iterator[Callable[[Sequence[Block]], None]]:
        """Shows a picture that changes in place, to a person; `interactive` must be true.

        A terminal that can't move its cursor (`TERM=dumb`) gets one picture after the other.

        Yields:
            Takes the next picture: tables (headings and rows) and lines, from top to bottom.
        """
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        console = self._console()

        def drawn(block: Block) -> "Table | Text":
            if isinstance(block, str):
                return Text(harmless(block))
            columns, rows = block
            return _table(columns, rows, console.width)

        if console.is_dumb_terminal:  # where `Live` shows nothing
            yield lambda blocks: console.print(*map(drawn, blocks), sep="\n")
            return
        with Live(console=console, auto_refresh=False) as live:
            yield lambda blocks: live.update(Group(*map(drawn, blocks)), refresh=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Shows that something is awaited, to a person."""
        if not self.interactive or self.as_json:
            yield
            return
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(text, style="dim")):
            yield

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Like `waiting`, for what may take minutes: with the time that has passed."""
        if not self.interactive or self.as_json:
            yield
            return
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        progress = Progress(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
        )
        with progress:
            progress.add_task(one_line(text), total=None)
            yield

    @contextmanager
    def counting(self, text: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Counts parts of long work that are done, for a person who sends the results elsewhere.

        Shows a bar where `total` is known. Where results go to the terminal too, they show how far
        it is.

        Yields:
            Told how many more are done.
        """
        if sys.stdout.isatty() or not sys.stderr.isatty():
            yield lambda _num_done: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        progress = Progress(
            SpinnerColumn() if total is None else BarColumn(),
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
            redirect_stdout=False,  # the results go where they were sent
        )
        with progress:
            task = progress.add_task(one_line(text), total=total)
            yield partial(progress.advance, task)

    def _console(self) -> "Console":
        from rich.console import Console

        if sys.stdout.isatty():
            return Console()
        return Console(file=sys.stdout, width=10_000, no_color=True, force_terminal=False)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> "Table":
    """Makes a table whose words stay whole if there is room for that."""
    from rich.table import Table
    from rich.text import Text

    words = [max(map(_longest_word, column)) for column in zip(columns, *rows, strict=True)]
    keeps_words = sum(words) + _COLUMN_GAP * (len(words) - 1) <= width
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, least in zip(columns, words, strict=True):
        table.add_column(column, overflow="fold", min_width=least if keeps_words else None)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def _longest_word(cell: str) -> int:
    return max(map(len, cell.split()), default=0)
