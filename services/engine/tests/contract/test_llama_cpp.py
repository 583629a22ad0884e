"""What only llama.cpp has: its samplers to agree with, refusals, logs, other KV types."""

import ctypes
import logging

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.backends.llama_cpp import KvType, LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.errors import ModelLoadFailedError
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.sampling.mirostat import Mirostat
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.domain.sampling.penalties import PenaltyWindow
from caravan_engine.domain.sampling.repetitions import RepetitionWindow
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_testkit.tiny_model import TINY

GREEDY = SamplingOptions(temperature=0)
PROMPT = tuple(range(100, 160))


def settings(path, **fields):
    return LlamaCppSettings(
        **{"model_path": path, "num_cells": 512, "num_seats": 4, "batch_tokens": 64, **fields}
    )


@pytest.fixture(scope="module")
def backend(tiny_gguf):
    backend = LlamaCppBackend(settings(tiny_gguf))
    yield backend
    backend.close()


def token_data(logits):
    data = (lib.llama_token_data * len(logits))()
    for token, logit in enumerate(logits):
        data[token].id, data[token].logit = token, logit
    return lib.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)


def apply(sampler, logits):
    """Returns what one of llama.cpp's own samplers leaves of a row: ids and logits."""
    array = token_data(logits)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    left = [(array.data[i].id, array.data[i].logit) for i in range(array.size)]
    lib.llama_sampler_free(sampler)
    return left


def row(seed, size=TINY.vocabulary_size):
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


# ── sampling ──


@pytest.mark.parametrize("last_n", [1, 7, 64])
@pytest.mark.parametrize(
    ("repeat", "frequency", "presence"),
    [(1.3, 0.0, 0.0), (0.7, 0.0, 0.0), (1.0, 0.4, 0.0), (1.0, 0.0, -0.7), (1.2, 0.3, 0.5)],
)
def test_penalties_are_those_of_llama_cpp(last_n, repeat, frequency, presence):
    options = SamplingOptions(
        repeat_penalty=repeat,
        frequency_penalty=frequency,
        presence_penalty=presence,
        penalty_last_n=last_n,
    )
    history = np.random.default_rng(1).integers(0, 30, 100).tolist()
    sampler = lib.llama_sampler_init_penalties(
        TINY.vocabulary_size, last_n, repeat, frequency, presence
    )
    for token in history:
        lib.llama_sampler_accept(sampler, token)
    theirs = np.array([logit for _, logit in apply(sampler, row(2))], np.float32)
    window = PenaltyWindow(options)
    window.accept(history)
    ours = row(2)
    window.apply(ours)
    assert np.allclose(ours, theirs, rtol=3e-7, atol=3e-7)  # they may fuse multiply and add


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p", "temperature"),
    [(40, 0.95, 0.05, 0.8), (40, 0.5, 0.0, 1.0), (0, 0.9, 0.1, 2.0), (1, 1.0, 0.0, 0.1)],
)
def test_candidates_are_those_of_llama_cpps_whole_chain(backend, top_k, top_p, min_p, temperature):
    options = SamplingOptions(top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_top_k(top_k or 1024),
        lib.llama_sampler_init_top_p(top_p, 1),
        lib.llama_sampler_init_min_p(min_p, 1),
        lib.llama_sampler_init_temp(temperature),
    ):
        lib.llama_sampler_chain_add(chain, sampler)
    theirs = apply(chain, row(3))
    ids, logits = backend.candidate_filter(options).narrow(row(3), excludes_top=False)
    assert ids.tolist() == [token for token, _ in theirs]
    assert logits.tolist() == [logit for _, logit in theirs]


