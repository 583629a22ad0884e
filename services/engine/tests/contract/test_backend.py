"""What every backend must do, run over the stand-in and over llama.cpp itself."""

import numpy as np
import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.ports import BackendFailureError
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan

NUM_SEATS, BATCH_TOKENS = 4, 64
SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())
POOLER = Pooler(Pooling.MEAN)
PROMPT = tuple(range(100, 130))


@pytest.fixture(scope="module")
def llama_backend(tiny_gguf):
    backend = LlamaCppBackend(
        LlamaCppSettings(
            model_path=tiny_gguf, num_cells=512, num_seats=NUM_SEATS, batch_tokens=BATCH_TOKENS
        )
    )
    yield backend
    backend.close()


@pytest.fixture(params=["fake", "llama_cpp"])
def backend(request):
    if request.param == "fake":
        yield FakeBackend(num_cells=512, batch_tokens=BATCH_TOKENS)
        return
    llama = request.getfixturevalue("llama_backend")
    yield llama
    release(llama, *range(NUM_SEATS))


def chunk(seq_id, start, tokens, *, samples=True):
    return Chunk(seq_id, start, tuple(tokens), SAMPLER if samples else None)


def release(backend, *seq_ids):
    for seq_id in seq_ids:
        backend.release(seq_id, 0, None)


def faults(backend, lengths):
    return backend.check_integrity({seq_id: range(num) for seq_id, num in lengths.items()})


def decode(backend, *chunks):
    return backend.decode(StepPlan((), chunks)).copy()


def test_every_token_has_a_piece_and_ends_are_control_tokens(backend):
    vocabulary = backend.vocabulary
    assert len(vocabulary.pieces) == vocabulary.size
    assert vocabulary.end_tokens
    assert all(0 <= token < vocabulary.size for token in vocabulary.end_tokens)
    assert vocabulary.end_tokens <= vocabulary.control_tokens
    assert all(vocabulary.pieces[token] == b"" for token in vocabulary.control_tokens)


@pytest.mark.parametrize(
    "text", ["hello there", "naïve 漢字 🐪", "<|im_end|> </s>", "a\n\tb", "x" * 999]
)
def test_tokens_of_a_text_have_the_bytes_of_the_text(backend, text):
    vocabulary = backend.vocabulary
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=False)
    assert not vocabulary.control_tokens & set(tokens)
    assert b"".join(vocabulary.pieces[token] for token in tokens).decode().strip() == text


def test_special_tokens_are_added_only_where_asked_for(backend):
    with_special = backend.vocabulary.tokenize("a", add_special=True, parse_special=False)
    without = backend.vocabulary.tokenize("a", add_special=False, parse_special=False)
    assert with_special[-len(without) :] == without
    assert set(with_special) - set(without) <= backend.vocabulary.control_tokens


def test_there_is_one_row_per_sampling_chunk_in_their_order(backend):
    alone = [decode(backend, chunk(seat, 0, PROMPT[: seat + 2]))[0] for seat in range(3)]
    release(backend, 0, 1, 2)
    rows = decode(
        backend,
        chunk(2, 0, PROMPT[:4]),
        chunk(3, 0, PROMPT, samples=False),
        chunk(0, 0, PROMPT[:2]),
    )
    assert rows.shape == (2, backend.vocabulary.size)
    assert np.allclose(rows[0], alone[2], atol=0.05)
    assert np.allclose(rows[1], alone[0], atol=0.05)


def test_a_step_may_sample_nothing(backend):
    assert len(decode(backend, chunk(0, 0, PROMPT, samples=False))) == 0


def test_chunks_give_what_one_piece_gives(backend):
    whole = decode(backend, chunk(0, 0, PROMPT))
    decode(backend, chunk(1, 0, PROMPT[:7], samples=False))
    decode(backend, chunk(1, 7, PROMPT[7:20], samples=False))
    parts = decode(backend, chunk(1, 20, PROMPT[20:]))
    assert np.allclose(whole, parts, atol=0.05)


def test_a_released_sequence_begins_again(backend):
    first = decode(backend, chunk(0, 0, PROMPT))
    release(backend, 0)
    assert faults(backend, {}) == []
    assert np.allclose(decode(backend, chunk(0, 0, PROMPT)), first, atol=0.05)


def test_releasing_what_was_never_computed_is_harmless(backend):
    release(backend, 0, 3)
    assert faults(backend, {}) == []


def test_integrity_counts_the_cells_of_each_position(backend):
    decode(backend, chunk(0, 0, PROMPT), chunk(2, 0, PROMPT[:5]))
    assert faults(backend, {0: 30, 2: 5}) == []
    for wrong in ({0: 29, 2: 5}, {0: 31, 2: 5}, {0: 30}, {0: 30, 2: 5, 1: 1}):
        assert faults(backend, wrong) != []


