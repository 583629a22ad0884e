"""Who finds what others computed, as seen from what the backend was made to compute."""

import pytest

from caravan_engine.domain.request import ClientKey

PREFIX = bytes(range(40))
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


def test_a_beginning_that_several_have_is_computed_once(make_rig):
    rig = make_rig(token_budget=64)
    sequences = [rig.submit(PREFIX + bytes([200 + n] * 3), max_output=4) for n in range(4)]
    rig.complete(*sequences)
    assert rig.num_computed == 40 + 4 * 3 + 4 * 3
    assert [each.group.cached_tokens for each in sequences] == [0, 40, 40, 40]


def test_who_comes_while_it_is_computed_waits_for_it(make_rig):
    rig = make_rig(token_budget=8)
    first = rig.submit(PREFIX, max_output=2)
    rig.step()
    second = rig.submit(PREFIX + b"more", max_output=2)
    rig.complete(first, second)
    assert rig.num_computed == 40 + 1 + 4 + 1


def test_who_waits_for_a_beginning_goes_on_when_it_is_cancelled(make_rig):
    rig = make_rig(token_budget=8)
    first = rig.submit(PREFIX, max_output=2)
    rig.step()
    second = rig.submit(PREFIX + b"more", max_output=2)
    rig.step()
    rig.scheduler.cancel(first.group, rig.clock())
    rig.complete(second)
    assert second.group.cached_tokens in (8, 16)  # what was computed until then


def test_what_ended_is_found_again_also_in_the_middle_of_a_page(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(PREFIX, max_output=8))
    before = rig.num_computed
    later = rig.submit(PREFIX[:29] + b"another way", max_output=1)
    rig.complete(later)
    assert later.group.cached_tokens == 29
    assert rig.num_computed - before == 11


def test_a_conversation_goes_on_from_its_answer(make_rig):
    rig = make_rig()
    first = rig.submit(PREFIX, max_output=20)
    rig.complete(first)
    prompt = PREFIX + bytes(first.output.tokens) + b"and then?"
    second = rig.submit(prompt, max_output=3)
    rig.complete(second)
    assert second.group.cached_tokens == 40 + 20 - 1  # the last token was never computed


def test_other_tenants_compute_for_themselves(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(PREFIX, max_output=2, client=ClientKey("acme")))
    stranger = rig.submit(PREFIX, max_output=2, client=ClientKey("other"))
    rig.complete(stranger)
    assert stranger.group.cached_tokens == 0
    both = [rig.submit(b"x" * 40, max_output=2, client=ClientKey(name)) for name in ("a", "b")]
    rig.complete(*both)
    assert [each.group.cached_tokens for each in both] == [0, 0]


@pytest.mark.parametrize("kv", [{}, DEVICE, {"can_cut": False}], ids=["host", "device", "wholes"])
def test_what_another_tenant_has_stored_changes_no_step(make_rig, kv):
    """Steps are what timing follows from: who asks learns nothing of what others asked."""

    def steps(stored_by):
        rig = make_rig(kv=kv, token_budget=16, can_share=kv.get("can_cut", True))
        for text in (PREFIX, PREFIX + b"and more", b"something else"):
            rig.complete(rig.submit(text, max_output=12, client=ClientKey(stored_by)))
        rig.plans.clear()
        probe = rig.submit(PREFIX + b"and more?", max_output=6, client=ClientKey("prober"))
        rig.complete(probe)
        shapes = [
            tuple((chunk.start, len(chunk.tokens)) for chunk in plan.chunks) for plan in rig.plans
        ]
        return probe.group.cached_tokens, list(filter(None, shapes))

    def alone():
        rig = make_rig(kv=kv, token_budget=16, can_share=kv.get("can_cut", True))
        probe = rig.submit(PREFIX + b"and more?", max_output=6, client=ClientKey("prober"))
        rig.complete(probe)
        return [
            tuple((chunk.start, len(chunk.tokens)) for chunk in plan.chunks)
            for plan in rig.plans
            if plan.chunks
        ]

    cached, with_others = steps("somebody")
    assert cached == 0
    assert with_others == alone()
    own_cached, _ = steps("prober")
    assert own_cached == (0 if kv.get("can_cut") is False else 48)  # his own would be found
