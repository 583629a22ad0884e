"""Reads the text that a command is about: from its argument, or from a pipe."""

import sys

import typer


def read_text(argument: str | None) -> str | None:
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
