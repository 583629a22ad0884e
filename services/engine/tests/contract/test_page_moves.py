"""What moving pages does to the memory of llama.cpp: nothing, to the byte."""

import zlib
from contextlib import closing

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caravan_engine.backends.llama_cpp import KvType, LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.page_mover import PageMover

NUM_CELLS, NUM_SEATS, NUM_SHELF_IDS = 512, 4, 2
NUM_IDS = NUM_SEATS + NUM_SHELF_IDS
SCRATCH = NUM_IDS
TEXT = tuple(int(token) for token in np.random.default_rng(5).integers(300, 1000, 96))
SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())


def load(path, kind=KvType.F16):
    return LlamaCppBackend(
        LlamaCppSettings(
            model_path=path,
            num_cells=NUM_CELLS,
            num_seats=NUM_SEATS,
            num_shelf_ids=NUM_SHELF_IDS,
            batch_tokens=256,
            num_threads=1,
            key_type=kind,
            value_type=kind,
        )
    )


@pytest.fixture(scope="module", params=list(KvType), ids=lambda kind: kind.name)
def each_type(request, tiny_gguf):
    with closing(load(tiny_gguf, request.param)) as backend:
        yield backend


@pytest.fixture(scope="module")
def loaded(tiny_gguf):
    with closing(load(tiny_gguf)) as backend:
        yield backend


@pytest.fixture
def ledger(loaded, make_ledger):
    ledger = make_ledger(loaded, NUM_CELLS)
    yield ledger
    ledger.forget_all(NUM_IDS + 1)


def compute(backend, seq_id, tokens, start=0):
    """Computes all but the last token, then that one, and returns the logits after it."""
    backend.decode(StepPlan((), (Chunk(seq_id, start, tuple(tokens[start:-1]), None),)))
    last = Chunk(seq_id, len(tokens) - 1, (tokens[-1],), SAMPLER)
    return backend.decode(StepPlan((), (last,)))[0].copy()


def page(backend, seq_id, start, end, tokens=TEXT, tenant="acme"):
    info = PageInfo(b"", b"", b"", start, tuple(tokens[start:end]))
    if start == 0:
        root = root_key("", tenant)
        info = PageInfo(root, root, page_key(root, info.tokens), start, info.tokens)
    data = backend.export_page(seq_id, start, end)
    return PageImage(info, data, zlib.crc32(data))


# ── sameness ──


def test_logits_after_a_spill_and_restore_in_order_are_the_same_to_the_bit(each_type):
    ending = (*TEXT, 400)
    each_type.decode(StepPlan((), (Chunk(0, 0, TEXT, None),)))
    images = [page(each_type, 0, start, start + 32) for start in range(0, 96, 32)]
    undisturbed = each_type.decode(StepPlan((), (Chunk(0, 96, (400,), SAMPLER),)))[0].copy()
    each_type.release(0)
    for image in images:
        assert each_type.import_page(image, 0, image.info.start, image.info.end)
    restored = each_type.decode(StepPlan((), (Chunk(0, 96, ending[96:], SAMPLER),)))[0].copy()
    assert np.array_equal(undisturbed.view(np.uint32), restored.view(np.uint32))
    for image in images:
        again = page(each_type, 0, image.info.start, image.info.end)
        assert bytes(again.data) == bytes(image.data)
    each_type.release(0)


def test_a_part_of_a_page_is_restored_as_it_was(ledger):
    compute(ledger, 0, TEXT[:40])
    image = page(ledger, 0, 0, 32)
    assert ledger.import_page(image, 1, 0, 20)
    assert ledger.faults({0: range(40), 1: range(20)}) == []
    compute(ledger, 1, (*TEXT[:20], 700, 701), start=20)
    assert ledger.faults({0: range(40), 1: range(22)}) == []


def test_a_page_whose_cells_lay_scattered_is_restored_in_order(ledger):
    compute(ledger, 1, TEXT[:30])
    compute(ledger, 0, TEXT[:60])
    ledger.release(1)
    text = (*TEXT[:60], *TEXT[:10])
    compute(ledger, 0, text, start=60)
    assert ledger.cell_order(0) != tuple(range(70))
    image = page(ledger, 0, 0, 70, text)
    ledger.release(0)
    assert ledger.import_page(image, 0, 0, 70)
    assert ledger.cell_order(0) == tuple(range(70))
    assert ledger.faults({0: range(70)}) == []


