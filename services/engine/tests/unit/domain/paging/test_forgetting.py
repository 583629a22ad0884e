"""What is left of a tenant's texts when they are dropped."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Wipe
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.request import ClientKey

PREFIX = bytes(range(40))
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


def test_the_pages_of_a_tenant_can_be_dropped_and_are_zeroed(make_rig):
    rig = make_rig()
    for name in ("acme", "other"):
        rig.complete(rig.submit(PREFIX, max_output=2, client=ClientKey(name)))
    root = root_key("", "acme")
    images = [node.image for node in rig.kv.store.tree if node.info.root == root]
    assert rig.kv.store.drop_all(root) == len(images) > 0
    assert all(bytes(image.data) == bytes(len(image.data)) for image in images)
    kept = rig.submit(PREFIX, max_output=1, client=ClientKey("other"))
    gone = rig.submit(PREFIX, max_output=1, client=ClientKey("acme"))
    rig.complete(kept, gone)
    assert (kept.group.cached_tokens, gone.group.cached_tokens) == (39, 0)


def settle(rig):
    for _ in range(100):
        if rig.step().is_empty:
            return
        rig.check_integrity()


def test_cells_are_zeroed_after_a_drop_as_soon_as_nobody_computes(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(PREFIX, max_output=2))
    other = rig.submit(b"somebody else", max_output=20, client=ClientKey("other"))
    rig.step()
    assert rig.kv.drop("default") > 0
    rig.step()
    assert len(rig.moves(Wipe)) == 0
    rig.complete(other)
    settle(rig)
    assert (len(rig.moves(Wipe)), rig.backend.num_wipes) == (1, 1)
    rig.complete(rig.submit(PREFIX, max_output=9))
    assert rig.backend.num_wipes == 1


def test_idle_pages_of_others_make_way_for_zeroing_and_are_not_lost(make_rig):
    rig = make_rig(kv=DEVICE)
    for name in ("acme", "other"):
        rig.complete(rig.submit(PREFIX, max_output=2, client=ClientKey(name)))
    assert rig.kv.cells.num_used
    rig.kv.drop("acme")
    settle(rig)
    assert rig.backend.num_wipes == 1
    kept = rig.submit(PREFIX, max_output=9, client=ClientKey("other"))
    rig.complete(kept)
    assert kept.group.cached_tokens == 39


def test_what_runs_or_waits_when_its_tenants_pages_are_dropped_is_not_filed(make_rig):
    rig = make_rig(num_seats=1)
    low = rig.submit(PREFIX, max_output=12, priority=1)
    for _ in range(3):
        rig.step()
    high = rig.submit(b"h" * 40, max_output=12, priority=50)
    rig.step()
    assert low.group.is_parked
    rig.kv.drop("default")
    rig.complete(low, high)
    assert rig.kv.store.num_pages == 0
    again = rig.submit(PREFIX, max_output=2)
    rig.complete(again)
    assert again.group.cached_tokens == 0
    assert rig.kv.store.num_pages > 0


def test_a_page_that_is_dropped_while_it_leaves_the_cells_is_zeroed(make_rig):
    copies = []

    class Copying(FakeBackend):
        def export_page(self, seq_id, start, end):
            copies.append(FakeBackend.export_page(self, seq_id, start, end))
            return copies[-1]

    rig = make_rig(Copying())
    sequence = rig.submit(PREFIX, max_output=2)
    while not sequence.output.finished:
        rig.step()
    rig.kv.drop("default")
    rig.carry_out_moves()
    assert copies
    assert all(bytes(each) == bytes(len(each)) for each in copies)
    assert rig.kv.store.num_pages == 0


@given(
    orders=st.lists(
        st.tuples(st.sampled_from(["acme", "other"]), st.integers(1, 60), st.booleans()),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_drops_at_any_moment_change_no_text_and_no_other_tenant(make_rig, orders):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=3, context_tokens=100)
    sequences = []
    for tenant, length, drops in orders:
        client = ClientKey(tenant)
        sequences.append(rig.submit(PREFIX[:length], max_output=length % 7 + 1, client=client))
        rig.step()
        rig.check_integrity()
        if drops:
            rig.kv.drop(tenant)
            assert root_key("", tenant) not in {node.info.root for node in rig.kv.store.tree}
    rig.complete(*sequences)
    settle(rig)
    if any(drops for *_, drops in orders):
        assert rig.backend.num_wipes >= 1
