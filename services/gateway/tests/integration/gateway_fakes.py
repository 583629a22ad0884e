"""The services around the gateway, played by small servers with real mutual TLS."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import model_pb2, model_service_pb2
from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan.policy.v1 import principal_pb2
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import span_pb2
from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan_obskit.otlp import TRACE_SERVICE
from caravan_rpckit.errors import CaravanError, FieldViolation, Reason
from caravan_rpckit.server import DEFAULT_REQUEST_LIMIT_BYTES, RpcServer
from caravan_rpckit.tls import TlsIdentity


class RefusedError(CaravanError):
    def __init__(self, reason: Reason, **details):
        super().__init__("Refused by a fake.", **details)
        self.reason = reason


class FakeServer:
    """Starts on a free port, and after a stop on the same one again."""

    request_limit_bytes = DEFAULT_REQUEST_LIMIT_BYTES

    def __init__(self, home, service):
        self._tls = TlsIdentity.in_home(home, service)
        self._server = None
        self.port = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def add_to(self, server):
        raise NotImplementedError

    async def start(self):
        self._server = RpcServer(
            f"127.0.0.1:{self.port}",
            tls=self._tls,
            request_limit_bytes=self.request_limit_bytes,
        )
        self.add_to(self._server)
        await self._server.start()
        self._server.set_all_serving(True)
        self.port = self._server.port

    async def stop(self, grace_s=0):
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace_s)


@dataclass
class Key:
    key_id: str
    principal: str = "alice"
    permissions: set = field(default_factory=lambda: {"inference"})
    priority_cap: int = 50
    expire_time_s: float | None = None
    refusal: Reason | None = None


class FakePolicy(FakeServer):
    def __init__(self, home):
        super().__init__(home, "policy")
        self.version = 1
        self.keys: dict[str, Key] = {}
        self.num_authentications = 0
        self.num_checks = 0
        self.questions = []
        self.forwarded = []
        self.hold: asyncio.Event | None = None
        self.hold_answer: asyncio.Event | None = None
        self._watchers: set[asyncio.Queue] = set()

    def add_to(self, server):
        descriptors = (
            authentication_pb.DESCRIPTOR.services_by_name["AuthenticationService"],
            authorization_pb.DESCRIPTOR.services_by_name["AuthorizationService"],
            admin_pb.DESCRIPTOR.services_by_name["PolicyAdminService"],
        )
        for descriptor in descriptors:
            server.add(self, descriptor, peers=("gateway",))

    def add_key(self, secret, **values):
        self.keys[secret] = Key(**{"key_id": f"id-{len(self.keys)}", **values})
        return self.keys[secret]

    def revoke(self, secret):
        self.keys[secret].refusal = Reason.KEY_REVOKED
        self.announce(self.keys[secret].key_id)

    def announce(self, *revoked_key_ids):
        self.version += 1
        for watcher in self._watchers:
            watcher.put_nowait((self.version, revoked_key_ids))

    async def Authenticate(self, request, call):
        self.num_authentications += 1
        version = self.version
        if self.hold is not None:
            await self.hold.wait()
        key = self.keys.get(request.credential)
        if key is None:
            raise RefusedError(Reason.INVALID_CREDENTIAL)
        if key.refusal is not None:
            raise RefusedError(key.refusal)
        response = authentication_pb.AuthenticateResponse(
            principal=principal_pb2.Principal(
                name=key.principal, tenant="default", priority_cap=key.priority_cap
            ),
            key_id=key.key_id,
            policy_version=version,
        )
        if key.expire_time_s is not None:
            response.expire_time.FromNanoseconds(round(key.expire_time_s * 1e9))
        if self.hold_answer is not None:
            await self.hold_answer.wait()
        return response

    async def CheckPermission(self, request, call):
        self.num_checks += 1
        self.questions.append((request.permission, request.resource))
        allowed = any(
            request.permission in key.permissions
            for key in self.keys.values()
            if key.principal == request.principal
        )
        return authorization_pb.CheckPermissionResponse(
            allowed=allowed, policy_version=self.version
        )

    async def WatchPolicy(self, request, call):
        news = asyncio.Queue()
        self._watchers.add(news)
        try:
            yield authorization_pb.WatchPolicyResponse(policy_version=self.version)
            while True:
                version, revoked = await news.get()
                yield authorization_pb.WatchPolicyResponse(
                    policy_version=version, revoked_key_ids=revoked
                )
        finally:
            self._watchers.discard(news)

    async def CreateApiKey(self, request, call):
        caller = worker_pb.Caller.FromString(call.binary_metadata("caravan-caller-bin"))
        self.forwarded.append((request, dict(call.metadata), caller))
        if request.principal == "nobody":
            raise RefusedError(Reason.RESOURCE_NOT_FOUND, metadata={"principal": "nobody"})
        return admin_pb.CreateApiKeyResponse(secret="cvn_new")

    async def GetPrincipal(self, request, call):
        return admin_pb.GetPrincipalResponse()

    async def ListPrincipals(self, request, call):
        return admin_pb.ListPrincipalsResponse()

    async def CreatePrincipal(self, request, call):
        return admin_pb.CreatePrincipalResponse()

    async def ListApiKeys(self, request, call):
        return admin_pb.ListApiKeysResponse()

    async def RevokeApiKey(self, request, call):
        return admin_pb.RevokeApiKeyResponse()

    async def ListRoles(self, request, call):
        return admin_pb.ListRolesResponse()


class FakeEngine(FakeServer):
    """An engine host: what it says of its models is set by the test."""

    def __init__(self, home):
        super().__init__(home, "engine")
        self.models = {}
        self.endpoints = {}
        self.worker_stats = []
        self.says_numbers = True
        self.loads_running = 0
        self.drains = []
        self._watchers: set[asyncio.Queue] = set()

    def add_to(self, server):
        server.add(
            self,
            endpoint_pb.DESCRIPTOR.services_by_name["EndpointService"],
            peers=("gateway",),
        )
        server.add(
            self,
            model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
            peers=("gateway",),
        )
        server.add(self, host_pb.DESCRIPTOR.services_by_name["HostService"], peers=("gateway",))

    def set_model(self, name, state="READY", *, aliases=(), replicas=()):
        self.models[name] = model_pb2.Model(
            name=name,
            aliases=aliases,
            state=model_pb2.ModelState.Value(f"MODEL_STATE_{state}"),
            replicas=replicas,
        )

    def set_endpoint(self, worker_id, address, *, model="tiny", replica_index=0, digest="d" * 64):
        self.endpoints[worker_id] = endpoint_pb.Endpoint(
            model=model,
            model_digest=digest,
            replica_index=replica_index,
            worker_id=worker_id,
            address=address,
        )

    def announce(self):
        for watcher in self._watchers:
            watcher.put_nowait(None)

    async def WatchEndpoints(self, request, call):
        news = asyncio.Queue()
        self._watchers.add(news)
        try:
            while True:
                yield endpoint_pb.WatchEndpointsResponse(
                    host_id="host-1",
                    models=self.models.values(),
                    endpoints=self.endpoints.values(),
                )
                await news.get()
        finally:
            self._watchers.discard(news)

    async def GetWorkerStats(self, request, call):
        if not self.says_numbers:
            raise RefusedError(Reason.INTERNAL)
        return host_pb.GetWorkerStatsResponse(workers=self.worker_stats)

    async def DrainWorkers(self, request, call):
        self.drains.append(request)
        return host_pb.DrainWorkersResponse(worker_count=2, ended_request_count=1)

    async def ListModels(self, request, call):
        return model_service_pb2.ListModelsResponse(models=self.models.values())

    async def GetModel(self, request, call):
        if request.model not in self.models:
            raise RefusedError(Reason.MODEL_NOT_FOUND, metadata={"model": request.model})
        return model_service_pb2.GetModelResponse(model=self.models[request.model])

    async def LoadModel(self, request, call):
        self.loads_running += 1
        try:
            yield model_service_pb2.LoadModelResponse(phase=model_service_pb2.LOAD_PHASE_LOADING)
            if request.model == "slow":
                await asyncio.Event().wait()
            yield model_service_pb2.LoadModelResponse(phase=model_service_pb2.LOAD_PHASE_READY)
        finally:
            self.loads_running -= 1

    async def UnloadModel(self, request, call):
        return model_service_pb2.UnloadModelResponse()


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


class FakeTelemetry(FakeServer):
    def __init__(self, home):
        super().__init__(home, "telemetry")
        self.records = {}
        self.num_batches = 0
        self.refused_ids = set()
        self.acknowledge = True
        self.spans = []
        self.questions = []

    def add_to(self, server):
        server.add(self, ingest_pb.DESCRIPTOR.services_by_name["IngestService"], peers=("gateway",))
        server.add(self, TRACE_SERVICE, peers=("gateway",))
        query = query_pb.DESCRIPTOR.services_by_name["TraceQueryService"]
        server.add(self, query, peers=("gateway",))

    async def Export(self, request, call):
        for part in request.resource_spans:
            for scope in part.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    async def GetTrace(self, request, call):
        self.questions.append(request.request_id)
        return query_pb.GetTraceResponse(spans=[span_pb2.Span(name="call")])

    async def IngestUsage(self, request, call):
        self.num_batches += 1
        faults = [
            FieldViolation(f"records[{at}].labels", "is refused by a fake")
            for at, record in enumerate(request.records)
            if record.request_id in self.refused_ids
        ]
        if faults:
            raise RefusedError(Reason.INVALID_FIELD, field_violations=faults)
        new = [record for record in request.records if record.id not in self.records]
        self.records.update({record.id: record for record in request.records})
        if not self.acknowledge:
            raise RefusedError(Reason.DEPENDENCY_UNAVAILABLE)
        return ingest_pb.IngestUsageResponse(stored_count=len(new))

    async def StreamWorkerStats(self, requests, call):
        async for _ in requests:
            pass
        return ingest_pb.StreamWorkerStatsResponse()


class Wire:
    """A TCP relay in front of a server, so that its connections can be cut as by a death."""

    def __init__(self, port):
        self._target = port
        self._server = None
        self._writers = set()
        self._tasks = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def freeze(self):
        """Passes nothing on, and says nothing either: packets are lost, connections stay."""
        self._flows.clear()

    def thaw(self):
        """Passes everything on again, also what came meanwhile."""
        self._flows.set()

    async def start(self):
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self):
        """Ends all connections at once and takes no new ones, until it is started again."""
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._flows.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader, writer):
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(
                "127.0.0.1", self._target
            )
        except OSError:
            writer.transport.abort()
            return
        pairs = ((reader, upstream_writer), (upstream_reader, writer))
        self._writers |= {writer, upstream_writer}
        for source, target in pairs:
            task = asyncio.create_task(_pump(source, target, self._flows))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(reader, writer, flows):
    try:
        while data := await reader.read(65_536):
            await flows.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