def test_an_image_that_finds_no_cells_changes_nothing(ledger):
    for seq_id in range(2):
        ledger.decode(StepPlan((), (Chunk(seq_id, 0, TEXT * 2, None),)))
    image = page(ledger, 0, 0, 96)
    ledger.decode(StepPlan((), (Chunk(2, 0, TEXT[:64], None),)))
    assert not ledger.import_page(image, 3, 0, 96)
    assert ledger.faults({0: range(192), 1: range(192), 2: range(64)}) == []


def test_cells_that_several_share_go_elsewhere_for_all_of_them(ledger):
    compute(ledger, 3, TEXT[:50])
    compute(ledger, 0, TEXT[:60])
    for other in (1, 4):
        ledger.share(0, other, 0, 40)
    before = page(ledger, 0, 0, 40)
    ledger.release(3)
    cells = CellMap(NUM_CELLS, NUM_SEATS)
    work = CellWork(cells, SCRATCH)
    cells.take(3, 0, 50)
    cells.take(0, 0, 60)
    for other in (1, 4):
        cells.share(0, other, 0, 40)
    cells.release(3)
    work.relocate((0, 1, 4), 0, 40)
    PageMover(ledger, zlib.crc32).run(work.take_moves())
    expected = cells.positions()
    assert ledger.faults(expected) == []
    assert all(ledger.cell_order(seq_id) == expected[seq_id] for seq_id in (0, 1, 4))
    assert bytes(page(ledger, 1, 0, 40).data) == bytes(before.data)
    ledger.release(0)
    ledger.release(1)
    assert ledger.faults({4: range(40)}) == []


def test_moving_what_is_not_there_moves_nothing(ledger):
    compute(ledger, 0, TEXT[:20])
    work = CellWork(CellMap(NUM_CELLS, NUM_SEATS), SCRATCH)
    work.cells.take(0, 0, 60)
    work.relocate((0,), 20, 60)
    PageMover(ledger, zlib.crc32).run(work.take_moves())
    assert ledger.faults({0: range(20)}) == []


# ── the map of cells is that of llama.cpp ──

KINDS = ["compute", "compute", "share", "release", "release tail", "restore", "relocate"]
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, NUM_IDS - 1),
        st.integers(0, NUM_IDS - 1),
        st.integers(1, 90),
    ),
    min_size=5,
    max_size=25,
)


