"""Compares our tokens with llama.cpp's, over documents of every kind.

Usage: compare_tokenizers.py --run DIRECTORY --file MODEL.gguf
"""

import argparse
import random
import sys
from itertools import islice
from pathlib import Path

from answerers import FileAnswerer
from corpus.documents import Document
from corpus.mixture import documents, shares
from tokenizer import Tokenizer

_NUM_DOCUMENTS = 5000
_MOST_FILLER = 20


def encode(tokenizer: Tokenizer, document: Document) -> list[int]:
    """Returns the tokens of a document as training sees them, span by span."""
    tokens: list[int] = []
    for span in document:
        tokens += [tokenizer.id_of(span.text)] if span.special else tokenizer.encode(span.text)
    return tokens


def main() -> int:
    """Compares; returns 0 when all documents have the same tokens."""
    parser = argparse.ArgumentParser(description="Compare our tokens with llama.cpp's.")
    parser.add_argument("--run", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--file", type=Path, required=True, help="the exported model")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.load(arguments.run / "tokenizer.json")
    answerer = FileAnswerer(arguments.file)
    sample = islice(documents(random.Random("tokens"), shares(_MOST_FILLER)), _NUM_DOCUMENTS)
    different = 0
    for document in sample:
        text = "".join(span.text for span in document)
        different += encode(tokenizer, document) != answerer.tokenize(text, special=True)
    print(f"{different} of {_NUM_DOCUMENTS} documents differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