def test_a_shared_prefix_stays_until_the_last_who_has_it_is_released(backend):
    decode(backend, chunk(0, 0, PROMPT[:20], samples=False))
    whole = decode(backend, chunk(3, 0, PROMPT))
    backend.share(0, 1, 0, 20)
    backend.share(0, 2, 0, 12)
    assert faults(backend, {0: 20, 1: 20, 2: 12, 3: 30}) == []
    release(backend, 0)
    continued = decode(backend, chunk(1, 20, PROMPT[20:]), chunk(2, 12, PROMPT[12:]))
    assert np.allclose(continued[0], whole[0], atol=0.05)
    assert np.allclose(continued[1], whole[0], atol=0.05)
    assert faults(backend, {1: 30, 2: 30, 3: 30}) == []
    release(backend, 1, 2, 3)
    assert faults(backend, {}) == []


def test_shared_cells_are_taken_once(backend):
    for start in range(0, 480, 60):
        decode(backend, chunk(0, start, [100 + start % 7] * 60, samples=False))
    for seq_id in (1, 2):
        backend.share(0, seq_id, 0, 480)
    decode(backend, chunk(1, 480, PROMPT[:10], samples=False))
    assert faults(backend, {0: 480, 1: 490, 2: 480}) == []


def test_each_token_has_a_vector_however_they_are_divided(backend):
    def embed(*chunks):
        return backend.embed(StepPlan((), chunks)).copy()

    def part(seq_id, start, end):
        return Chunk(seq_id, start, PROMPT[start:end], None, pooler=POOLER)

    whole = embed(part(0, 0, 30))
    assert whole.shape[0] == 30
    mixed = embed(part(1, 0, 10), part(2, 0, 5))
    rest = embed(part(2, 5, 9), part(1, 10, 30))
    assert np.allclose(np.concatenate([mixed[:10], rest[4:]]), whole, atol=0.05)
    assert np.allclose(np.concatenate([mixed[10:], rest[:4]]), whole[:9], atol=0.05)
    assert faults(backend, {0: 30, 1: 30, 2: 9}) == []


def test_embedding_leaves_generation_as_it_was(backend):
    before = decode(backend, chunk(0, 0, PROMPT))
    release(backend, 0)
    decode(backend, chunk(0, 0, PROMPT[:10], samples=False))
    backend.embed(StepPlan((), (Chunk(1, 0, PROMPT, None, pooler=POOLER),)))
    after = decode(backend, chunk(0, 10, PROMPT[10:]))
    assert np.allclose(before, after, atol=0.05)
    assert after.shape == (1, backend.vocabulary.size)


def test_positions_that_do_not_follow_are_a_failure(backend):
    decode(backend, chunk(0, 0, PROMPT[:3]))
    with pytest.raises(BackendFailureError):
        decode(backend, chunk(0, 9, PROMPT[:3]))


def test_running_out_of_cells_is_a_failure_that_leaves_others_alone(backend):
    for start in range(0, 480, 60):
        decode(backend, chunk(0, start, [100 + start % 7] * 60, samples=False))
    with pytest.raises(BackendFailureError):
        decode(backend, chunk(1, 0, PROMPT * 2, samples=False))
    release(backend, 1)
    assert faults(backend, {0: 480}) == []


def test_a_batch_that_is_too_large_never_reaches_the_library(backend):
    with pytest.raises((ValueError, AssertionError)):
        decode(backend, chunk(0, 0, [100] * (BATCH_TOKENS + 1)))


def test_greedy_options_need_no_filter(backend):
    assert backend.candidate_filter(SamplingOptions(temperature=0)) is None


def test_candidates_come_best_first_and_at_most_top_k(backend):
    options = SamplingOptions(top_k=5, top_p=1.0, min_p=0.0, temperature=0.5)
    logits = np.random.default_rng(0).normal(0, 3, backend.vocabulary.size).astype(np.float32)
    ids, kept = backend.candidate_filter(options).narrow(logits, excludes_top=False)
    assert ids.tolist() == np.argsort(-logits, kind="stable")[:5].tolist()
    assert np.allclose(kept, logits[ids] / 0.5, rtol=1e-6)


def test_zeroing_all_memory_leaves_a_backend_as_new(backend):
    fresh = decode(backend, chunk(0, 0, PROMPT))
    release(backend, 0)
    decode(backend, chunk(1, 0, PROMPT[:9]))
    release(backend, 1)
    backend.wipe()
    assert faults(backend, {}) == []
    assert np.array_equal(decode(backend, chunk(0, 0, PROMPT)), fresh)
    assert faults(backend, {0: len(PROMPT)}) == []


def test_sharing_the_cores_changes_nothing_but_the_speed(backend):
    before = decode(backend, chunk(0, 0, PROMPT)).argmax()
    backend.share_cores(shares=True)
    shared = decode(backend, chunk(1, 0, PROMPT)).argmax()
    backend.share_cores(shares=False)
    after = decode(backend, chunk(2, 0, PROMPT)).argmax()
    assert before == shared == after
    assert faults(backend, {seq_id: len(PROMPT) for seq_id in range(3)}) == []