class Mirrored:
    """Does the same to llama.cpp and to the map."""

    def __init__(self, ledger) -> None:
        self.ledger = ledger
        self.cells = CellMap(NUM_CELLS, NUM_SEATS)
        self.work = CellWork(self.cells, SCRATCH)
        self.mover = PageMover(ledger, zlib.crc32)
        self.images = []

    def length(self, seq_id):
        return len(self.ledger.of.get(seq_id, ()))

    def do(self, kind, one, other, num):
        length = self.length(one)
        match kind:
            case "compute" if one < NUM_SEATS and num <= self.cells.num_free:
                tokens = tuple(300 + (length + at) * (one + 3) % 700 for at in range(num))
                self.ledger.decode(StepPlan((), (Chunk(one, length, tokens, None),)))
                self.cells.take(one, length, num)
            case "share" if one != other and length and not self.length(other):
                self.work.share(one, other, 0, min(num, length))
            case "release":
                self.export(one, min(num, length))
                self.work.release(one)
            case "release tail" if length:
                self.work.release(one, length * num // 100, None)
            case "restore" if self.images and not length:
                self.restore(self.images[num % len(self.images)], one, num)
            case "relocate" if length:
                self.relocate(one, min(num, length))
        self.mover.run(self.work.take_moves())

    def export(self, seq_id, end):
        if end:
            tokens = [self.ledger.of[seq_id][at].token for at in range(end)]
            self.images.append(page(self.ledger, seq_id, 0, end, tokens))

    def restore(self, image, seq_id, num):
        if len(image.info.tokens) <= self.cells.num_free:
            self.work.restore(image, seq_id, 0, min(num, image.info.end))

    def relocate(self, seq_id, num):
        stretch = self.cells.highest_stretch(range(NUM_IDS), num)
        if stretch is not None:
            self.work.relocate(*stretch)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(orders=ORDERS)
def test_the_map_knows_the_cells_of_llama_cpp(loaded, make_ledger, orders):
    ledger = make_ledger(loaded, NUM_CELLS)
    mirrored = Mirrored(ledger)
    try:
        for order in orders:
            mirrored.do(*order)
            expected = mirrored.cells.positions()
            assert ledger.faults(expected) == []
            for seq_id in range(NUM_IDS + 1):
                assert loaded.cell_order(seq_id) == expected.get(seq_id, ())
    finally:
        ledger.forget_all(NUM_IDS + 1)


# ── mutations: the checks must fail ──


@pytest.fixture
def two_tenants(ledger):
    """A text that was restored from two pages, and one of another tenant; both are as they were."""
    compute(ledger, 0, TEXT[:64])
    images = [page(ledger, 0, start, start + 32) for start in (0, 32)]
    ledger.release(0)
    for image in images:
        ledger.import_page(image, 0, image.info.start, image.info.end)
    compute(ledger, 1, TEXT[::-1][:64])
    assert ledger.faults({0: range(64), 1: range(64)}) == []
    return ledger


def move(memory, source, target, start, end, delta):
    """Puts positions of one sequence elsewhere in another, as no planned move does."""
    lib.llama_memory_seq_cp(memory, source, SCRATCH, start, end)
    lib.llama_memory_seq_rm(memory, source, start, end)
    if delta:
        lib.llama_memory_seq_add(memory, SCRATCH, start, end, delta)
    lib.llama_memory_seq_cp(memory, SCRATCH, target, -1, -1)
    lib.llama_memory_seq_rm(memory, SCRATCH, -1, -1)


def swap(memory, first, second, width):
    parked = NUM_SEATS
    lib.llama_memory_seq_cp(memory, 0, parked, first, first + width)
    lib.llama_memory_seq_rm(memory, 0, first, first + width)
    move(memory, 0, 0, second, second + width, first - second)
    lib.llama_memory_seq_add(memory, parked, first, first + width, second - first)
    lib.llama_memory_seq_cp(memory, parked, 0, -1, -1)
    lib.llama_memory_seq_rm(memory, parked, -1, -1)


def take_over(memory, start, end):
    lib.llama_memory_seq_rm(memory, 0, start, end)
    lib.llama_memory_seq_cp(memory, 1, 0, start, end)


MUTATIONS = {
    "a dropped position": lambda memory: lib.llama_memory_seq_rm(memory, 0, 40, 41),
    "a dropped page": lambda memory: lib.llama_memory_seq_rm(memory, 0, 32, 64),
    "a doubled position": lambda memory: lib.llama_memory_seq_cp(memory, 1, 0, 40, 41),
    "a doubled page": lambda memory: lib.llama_memory_seq_cp(memory, 1, 0, 32, 64),
    "two swapped positions": lambda memory: swap(memory, 10, 11, 1),
    "two swapped pages": lambda memory: swap(memory, 0, 32, 32),
    "a position of another tenant": lambda memory: take_over(memory, 40, 41),
    "a page of another tenant": lambda memory: take_over(memory, 32, 64),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_checks_find(two_tenants, name):
    MUTATIONS[name](two_tenants.memory)
    faults = two_tenants.faults({0: range(64), 1: range(64)})
    assert faults, name
    assert all(fault.startswith("sequence 0") for fault in faults)


def test_an_image_of_another_tenant_is_found_by_its_chain(two_tenants):
    foreign = page(two_tenants, 1, 32, 64, TEXT[::-1])
    two_tenants.release(0, 32, None)
    two_tenants.import_page(PageImage(PageInfo(b"", b"", b"", 32, ()), foreign.data, 0), 0, 32, 64)
    with pytest.raises(AssertionError, match="32 is of another text"):
        two_tenants.text(0)


def test_a_changed_byte_of_an_image_is_found(two_tenants):
    image = page(two_tenants, 0, 0, 32)
    image.data[-1] ^= 1
    two_tenants.release(0)
    two_tenants.backend.import_page(image, 0, 0, 32)
    assert two_tenants.faults({0: range(32), 1: range(64)}) == []  # one cell each
    two_tenants.share(1, 2, 0, 1)
    two_tenants.of[0] = two_tenants._released[0]
    assert two_tenants.faults({0: range(32), 1: range(64), 2: range(1)})
