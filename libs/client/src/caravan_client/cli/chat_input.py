"""The rules of a conversation's input: when a message is complete, and what is a command. Pure."""

from dataclasses import dataclass

QUOTES = '"""'


@dataclass(frozen=True, slots=True)
class Command:
    """`/name argument`."""

    name: str
    argument: str


def is_complete(text: str) -> bool:
    """Whether Enter sends `text`: not after a backslash, and not inside triple quotes."""
    if text.lstrip().startswith(QUOTES):
        return text.count(QUOTES) % 2 == 0
    backslashes = len(text) - len(text.rstrip("\\"))
    return backslashes % 2 == 0


def message_of(text: str) -> str:
    """What was meant: without the quotes around it, and the backslashes that ended lines."""
    stripped = text.strip()
    if _is_quoted(stripped):
        return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    return "\n".join(_continued(text)).strip()


def _is_quoted(text: str) -> bool:
    """Whether the whole of it stands in triple quotes."""
    return len(text) >= 2 * len(QUOTES) and text.startswith(QUOTES) and text.endswith(QUOTES)


def parse_command(text: str) -> Command | None:
    """The command that `text` is, if it is one: a slash and a word at its very beginning.

    `/etc/hosts` is none, and a space before the slash sends anything as it is.
    """
    name, _, argument = text.partition(" ")
    word = name.rstrip()
    if word.startswith("/") and word[1:].isalpha():
        return Command(word[1:].lower(), argument.strip())
    return None


def _continued(text: str) -> list[str]:
    *lines, last = text.split("\n")
    return [*(line.removesuffix("\\") for line in lines), last]
