"""A stage of the pipeline that notes what becomes of it, and a reader of its events."""

from contextlib import aclosing

from caravan_gateway.domain.admission import Stage
from caravan_gateway.domain.inference_call import RunEvent
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    StartedFacts,
)


class Noting(Stage):
    """Notes its moments; refuses or yields as it is told."""

    def __init__(self, name, notes, *, refusal=None, events=None):
        self.name = name
        self.notes = notes
        self.refusal = refusal
        self.own_events = events

    async def admit(self, call):
        self.notes.append(f"admit {self.name}")
        if self.refusal is not None:
            raise self.refusal

    def follow(self, call, events):
        return self.own_events() if self.own_events is not None else events

    def settle(self, call):
        self.notes.append(f"settle {self.name}")


async def two_events():
    yield RunEvent("a", StartedFacts("d1", 4, 1))
    yield RunEvent("b", CompletedFacts(4, 1, 0, 2.5))


async def read(pipeline, call):
    async with aclosing(pipeline.run(call)) as events:
        return [event.payload async for event in events]
