"""Models whose memory can't be divided: snapshots of whole sequences, on llama.cpp itself."""

from contextlib import closing

import llama_cpp.llama_cpp as lib
import pytest

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.paging.moves import Export, Import
from caravan_testkit.unpaged_model import (
    write_hybrid_gguf,
    write_recurrent_gguf,
    write_window_gguf,
)

NUM_CELLS, NUM_SEATS = 512, 2
PROMPT = range(300, 340)


@pytest.fixture(scope="session")
def recurrent_gguf(tmp_path_factory):
    return write_recurrent_gguf(tmp_path_factory.mktemp("models") / "recurrent.gguf")


@pytest.fixture(scope="session")
def window_gguf(tmp_path_factory):
    return write_window_gguf(tmp_path_factory.mktemp("models") / "window.gguf")


@pytest.fixture(scope="session")
def hybrid_gguf(tmp_path_factory):
    return write_hybrid_gguf(tmp_path_factory.mktemp("models") / "hybrid.gguf")


class Backend(LlamaCppBackend):
    num_cells = NUM_CELLS
    num_seats = NUM_SEATS


@pytest.fixture(
    scope="module", params=["recurrent_gguf", "hybrid_gguf", "window_gguf", "tiny_gguf"]
)
def loaded(request):
    """The last one could be cut, but is told not to."""
    settings = LlamaCppSettings(
        model_path=request.getfixturevalue(request.param),
        num_cells=NUM_CELLS,
        num_seats=NUM_SEATS,
        can_cut=False,
        batch_tokens=64,
        num_threads=1,
    )
    with closing(Backend(settings)) as backend:
        yield backend


@pytest.fixture
def rig_with(loaded, make_rig):
    def make(num_seats, **kv):
        kv = {"can_cut": loaded.can_cut, "bytes_per_token": 600, **kv}
        return make_rig(
            loaded, num_seats=num_seats, can_share=False, token_budget=64, context_tokens=200, kv=kv
        )

    yield make
    for seq_id in range(NUM_SEATS + 1):
        loaded.release(seq_id)


def num_positions(backend):
    ends = (lib.llama_memory_seq_pos_max(backend.memory, seq) for seq in range(NUM_SEATS + 1))
    return sum(end + 1 for end in ends)


def test_a_model_with_a_window_says_that_it_can_not_be_cut(window_gguf):
    settings = LlamaCppSettings(model_path=window_gguf, num_cells=64, num_seats=1)
    with closing(LlamaCppBackend(settings)) as backend:
        assert not backend.can_cut
        assert not backend.facts.is_recurrent


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_model_that_keeps_a_state_says_that_it_can_not_be_cut(request, kind):
    path = request.getfixturevalue(f"{kind}_gguf")
    settings = LlamaCppSettings(model_path=path, num_cells=64, num_seats=1)
    with closing(LlamaCppBackend(settings)) as backend:
        assert not backend.can_cut
        assert backend.facts.is_recurrent


def test_who_is_parked_goes_on_exactly_where_it_was(rig_with):
    rig = rig_with(1)
    alone = rig.submit(PROMPT, max_output=40)
    rig.run()
    rig = rig_with(1)
    low = rig.submit(PROMPT, max_output=40, priority=1)
    for _ in range(12):
        rig.step()
    high = rig.submit(range(400, 420), max_output=9, priority=50)
    rig.run()
    assert low.group.num_parkings == 1
    assert len(high.output.tokens) == 9
    assert low.output.tokens == alone.output.tokens
    (restored,) = rig.moves(Import)
    assert restored.end == len(PROMPT) + 11  # all that was computed until then


def test_a_snapshot_that_is_taken_again_has_the_same_bytes(rig_with, loaded):
    rig = rig_with(1)
    rig.submit(PROMPT, max_output=5)
    rig.run()
    rig.carry_out_moves()
    (node,) = rig.kv.store.tree
    for seat in (0, 0):  # the bytes name the sequence
        assert loaded.import_page(node.image, seat, 0, node.info.end)
        again = loaded.export_page(seat, 0, node.info.end)
        assert bytes(again) == bytes(node.image.data)


def test_a_conversation_goes_on_from_its_snapshot_and_none_begins_in_its_middle(rig_with):
    rig = rig_with(2)
    first = rig.submit(PROMPT, max_output=8)
    rig.run()
    turn = [*PROMPT, *first.output.tokens, 500, 501]
    second = rig.submit(turn, max_output=4)
    rig.run()
    elsewhere = rig.submit([*PROMPT, 600], max_output=4)
    rig.run()
    assert second.group.cached_tokens == len(PROMPT) + 7  # the last token was never computed
    assert elsewhere.group.cached_tokens == 0
    assert len(second.output.tokens) == len(elsewhere.output.tokens) == 4


def test_many_complete_where_few_have_cells_and_nothing_is_left(rig_with, loaded):
    rig = rig_with(2)
    sequences = [rig.submit(range(300 + n, 400 + n), max_output=90) for n in range(6)]
    rig.run()
    assert all(len(each.output.tokens) == 90 for each in sequences)
    rig.carry_out_moves()
    assert rig.moves(Export)
    assert num_positions(loaded) == rig.kv.cells.num_used == 0