@pytest.mark.parametrize("excludes_top", [False, True])
@pytest.mark.parametrize(
    ("top_k", "typical_p", "top_p", "threshold", "temperature"),
    [(40, 0.9, 0.95, 0.1, 0.8), (0, 0.5, 1.0, 0.01, 1.5), (0, 0.2, 0.9, 0.3, 1.0)],
)
def test_typical_and_xtc_are_those_of_llama_cpps_whole_chain(
    backend, top_k, typical_p, top_p, threshold, temperature, excludes_top
):
    options = SamplingOptions(
        top_k=top_k,
        typical_p=typical_p,
        top_p=top_p,
        min_p=0.0,
        xtc=XtcOptions(probability=0.5, threshold=threshold),
        temperature=temperature,
    )
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for sampler in (
        lib.llama_sampler_init_top_k(top_k or 1024),
        lib.llama_sampler_init_typical(typical_p, 1),
        lib.llama_sampler_init_top_p(top_p, 1),
        lib.llama_sampler_init_min_p(0.0, 1),
        lib.llama_sampler_init_xtc(1.0 if excludes_top else 0.0, threshold, 1, 0),
        lib.llama_sampler_init_temp(temperature),
    ):
        lib.llama_sampler_chain_add(chain, sampler)
    theirs = dict(apply(chain, row(3)))
    ids, logits = backend.candidate_filter(options).narrow(row(3), excludes_top=excludes_top)
    assert dict(zip(ids.tolist(), logits.tolist(), strict=True)) == theirs
    assert logits.tolist() == sorted(logits, reverse=True)
    again, _ = backend.candidate_filter(options).narrow(row(3), excludes_top=False)
    assert set(again.tolist()) >= set(ids.tolist())


def test_typical_takes_rows_with_improbable_and_banned_tokens(backend):
    logits = row(5)
    logits[100:400], logits[400:] = -1e30, -np.inf
    options = SamplingOptions(top_k=0, typical_p=0.5, min_p=0.0, top_p=1.0)
    ids, kept = backend.candidate_filter(options).narrow(logits, excludes_top=False)
    assert 0 < ids.size < 100
    assert ids.max() < 100
    assert np.isfinite(kept).all()


@pytest.mark.parametrize(("base", "allowed"), [(1.75, 2), (1.0, 1), (4.0, 0), (1.2, 5)])
@pytest.mark.parametrize("last_n", [5, 60, 400])
def test_dry_is_that_of_llama_cpp(backend, base, allowed, last_n):
    vocabulary = backend.vocabulary
    options = DryOptions(multiplier=0.8, base=base, allowed_length=allowed, penalty_last_n=last_n)
    breakers = (ctypes.c_char_p * 4)(*(each.encode() for each in options.sequence_breakers))
    newline, colon = (
        vocabulary.tokenize(text, add_special=False, parse_special=False)[-1] for text in "\n:"
    )
    generator = np.random.default_rng(4)
    history = generator.choice([*range(300, 305), *range(300, 305), newline, colon], 300).tolist()
    sampler = lib.llama_sampler_init_dry(
        lib.llama_model_get_vocab(backend.model), 0.8, base, allowed, last_n, breakers, 4
    )
    window = RepetitionWindow(options, vocabulary.pieces)
    window.begin([])
    num_penalized = 0
    for token in history:
        lib.llama_sampler_accept(sampler, token)
        window.accept((token,))
        array, ours = token_data(row(6)), row(6)
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        window.apply(ours)
        theirs = np.array([array.data[i].logit for i in range(array.size)], np.float32)
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
        num_penalized += int((ours != row(6)).sum())
    lib.llama_sampler_free(sampler)
    assert num_penalized > 0 or last_n <= allowed


def test_mirostat_cuts_where_llama_cpps_does_while_both_choose_the_same():
    sampler = lib.llama_sampler_init_mirostat_v2(7, 3.0, 0.2)
    ours = Mirostat(MirostatOptions(tau=3.0, eta=0.2))
    sizes = set()
    for step in range(100):
        logits = row(step)
        array = token_data(logits)
        lib.llama_sampler_apply(sampler, ctypes.byref(array))
        ordered = np.sort(logits)[::-1]
        probabilities = np.exp(ordered.astype(np.float64))
        probabilities /= probabilities.sum()
        num_kept = max(1, int((probabilities >= 2.0**-ours.mu).sum()))
        assert array.size == num_kept
        reached = probabilities[:num_kept].cumsum() / probabilities[:num_kept].sum()
        uniform = reached[array.selected] - 1e-9
        assert ours.choose(ordered, uniform) == array.selected
        sizes.add(num_kept)
    lib.llama_sampler_free(sampler)
    assert len(sizes) > 10


