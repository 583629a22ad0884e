"""A worker of the engine, played: what it answers follows from the request's text."""

import asyncio
from collections import Counter

from fake_server import FakeServer, RefusedError

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_rpckit.errors import Reason
from caravan_rpckit.server import DEFAULT_REQUEST_LIMIT_BYTES


class FakeWorker(FakeServer):
    """Runs requests by their text.

    `hang`, `choices`, `flood`, `refuse`, `unfinished`, or a number of tokens, of which a continued
    request gets the rest. `refusals` are the reasons for which the next runs are refused, and once
    `leaving` is set every run ends with DRAINING. `hold_after` so many events a run hangs. One that
    `forgets` takes a continued request for a new one.
    """

    request_limit_bytes = 2 * DEFAULT_REQUEST_LIMIT_BYTES

    def __init__(self, home):
        super().__init__(home, "engine")
        self.runs = []
        self.orders = []
        self.metadata = []
        self.num_live = 0
        self.num_events = 0
        self.outcomes = Counter()
        self.pause_s = 0.0
        self.refusals = []
        self.leaving = asyncio.Event()
        self.hold_after = None
        self.forgets = False
        self.kept = {}  # what FindStream answers, by tenant, principal and request id
        self.found = []
        self.recorded = []
        self.dropped = []
        self.stopped = []
        self.num_watchers = 0
        self._held = ()
        self._held_changed = asyncio.Event()

    def add_to(self, server):
        server.add(self, worker_pb.DESCRIPTOR.services_by_name["WorkerService"], peers=("gateway",))

    async def Run(self, request, call):
        self.runs.append(request)
        self.metadata.append(dict(call.metadata))
        self.num_live += 1
        outcome = "cancelled"
        try:
            if self.refusals:
                raise RefusedError(self.refusals.pop(0))
            num_events = 0
            async for response in self._events(request):
                self.num_events += 1
                yield response
                num_events += 1
                if num_events == self.hold_after:
                    await asyncio.Event().wait()
            outcome = "done"
        finally:
            self.num_live -= 1
            self.outcomes[outcome] += 1

    async def Embed(self, request, call):
        self.runs.append(request)
        self.metadata.append(dict(call.metadata))
        first = request.request.inputs[0].text
        if self.refusals:
            raise RefusedError(self.refusals.pop(0))
        await self._act(first)
        width = int(first) if first.isdecimal() else 2
        response = embedding_pb.EmbedResponse(
            request_id=request.caller.request_id,
            model=request.request.model,
            model_digest="d" * 64,
            embeddings=[
                embedding_pb.Embedding(values=[0.5] * width, input_tokens=3)
                for _ in request.request.inputs
            ],
            pooling=embedding_pb.POOLING_MEAN,
            usage=generation_pb.Usage(input_tokens=3 * len(request.request.inputs)),
        )
        timings = worker_pb.RunTimings(queue_ms=2.5)
        return worker_pb.EmbedResponse(response=response, timings=timings)

    async def Tokenize(self, request, call):
        self.runs.append(request)
        self.metadata.append(dict(call.metadata))
        await self._act(request.request.text)
        ids = range(int(request.request.text) if request.request.text.isdecimal() else 3)
        return worker_pb.TokenizeResponse(response=tokenization_pb.TokenizeResponse(ids=ids))

    async def Detokenize(self, request, call):
        self.runs.append(request)
        text = "tok " * len(request.request.ids)
        return worker_pb.DetokenizeResponse(response=tokenization_pb.DetokenizeResponse(text=text))

    async def _act(self, text):
        if text == "refuse":
            raise RefusedError(Reason.NO_CHAT_TEMPLATE, metadata={"model": "tiny"})
        if text == "hang":
            self.num_live += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.num_live -= 1

    async def WatchStats(self, request, call):
        yield worker_pb.WatchStatsResponse()

    async def GetCheckpoints(self, request, call):
        if self.refusals:
            raise RefusedError(self.refusals.pop())
        return worker_pb.GetCheckpointsResponse(
            checkpoints=checkpoints_pb.WorkerCheckpoints(model=request.model, page_count=3)
        )

    async def PruneCheckpoints(self, request, call):
        self.orders.append(request)
        if self.refusals:
            raise RefusedError(self.refusals.pop())
        return worker_pb.PruneCheckpointsResponse(dropped_request_count=1, dropped_page_count=3)

    async def FindStream(self, request, call):
        found = self.kept.get(
            (request.caller.tenant, request.caller.principal, request.caller.request_id)
        )
        if found is None:
            raise RefusedError(Reason.STREAM_NOT_KEPT)
        self.found.append(request)
        return found

    async def ReleaseStreams(self, request, call):
        self.recorded += request.recorded_usage_ids
        self.dropped += request.dropped_usage_ids
        return worker_pb.ReleaseStreamsResponse()

    async def StopStream(self, request, call):
        caller = request.caller
        if (caller.tenant, caller.principal, caller.request_id) not in self.kept:
            raise RefusedError(Reason.STREAM_NOT_KEPT)
        self.stopped.append(caller.request_id)
        return worker_pb.StopStreamResponse()

    def hold(self, *hashes):
        """From now on it has these beginnings."""
        self._held = hashes
        self._held_changed.set()

    async def WatchPrefixes(self, request, call):
        self.num_watchers += 1
        try:
            while True:
                yield worker_pb.WatchPrefixesResponse(hashes=self._held)
                await self._held_changed.wait()
                self._held_changed.clear()
        finally:
            self.num_watchers -= 1

    async def DropPages(self, request, call):
        self.orders.append(request)
        if self.refusals:
            raise RefusedError(self.refusals.pop(0))
        return worker_pb.DropPagesResponse(dropped_page_count=3)

    async def SetPageBudgets(self, request, call):
        self.orders.append(request)
        return worker_pb.SetPageBudgetsResponse()

    async def ShareCores(self, request, call):
        return worker_pb.ShareCoresResponse()

    async def Drain(self, request, call):
        return worker_pb.DrainResponse()

    async def _events(self, request):
        text = request.request.text
        if text == "refuse":
            raise RefusedError(
                Reason.CONTEXT_LENGTH_EXCEEDED,
                metadata={"input_tokens": "9", "context_tokens": "8"},
            )
        yield self._started(request)
        if text == "choices":
            for response in _two_choices():
                yield response
            return
        if text == "hang":
            await asyncio.Event().wait()
        num_tokens = 100_000_000 if text == "flood" else int(text) if text.isdecimal() else 3
        content = "x" * 16_384 if text == "flood" else "tok "
        choices = () if self.forgets else request.continuation.choices
        for index in range(len(choices[0].token_ids) if choices else 0, num_tokens):
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
            if self.leaving.is_set():
                raise RefusedError(Reason.DRAINING)
            yield _delta(index, content)
        if text == "unfinished":
            return
        for response in _ending(num_tokens):
            yield response

    def _started(self, request):
        started = generation_pb.Started(
            request_id=request.caller.request_id,
            model=request.request.model,
            model_digest="d" * 64,
            seed=request.request.seed,
            input_tokens=7,
            cached_tokens=2,
        )
        return worker_pb.RunResponse(event=generation_pb.GenerateEvent(started=started))


