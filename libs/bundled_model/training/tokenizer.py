"""A byte-level BPE tokenizer of the kind that llama.cpp calls "gpt-2".

Owns learning the merges and encoding; llama.cpp encodes the same text the same way from the
tokens and merges in the file (`evaluate.py tokenizer` compares the two). Texts of the corpus are
ASCII, so the pattern that splits words needs no Unicode classes here.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
PAD = "<|pad|>"
SPECIALS = (PAD, IM_START, IM_END)

_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))


def _byte_letters() -> dict[int, str]:
    """Returns the letter that stands for each byte in a GPT-2 style vocabulary."""
    letters = {byte: chr(byte) for byte in _PRINTABLE}
    hidden = (byte for byte in range(256) if byte not in letters)
    letters.update({byte: chr(256 + rank) for rank, byte in enumerate(hidden)})
    return letters


_LETTERS = _byte_letters()


def split_words(text: str) -> list[str]:
    """Splits as llama.cpp's "gpt-2" does; joined again they are the text."""
    return _WORDS.findall(text)


def _spelling(word: str) -> tuple[str, ...]:
    return tuple(_LETTERS[byte] for byte in word.encode())


@dataclass(slots=True)
class Tokenizer:
    """Tokens in the order of their ids: specials, bytes, merges. Not thread-safe (it caches)."""

    merges: list[tuple[str, str]]
    tokens: list[str] = field(init=False)
    _ids: dict[str, int] = field(init=False)
    _ranks: dict[tuple[str, str], int] = field(init=False)
    _known: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        merged = ("".join(pair) for pair in self.merges)
        self.tokens = list(dict.fromkeys((*SPECIALS, *_LETTERS.values(), *merged)))
        self._ids = {token: rank for rank, token in enumerate(self.tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._known = {}

    def id_of(self, special: str) -> int:
        """Returns the id of one of `SPECIALS`."""
        return self._ids[special]

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; specials in it are spelled out, not recognised."""
        return [token for word in split_words(text) for token in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        known = self._known.get(word)
        if known is None:
            known = self._known[word] = [self._ids[part] for part in self._merged(word)]
        return known

    def _merged(self, word: str) -> tuple[str, ...]:
        spelling = _spelling(word)
        while len(spelling) > 1:
            pairs = itertools.pairwise(spelling)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            spelling = _join(spelling, best)
        return spelling

    def save(self, path: Path) -> None:
        """Writes the merges."""
        path.write_text(json.dumps({"merges": self.merges}))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Reads what `save` wrote."""
        return cls([(first, second) for first, second in json.loads(path.read_text())["merges"]])


def learn(words: Mapping[str, int], size: int) -> Tokenizer:
    """Learns at most `size` tokens from words and their counts; ties go by spelling."""
    spellings = {word: _spelling(word) for word in words}
    merges: list[tuple[str, str]] = []
    while len(SPECIALS) + len(_LETTERS) + len(merges) < size:
        pairs = _count_pairs(spellings, words)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        spellings = {
            word: _join(spelling, best) if best[0] in spelling else spelling
            for word, spelling in spellings.items()
            if len(spelling) > 1
        }
    return Tokenizer(merges)


def _count_pairs(
    spellings: Mapping[str, tuple[str, ...]], words: Mapping[str, int]
) -> Counter[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for word, spelling in spellings.items():
        for pair in itertools.pairwise(spelling):
            pairs[pair] += words[word]
    return pairs


def _join(spelling: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    rest = iter(range(len(spelling)))
    for place in rest:
        if spelling[place : place + 2] == pair:
            joined.append(spelling[place] + spelling[place + 1])
            next(rest)
        else:
            joined.append(spelling[place])
    return tuple(joined)


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Counts words the way `encode` splits them."""
    return Counter(word for text in texts for word in split_words(text))