def test_a_shared_chain_keeps_nothing_from_one_row_to_the_next(backend):
    options = SamplingOptions(top_k=50, top_p=0.9, min_p=0.02, temperature=1.3)
    shared = backend.candidate_filter(options)

    def narrowed(chain, seed):
        ids, logits = chain.narrow(row(seed), excludes_top=False)
        return ids.tolist(), logits.tolist()

    first = [narrowed(shared, seed) for seed in range(20)]
    backwards = [narrowed(shared, seed) for seed in reversed(range(20))]
    assert backwards == first[::-1]
    del shared
    fresh = [narrowed(backend.candidate_filter(options), seed) for seed in range(20)]
    assert fresh == first


def test_equal_options_share_a_chain_and_an_unused_one_goes(backend):
    options = SamplingOptions(top_k=33)
    first = backend.candidate_filter(options)
    assert backend.candidate_filter(SamplingOptions(top_k=33, repeat_penalty=1.5)) is first
    assert backend.candidate_filter(SamplingOptions(top_k=34)) is not first


# ── the model ──


def test_facts_describe_the_model(backend, tiny_gguf):
    facts = backend.facts
    assert facts.architecture == "llama"
    assert facts.num_layers == TINY.num_layers
    assert facts.embedding_size == TINY.width
    assert facts.trained_context_tokens == TINY.context_length
    assert facts.num_cells == 512
    assert "<|im_start|>" in facts.chat_template
    assert facts.pooling is Pooling.NONE
    assert not facts.has_encoder
    assert not facts.is_recurrent
    assert facts.size_bytes <= tiny_gguf.stat().st_size


def test_special_tokens_in_text_count_only_when_asked_for(backend):
    vocabulary = backend.vocabulary
    text = "<|im_end|>"
    assert len(vocabulary.tokenize(text, add_special=False, parse_special=True)) == 1
    assert len(vocabulary.tokenize(text, add_special=False, parse_special=False)) > 1


def test_progress_rises_to_one_and_an_exception_in_it_stays_outside(tiny_gguf):
    fractions = []

    def report(fraction):
        fractions.append(fraction)
        raise RuntimeError("a faulty listener")

    LlamaCppBackend(settings(tiny_gguf), report).close()
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("content", [b"", b"GGUF", b"nonsense" * 100, None])
def test_a_file_that_llama_cpp_refuses_is_a_typed_error_without_its_folder(tmp_path, content):
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelLoadFailedError) as caught:
        LlamaCppBackend(settings(path))
    assert str(tmp_path) not in caught.value.message


def test_its_log_goes_to_ours_and_quotes_no_tokens(backend, caplog):
    sampler = TokenSampler(GREEDY, seed=0, candidates=None, history=())
    with caplog.at_level(logging.DEBUG):
        backend.decode(StepPlan((), (Chunk(0, 0, PROMPT, sampler),)))
        backend.vocabulary.tokenize("a canary", add_special=True, parse_special=True)
        backend.release(0)
    assert "canary" not in caplog.text
    assert all(record.levelno >= logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("kind", list(KvType))
def test_every_kv_type_computes_and_is_inspected(tiny_gguf, kind):
    backend = LlamaCppBackend(settings(tiny_gguf, key_type=kind, value_type=kind))
    sampler = TokenSampler(GREEDY, seed=0, candidates=None, history=())
    rows = backend.decode(StepPlan((), (Chunk(1, 0, PROMPT, sampler),)))
    assert np.isfinite(rows).all()
    state = parse_kv_state(backend.export_state(1))
    assert sorted(state.positions) == list(range(len(PROMPT)))
    assert len(state.keys) == len(state.values) == TINY.num_layers
    assert backend.check_integrity({1: range(len(PROMPT))}) == []
    backend.close()
