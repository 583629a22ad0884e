"""Calls of the model that takes its time, and what its worker says of itself."""

import re

from caravan.inference.v1 import embedding_pb2
from caravan.inference.v1 import generation_pb2 as pb
from caravan_testkit.tiny_model import ModelShape
from caravan_testkit.waiting import wait_until

MODEL = "slow"
SETTLE_S = 20.0
# Milliseconds for a token, seconds for a prompt that fills the context.
SLOW = ModelShape(
    num_layers=8,
    width=512,
    num_heads=8,
    num_kv_heads=2,
    ffn_width=2048,
    vocabulary_size=1000,
    context_length=4096,
)


def request(**fields):
    defaults = {
        "model": MODEL,
        "text": "Once",
        "max_output_tokens": 4,
        "sampling": pb.SamplingOptions(temperature=0),
    }
    return pb.GenerateRequest(**{**defaults, **fields})


def stream(client, *, timeout=60, **fields):
    return client.inference.StreamGenerate(
        request(**fields), metadata=client.metadata, timeout=timeout
    )


def generate(client, **fields):
    return client.inference.Generate(request(**fields), metadata=client.metadata, timeout=60)


class Worker:
    """The worker's numbers, as the engine's operations port shows them."""

    def __init__(self, stack):
        self._stack = stack

    def _numbers(self, name):
        lines = re.findall(rf"^{name}\{{[^}}]*\"{MODEL}\".*\}} (\S+)$", self._metrics, re.MULTILINE)
        assert lines, name
        return [float(number) for number in lines]

    def look(self):
        self._metrics = self._stack.metrics("engine")
        return self

    @property
    def num_ended(self):
        """Requests that ended early."""
        ends = re.findall(
            rf'^llama_requests_total\{{model="{MODEL}",.*status="(?:cancelled|error)"\}} (\S+)$',
            self._metrics,
            re.MULTILINE,
        )
        return sum(map(float, ends))

    @property
    def num_running(self):
        return sum(self._numbers("vllm:num_requests_running"))

    @property
    def num_waiting(self):
        return sum(self._numbers("vllm:num_requests_waiting"))

    @property
    def is_idle(self):
        used = self._numbers("vllm:kv_cache_usage_perc")
        return self.num_running == self.num_waiting == sum(used) == 0

    def await_end(self, num_before, count=1):
        """Waits until `count` more requests have ended and nothing is left of them."""
        wait_until(
            lambda: self.look().num_ended >= num_before + count and self.is_idle,
            timeout_s=SETTLE_S,
            what="the worker to be idle",
        )


def embed(client, *inputs, model=MODEL, **fields):
    message = embedding_pb2.EmbedRequest(model=model, inputs=inputs, **fields)
    return client.inference.Embed(message, metadata=client.metadata, timeout=60)