def _delta(index, text):
    delta = generation_pb.Delta(text=text, token_ids=[index], token_offset=index)
    return worker_pb.RunResponse(event=generation_pb.GenerateEvent(delta=delta))


def _two_choices():
    """Two choices in turns, the second of which ends first, with log-probabilities."""
    for index, choice in enumerate((1, 0, 1, 0, 0)):
        delta = generation_pb.Delta(
            choice_index=choice,
            text=f"{choice}",
            token_ids=[index],
            token_offset=index // 2,
            logprobs=[generation_pb.TokenLogprobs(logprob=-float(index))],
        )
        yield worker_pb.RunResponse(
            event=generation_pb.GenerateEvent(delta=delta), mirostat_mu=index + 0.5
        )
    for choice, reason, num_tokens in ((1, "END_OF_TEXT", 2), (0, "LENGTH", 3)):
        finished = generation_pb.Finished(
            choice_index=choice,
            finish_reason=generation_pb.FinishReason.Value(f"FINISH_REASON_{reason}"),
            output_tokens=num_tokens,
        )
        yield worker_pb.RunResponse(event=generation_pb.GenerateEvent(finished=finished))
    usage = generation_pb.Usage(input_tokens=7, output_tokens=5)
    completed = generation_pb.Completed(usage=usage)
    yield worker_pb.RunResponse(event=generation_pb.GenerateEvent(completed=completed))


def _ending(num_tokens):
    finished = generation_pb.Finished(
        finish_reason=generation_pb.FINISH_REASON_STOP_STRING,
        stop_string="!",
        output_tokens=num_tokens,
    )
    usage = generation_pb.Usage(input_tokens=7, cached_tokens=2, output_tokens=num_tokens)
    completed = generation_pb.Completed(usage=usage)
    return (
        worker_pb.RunResponse(event=generation_pb.GenerateEvent(finished=finished)),
        worker_pb.RunResponse(
            event=generation_pb.GenerateEvent(completed=completed),
            timings=worker_pb.RunTimings(queue_ms=1.5),
        ),
    )
