"""Calls of a program that is traced, and of one that is not."""

import asyncio
import re

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from caravan_client import AsyncCaravan, Caravan, NotFoundError

GIVEN = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    return exporter.get_finished_spans


@pytest.fixture
def client(gateway, api_key):
    with Caravan(gateway.address) as client:
        yield client


def sent(gateway):
    return [metadata["traceparent"] for _, _, metadata in gateway.calls]


def ids(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_each_call_has_a_span_which_the_gateway_is_told(client, gateway, spans):
    client.generate("a", model="alpha")
    list(client.stream_chat("a", model="alpha"))
    client.models.get("alpha")
    assert [ids(span) for span in spans()] == sent(gateway)
    names = [span.name for span in spans()]
    assert names == [
        "text_completion alpha",
        "chat alpha",
        "caravan.model.v1.ModelService/GetModel",
    ]


def test_a_stream_that_is_left_has_a_span_that_ended_well(client, gateway, spans):
    gateway.endless = True
    with client.stream("a", model="alpha") as stream:
        next(stream)
        assert not spans()
    (span,) = spans()
    assert span.status.is_unset


def test_a_repeated_call_is_one_span_and_a_failed_one_says_why(
    client, gateway, spans, reason_failure
):
    gateway.failures += [
        reason_failure("MODEL_LOADING", "Wait.", retry_after_s=0.01),
        reason_failure("MODEL_NOT_FOUND", "No."),
    ]
    with pytest.raises(NotFoundError):
        client.generate("a", model="alpha")
    (span,) = spans()
    assert sent(gateway) == [ids(span)] * 2
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"


def test_given_trace_context_is_passed_as_it_is(client, gateway, spans):
    client.generate("a", model="alpha", traceparent=GIVEN)
    assert sent(gateway) == [GIVEN]
    assert not spans()


def test_an_untraced_program_draws_context_that_says_so(client, gateway):
    client.status()
    (drawn,) = sent(gateway)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", drawn)


def test_the_async_client_does_the_same(gateway, api_key, spans):
    async def call():
        async with AsyncCaravan(gateway.address) as client:
            await client.generate("a", model="alpha")
            async with client.stream("a", model="alpha") as stream:
                async for _ in stream:
                    pass

    asyncio.run(call())
    assert [ids(span) for span in spans()] == sent(gateway)
