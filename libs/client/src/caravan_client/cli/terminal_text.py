"""Makes text from a model or a server harmless to a terminal.

An escape sequence in an answer could change the title, the clipboard or what was printed before; a
direction override could show text in another order than it is.
"""

_PICTURES = 0x2400  # the block of visible pictures of control characters
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_DIRECTION_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SEPARATORS = (0x2028, 0x2029)

_HARMLESS = {
    **{code: chr(_PICTURES + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\N{SYMBOL FOR DELETE}",
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    **dict.fromkeys((*_DIRECTION_CONTROLS, *_SEPARATORS), _REPLACEMENT),
}


def harmless(text: str) -> str:
    """Returns `text` with everything replaced that a terminal would obey, but newline and tab."""
    return text.translate(_HARMLESS)


def one_line(text: str) -> str:
    """Like `harmless`, and without line breaks: for cells, names and error lines."""
    return harmless(" ".join(text.split()))
