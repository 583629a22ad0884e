"""A page of the wrong sequence changes the text: what the recall backstop can find, it finds.

Two prompts of the same length differ in one name, said in their first page and asked for after the
second. With its first page replaced by the other's, the same question gets the other's name.
"""

from contextlib import closing

import pytest

from caravan_bundled_model import model_path
from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.storage.checksums import checksum

PAGE_SIZE = 256
SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())
ANSWER_TOKENS = 12
CLARA, OSCAR = 0, 1
SENTENCES = (
    "In the morning the wind was quiet.",
    "Later the merchants counted the boxes.",
    "At night the market was far away.",
    "Every day the children looked at the stars.",
    "After lunch the old house stayed the same.",
)
QUESTION = " What is my name?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def backend():
    settings = LlamaCppSettings(
        model_path=model_path(), num_cells=2048, num_seats=2, batch_tokens=512
    )
    with closing(LlamaCppBackend(settings)) as backend:
        yield backend


def tokens_of(backend, text):
    return backend.vocabulary.tokenize(text, add_special=False, parse_special=True)


def said(backend, name):
    """What comes before the question, of more than two pages."""
    text = " ".join(SENTENCES * 14)
    return tokens_of(backend, f"<|im_start|>user\nMy name is {name}. {text}")


def compute(backend, seq_id, tokens):
    for start in range(0, len(tokens), PAGE_SIZE):
        part = tuple(tokens[start : start + PAGE_SIZE])
        backend.decode(StepPlan(chunks=(Chunk(seq_id, start, part, None),)))


def answer(backend, seq_id, start):
    """Asks for the name at position `start`; greedy, until the end that the model chooses."""
    pending, answered = tokens_of(backend, QUESTION), []
    while len(answered) < ANSWER_TOKENS:
        plan = StepPlan(chunks=(Chunk(seq_id, start, tuple(pending), SAMPLER),))
        token = int(backend.decode(plan)[0].argmax())
        if token in backend.vocabulary.end_tokens:
            break
        start += len(pending)
        pending = [token]
        answered.append(token)
    return b"".join(backend.vocabulary.pieces[token] for token in answered).decode()


@pytest.fixture
def sequences(backend):
    """Returns the length of two computed sequences in which a Clara and an Oscar speak."""
    clara, oscar = said(backend, "Clara"), said(backend, "Oscar")
    assert len(clara) == len(oscar) > 2 * PAGE_SIZE
    differing = [place for place in range(len(clara)) if clara[place] != oscar[place]]
    assert len(differing) == 1
    assert differing[0] < PAGE_SIZE
    compute(backend, CLARA, clara)
    compute(backend, OSCAR, oscar)
    yield len(clara)
    backend.release(CLARA)
    backend.release(OSCAR)


def swap_page(backend, number, *, target, source):
    """Puts another sequence's page in place of a sequence's own."""
    start, end = number * PAGE_SIZE, (number + 1) * PAGE_SIZE
    data = backend.export_page(source, start, end)
    image = PageImage(PageInfo(b"", b"", b"", start, ()), data, checksum(data))
    backend.release(target, start, end)
    assert backend.import_page(image, target, start, end)


def test_each_sequence_answers_with_its_own_fact(backend, sequences):
    assert "Clara" in answer(backend, CLARA, sequences)
    assert "Oscar" in answer(backend, OSCAR, sequences)


def test_a_wrong_page_with_the_fact_changes_the_answer(backend, sequences):
    swap_page(backend, 0, target=CLARA, source=OSCAR)
    assert "Oscar" in answer(backend, CLARA, sequences)


def test_a_wrong_page_without_the_fact_goes_unnoticed(backend, sequences):
    """Why text is a backstop only: what nobody asks for may be wrong."""
    swap_page(backend, 1, target=CLARA, source=OSCAR)
    assert "Clara" in answer(backend, CLARA, sequences)
