"""A SentencePiece-style vocabulary for generated models.

Owns which pieces exist and in which order they merge; knows nothing about weights or files.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

SPACE = "\u2581"
"""SentencePiece's stand-in for a blank."""

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"

# Only the counts of its words matter: they decide which pieces ordinary English falls into.
_CORPUS = """
A caravan is a group of people who travel together across the desert with their animals and
their goods. Once upon a time there was a small town at the edge of the sand, and every spring
the merchants would come there to load water, bread, salt and silk before the long road to the
east. The leader of the caravan was an old woman who knew the stars by name and could find a
well in the dark. She said that a journey is made of many small steps, and that nobody should
carry more than they can hold. When the wind was strong they stopped and waited, and when the
night was clear they walked until the morning. The children asked her what was on the other side
of the mountains, and she told them about the sea, about ships, and about cities with a thousand
lamps. What do you want to know? I can answer questions, write a short story, explain an idea,
or help you with your work. Please tell me how this works and why it is so. Here is a list of
things that you may ask for: a poem, a plan, a letter, a table of numbers. The system takes a
request from the user, gives it to the model, and the model writes one token after another until
the answer is complete. Each request waits in a queue for its turn, then it runs with the others
in one batch, and the memory that it used is free again at the end. The assistant should be
helpful and honest. If it does not know something, it should say so. Hello world, hello there,
good morning, good night, thank you very much. The quick brown fox jumps over the lazy dog. Where
are we going today, and who will be there? It has been a good year for the people of the town,
because the rain came early and the fields were green. He looked at the house, opened the door,
and found a light in the window. They have seen it before, they will see it again, and they would
never have thought that it could change. First we count the boxes, then we check every line, and
last we close the book. Two and three make five, seven and one make eight, four and six make ten.
Science, history, music, language, computer, network, service, server, client, process, message,
letter, number, question, sentence, paragraph, translate, summary, example, following, between.
"""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PUNCTUATION = ".,!?;:'\"()[]{}<>|/\\@#$%^&*-_=+~`"
_SYLLABLES = [first + vowel for first in "bdfghjklmnprstvwxyz" for vowel in "aeiou"]


class PieceKind(IntEnum):
    """Token types with the numbers that GGUF gives them."""

    ORDINARY = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; of two possible merges the higher score happens first."""

    text: str
    score: float
    kind: PieceKind

    @property
    def is_word_start(self) -> bool:
        """Whether it begins a word of two letters or more, so that it reads well by itself."""
        return len(self.text) > 2 and self.text.startswith(SPACE)


def build_vocabulary(size: int) -> list[Piece]:
    """Returns exactly `size` pieces: specials, bytes, characters, learned merges, invented words.

    Raises:
        ValueError: `size` doesn't hold the fixed part, or is beyond what can be invented.
    """
    pieces = [
        Piece("<unk>", 0.0, PieceKind.UNKNOWN),
        Piece("<s>", 0.0, PieceKind.CONTROL),
        Piece("</s>", 0.0, PieceKind.CONTROL),
        *(Piece(f"<0x{byte:02X}>", 0.0, PieceKind.BYTE) for byte in range(256)),
        Piece(IM_START, 0.0, PieceKind.CONTROL),
        Piece(IM_END, 0.0, PieceKind.CONTROL),
    ]
    characters = [SPACE, *_LETTERS, *_LETTERS.upper(), *"0123456789", *_PUNCTUATION]
    num_wanted = size - len(pieces)
    if num_wanted < len(characters):
        raise ValueError(f"a vocabulary needs at least {len(pieces) + len(characters)} pieces")
    texts = dict.fromkeys(characters)
    texts.update(dict.fromkeys(itertools.islice(_merges(), num_wanted - len(texts))))
    for word in _invented_words():
        if len(texts) >= num_wanted:
            break
        texts.setdefault(word)
    if len(texts) < num_wanted:
        raise ValueError(f"a vocabulary has at most {len(pieces) + len(texts)} pieces")
    ranked = enumerate(texts)
    return pieces + [Piece(text, -float(rank), PieceKind.ORDINARY) for rank, text in ranked]


def _merges() -> Iterator[str]:
    """Yields byte-pair merges of the corpus, commonest first; ties go by spelling."""
    words = Counter(_CORPUS.split())
    spellings = {word: [SPACE, *word] for word in words}
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, spelling in spellings.items():
            for pair in itertools.pairwise(spelling):
                pairs[pair] += words[word]
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield "".join(best)
        spellings = {word: _merged(spelling, best) for word, spelling in spellings.items()}


def _merged(spelling: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in spelling:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _invented_words() -> Iterator[str]:
    """Yields pronounceable words that fill a vocabulary of realistic size."""
    for num_syllables in (2, 3):
        for syllables in itertools.product(_SYLLABLES, repeat=num_syllables):
            yield SPACE + "".join(syllables)
