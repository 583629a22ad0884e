"""What stays of texts between requests, over the wire and on a real model."""

import pytest

BUDGET_BYTES = 190 * 528  # two texts and a half, by what a token of the tiny model takes
LEADS = [f"{lead} is where this story begins, and it goes on and on. " * 3 for lead in "ABCDEF"]


def cached_tokens(answers):
    return answers[-1].event.completed.usage.cached_tokens


def output_of(answers):
    return "".join(answer.event.delta.text for answer in answers)


@pytest.mark.parametrize("disk_bytes", [0, 1 << 24], ids=["memory", "disk"])
async def test_a_conversation_goes_on_where_it_was_while_others_were_dropped(
    start_host, view_of, disk_bytes
):
    first_text, *others = LEADS
    host = start_host(
        *("--kv.page-size", "16", "--kv.host-budget-bytes", str(BUDGET_BYTES)),
        *("--kv.disk-budget-bytes", str(disk_bytes)),
    )
    view = await view_of(host)
    first = await view.run(text=first_text, session_id="talk")
    for text in others:
        await view.run(text=text)
    next_turn = first_text + output_of(first) + " And then?"
    second = await view.run(text=next_turn, session_id="talk")
    assert cached_tokens(second) >= first[-1].event.completed.usage.input_tokens
    if not disk_bytes:
        assert cached_tokens(await view.run(text=others[0])) < 16
