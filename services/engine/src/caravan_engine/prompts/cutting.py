"""Cuts long text where a byte-pair tokenizer would split it anyway. Pure.

llama.cpp splits text for byte-pair models with a regular expression whose matching recurses once
for each character of a match. For many models a run of some 50,000 letters overflows the stack and
ends the process (measured with the `tekken` splitter on 8 MB of stack: 20,000 pass, 100,000 don't).
So no piece may be longer than a limit. A blank between letters, or a letter after a line's end,
begins a new word for all of these splitters: cut there, the tokens are the same.
"""

import re
from collections.abc import Iterator

MAX_PIECE_CHARS = 4096

_LETTER = r"[^\W\d_]"
# Where a word begins: the last one in a window is found by matching greedily up to it.
_WORD_START = re.compile(rf"(?s).*(?:(?<={_LETTER})(?= {_LETTER})|(?<=\n)(?={_LETTER}))")


def cut(text: str, limit: int = MAX_PIECE_CHARS) -> Iterator[str]:
    """Yields pieces of at most `limit` characters whose tokens are those of the whole text.

    Only a stretch of over `limit` characters without a word's beginning is cut inside; no text
    that means anything has one.
    """
    start = 0
    while len(text) - start > limit:
        # One more character, so that a cut right at the limit is found.
        match = _WORD_START.match(text, start, start + limit + 2)
        end = match.end() if match is not None else start + limit
        end = end if start < end <= start + limit else start + limit
        yield text[start:end]
        start = end
    yield text[start:]
