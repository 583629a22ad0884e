"""A gateway without models behind it, whose answers a test can choose."""

import asyncio
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import inference_service_pb2 as inference_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as model_service_pb
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan.policy.v1 import principal_pb2 as principal_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as trace_query_pb
from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import PublicTls

KEY = "test-key-9d1f"
PATIENCE_S = 30

# Becomes the command in a session of its own, so that Ctrl-C at its terminal reaches it.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "caravan_client", *sys.argv[1:]])
"""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
DIGEST = "ab" * 32


def failure(reason: str, message: str = "No.", **details) -> CaravanError:
    """An error as a service raises it."""
    kind = type("FakeError", (CaravanError,), {"reason": Reason(reason)})
    return kind(message, **details)


class FakeGateway:
    """Serves the public contracts; tests read and write its attributes.

    Attributes:
        calls: (method, request, metadata) of every call that came.
        failures: raised by the next calls, one each, before anything is answered.
        pieces: what a generation answers, one delta each.
        fail_after: raised in a stream after its pieces.
        endless: keep a generation going, a stream after its pieces, until the client leaves.
        waiting: set when a client waits for an endless unary call.
        left: set when a client has left an endless call.
        page_size: how many entries a page of a list has.
    """

    def __init__(self, tls: PublicTls | None = None):
        self.calls: list[tuple[str, object, dict[str, str]]] = []
        self.failures: list[CaravanError] = []
        self.pieces = ["Once ", "upon ", "a time"]
        self.fail_after: CaravanError | None = None
        self.without_end = False
        self.endless = False
        self.waiting = threading.Event()
        self.left = threading.Event()
        self.page_size = 2
        self.hides_numbers = False
        self.finish = generation_pb.FINISH_REASON_END_OF_TEXT
        self.models = dict.fromkeys(("alpha", "beta", "gamma"), model_pb.MODEL_STATE_READY)
        self.principals: dict[str, principal_pb.Principal] = {}
        self.keys: dict[str, principal_pb.ApiKey] = {}
        self._server = RpcServer("127.0.0.1:0", tls=tls, announce_request_id=True)
        for descriptor in (
            inference_pb.DESCRIPTOR.services_by_name["InferenceService"],
            model_service_pb.DESCRIPTOR.services_by_name["ModelService"],
            policy_pb.DESCRIPTOR.services_by_name["PolicyAdminService"],
            gateway_pb.DESCRIPTOR.services_by_name["GatewayAdminService"],
            trace_query_pb.DESCRIPTOR.services_by_name["TraceQueryService"],
        ):
            self._server.add(self, descriptor)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def _admit(self, request, call: Call) -> None:
        self.calls.append((call.method.rpartition("/")[2], request, dict(call.metadata)))
        if call.metadata.get("authorization") != f"Bearer {KEY}":
            raise failure("INVALID_CREDENTIAL", "The API key is missing or not valid.")
        if self.failures:
            raise self.failures.pop(0)

    # InferenceService

    async def Generate(self, request, call: Call):
        self._admit(request, call)
        if self.endless:
            await self._until_client_leaves()
        text = "".join(self.pieces)
        response = generation_pb.GenerateResponse(
            request_id=call.request_id, model="alpha", model_digest=DIGEST, seed=request.seed or 7
        )
        for index in range(request.choice_count or 1):
            response.choices.add(
                index=index, text=text, token_ids=[1, 2, 3], finish_reason=self.finish
            )
        response.usage.CopyFrom(self._usage())
        return response

    async def StreamGenerate(self, request, call: Call) -> AsyncIterator:
        self._admit(request, call)
        try:
            async for event in self._events(request, call):
                yield event
        finally:
            if self.endless:
                self.left.set()

    async def _events(self, request, call: Call) -> AsyncIterator:
        started = generation_pb.Started(
            request_id=call.request_id,
            model="alpha",
            model_digest=DIGEST,
            seed=request.seed or 7,
            input_tokens=4,
        )
        yield generation_pb.GenerateEvent(started=started)
        yield generation_pb.GenerateEvent()  # a kind of event that this client does not know
        for offset, piece in enumerate(self.pieces):
            delta = generation_pb.Delta(text=piece, token_ids=[offset + 1], token_offset=offset)
            if request.HasField("logprobs"):
                best = delta.logprobs.add(logprob=-0.5).top
                best.add(token_id=offset + 1, text=piece, logprob=-0.5)
            yield generation_pb.GenerateEvent(delta=delta)
        if self.endless:
            await asyncio.Event().wait()
        if self.fail_after is not None:
            raise self.fail_after
        if self.without_end:
            return
        finished = generation_pb.Finished(finish_reason=self.finish, output_tokens=3)
        yield generation_pb.GenerateEvent(finished=finished)
        completed = generation_pb.Completed(usage=self._usage())
        yield generation_pb.GenerateEvent(completed=completed)

    async def Embed(self, request, call: Call):
        self._admit(request, call)
        response = embedding_pb.EmbedResponse(
            request_id=call.request_id,
            model="alpha",
            model_digest=DIGEST,
            pooling=embedding_pb.POOLING_MEAN,
            usage=self._usage(),
        )
        for index, _ in enumerate(request.inputs):
            response.embeddings.add(values=[float(index), 1.0], input_tokens=4)
        return response

    async def Tokenize(self, request, call: Call):
        self._admit(request, call)
        return tokenization_pb.TokenizeResponse(ids=[5, 6, 7])

    async def Detokenize(self, request, call: Call):
        self._admit(request, call)
        return tokenization_pb.DetokenizeResponse(text="".join(chr(96 + i) for i in request.ids))

    async def _until_client_leaves(self) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    def _usage(self) -> generation_pb.Usage:
        return generation_pb.Usage(input_tokens=4, cached_tokens=1, output_tokens=3)

    # ModelService

    def _model(self, name: str) -> model_pb.Model:
        model = model_pb.Model(name=name, state=self.models[name], size_bytes=1_500_000)
        if name == "alpha":
            model.aliases.append("bundled")
            model.details.architecture = "llama"
            model.details.context_tokens = 2048
            model.details.cell_count = 8192
            model.details.kv_unit = model_pb.KV_UNIT_PAGES
            model.replicas.add(state=model_pb.REPLICA_STATE_READY, process_id=4242)
        return model

    async def ListModels(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(sorted(self.models), request.page_token)
        models = [self._model(name) for name in names]
        return model_service_pb.ListModelsResponse(models=models, next_page_token=token)

    async def GetModel(self, request, call: Call):
        self._admit(request, call)
        if request.model not in self.models:
            raise failure("MODEL_NOT_FOUND", "No such model.", metadata={"model": request.model})
        return model_service_pb.GetModelResponse(model=self._model(request.model))

    async def LoadModel(self, request, call: Call) -> AsyncIterator:
        self._admit(request, call)
        model = self._model(request.model)
        for phase, fraction in (("VERIFYING", 1), ("LOADING", 0.5), ("LOADING", 1), ("READY", 1)):
            yield model_service_pb.LoadModelResponse(
                phase=f"LOAD_PHASE_{phase}",
                fraction=fraction,
                model=model,
                needed_bytes=1000,
                budget_bytes=2000,
            )

    async def UnloadModel(self, request, call: Call):
        self._admit(request, call)
        self.models[request.model] = model_pb.MODEL_STATE_UNLOADED
        model = self._model(request.model)
        return model_service_pb.UnloadModelResponse(model=model, ended_request_count=2)

    # PolicyAdminService

    async def GetPrincipal(self, request, call: Call):
        self._admit(request, call)
        if request.name not in self.principals:
            raise failure("RESOURCE_NOT_FOUND", f"No principal {request.name}.")
        return policy_pb.GetPrincipalResponse(principal=self.principals[request.name])

    async def ListPrincipals(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(sorted(self.principals), request.page_token)
        principals = [self.principals[name] for name in names]
        return policy_pb.ListPrincipalsResponse(principals=principals, next_page_token=token)

    async def CreatePrincipal(self, request, call: Call):
        self._admit(request, call)
        principal = principal_pb.Principal(
            name=request.name, tenant="default", roles=request.roles, priority_cap=10
        )
        principal.create_time.FromSeconds(1_700_000_000)
        self.principals[request.name] = principal
        return policy_pb.CreatePrincipalResponse(principal=principal)

    async def ListApiKeys(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(list(self.keys), request.page_token)
        keys = [self.keys[name] for name in names]
        return policy_pb.ListApiKeysResponse(api_keys=keys, next_page_token=token)

    async def CreateApiKey(self, request, call: Call):
        self._admit(request, call)
        key = principal_pb.ApiKey(
            id=f"k{len(self.keys) + 1}",
            principal=request.principal,
            tenant="default",
            description=request.description,
            state=principal_pb.API_KEY_STATE_ACTIVE,
        )
        key.create_time.FromSeconds(1_700_000_000)
        if request.HasField("time_to_live"):
            key.expire_time.FromSeconds(1_700_000_000 + request.time_to_live.seconds)
        self.keys[key.id] = key
        return policy_pb.CreateApiKeyResponse(api_key=key, secret="crv_secret_1")

    async def RevokeApiKey(self, request, call: Call):
        self._admit(request, call)
        key = self.keys[request.id]
        key.state = principal_pb.API_KEY_STATE_REVOKED
        return policy_pb.RevokeApiKeyResponse(api_key=key)

    async def ListRoles(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(["admin", "operator", "user"], request.page_token)
        roles = [principal_pb.Role(name=name, permissions=["inference"]) for name in names]
        return policy_pb.ListRolesResponse(roles=roles, next_page_token=token)

    # GatewayAdminService

    async def DropPages(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.DropPagesResponse(dropped_page_count=12, worker_count=2)

    async def ListCheckpoints(self, request, call: Call):
        self._admit(request, call)
        waiting = checkpoints_pb.RequestCheckpoint(
            request_id="req-1",
            tenant="acme",
            principal="alice",
            state=checkpoints_pb.REQUEST_STATE_RECOVERABLE,
            output_tokens=7,
        )
        waiting.begin_time.FromSeconds(1_700_000_000)
        return gateway_pb.ListCheckpointsResponse(
            workers=[
                checkpoints_pb.WorkerCheckpoints(
                    model="alpha",
                    journal_state=checkpoints_pb.JOURNAL_STATE_WRITTEN,
                    journal_bytes=1200,
                    page_count=3,
                    page_bytes=9_000_000,
                    request_count=1,
                    requests=[waiting],
                ),
                checkpoints_pb.WorkerCheckpoints(
                    model="beta", journal_state=checkpoints_pb.JOURNAL_STATE_OFF
                ),
            ]
        )

    async def PruneCheckpoints(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.PruneCheckpointsResponse(
            dropped_request_count=1, dropped_page_count=3, worker_count=2
        )

    async def SetPageBudgets(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.SetPageBudgetsResponse(worker_count=2)

    async def DrainWorkers(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.DrainWorkersResponse(worker_count=2, unfinished_request_count=3)

    async def GetGatewayStatus(self, request, call: Call):
        self._admit(request, call)
        response = gateway_pb.GetGatewayStatusResponse(
            version="0.1.0",
            serving=True,
            models=[self._model("alpha")],
            active_call_count=1,
            spooled_record_count=5,
        )
        response.start_time.FromSeconds(1_700_000_000)
        response.dependencies.add(service="policy", address="localhost:50053", reachable=True)
        response.dependencies.add(service="telemetry", address="[::1]:50054", detail="refused")
        return response

    async def GetWorkerStats(self, request, call: Call):
        self._admit(request, call)
        if self.hides_numbers:
            raise failure("PERMISSION_DENIED", "Not for you.")
        stats = stats_pb.WorkerStats(
            model="alpha",
            replica_index=0,
            running_count=3,
            paused_count=1,
            seat_count=16,
            waiting_count=5,
            parked_count=2,
            waiting_counts=[{"priority": 10, "count": 4}, {"priority": 50, "count": 1}],
            output_tokens_per_second=12.5,
            prefix_query_tokens_total=200,
            prefix_hit_tokens_total=80,
            used_cell_count=500,
            idle_cell_count=100,
            cell_count=8192,
            highest_used_cell=700,
            kv_unit=model_pb.KV_UNIT_PAGES,
            page_token_count=256,
            cell_page_count=3,
            idle_page_count=1,
            host_page_count=7,
            host_page_bytes=2_500_000,
            disk_page_count=9,
            cell_evictions_total=2,
            host_evictions_total=3,
        )
        stats.page_moves.add(kind=stats_pb.PAGE_MOVE_KIND_RESTORE, count=11)
        return gateway_pb.GetWorkerStatsResponse(workers=[stats], missing_hosts=["far:50052"])

    async def GetTrace(self, request, call: Call):
        self._admit(request, call)
        response = trace_query_pb.GetTraceResponse()
        for name, service, parent, start_ms in (
            ("chat alpha", "gateway", "", 0),
            ("prefill", "engine-worker", "chat alpha", 40),
        ):
            span = response.spans.add(
                trace_id="ab" * 16,
                span_id=name,
                parent_span_id=parent,
                service=service,
                name=name,
                duration_ms=60,
            )
            span.start_time.FromMilliseconds(1_700_000_000_000 + start_ms)
        return response

    def _page(self, names: list[str], token: str) -> tuple[list[str], str]:
        start = int(token or 0)
        end = start + self.page_size
        return names[start:end], str(end) if end < len(names) else ""


class Terminal:
    """The person's side of a pseudo terminal; shows text without its escape sequences."""

    def __init__(self):
        self._person, self.program = pty.openpty()
        self._written = b""
        self._matched = 0

    def expect(self, pattern: str, patience_s: float = PATIENCE_S) -> str:
        """Reads until `pattern` shows up after what was matched before; returns that part."""
        deadline = time.monotonic() + patience_s
        while not (match := re.search(pattern, self.unmatched, re.DOTALL)):
            ready, _, _ = select.select([self._person], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no {pattern!r} in {self.unmatched!r}")
            self._written += os.read(self._person, 65536)
        self._matched += match.end()
        return match.string[: match.end()]

    @property
    def unmatched(self) -> str:
        """What was shown after the last match."""
        return _ESCAPES.sub("", self._written.decode(errors="replace"))[self._matched :]

    def type(self, text: str | bytes) -> None:
        os.write(self._person, text.encode() if isinstance(text, str) else text)

    def paste(self, text: str) -> None:
        """As a terminal does that tells pasting from typing."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def close(self) -> None:
        os.close(self._person)
        os.close(self.program)


class GatewayThread:
    """Runs a fake gateway beside the test, which may block."""

    def __init__(self, gateway: FakeGateway):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.gateway = gateway

    def start(self) -> None:
        self._thread.start()
        self._run(self.gateway.start())

    def stop(self) -> None:
        self._run(self.gateway.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture
def reason_failure():
    return failure


@pytest.fixture
def gateway(caravan_home: Path) -> Iterator[FakeGateway]:
    """For tests that block; no key and no address is in the environment."""
    thread = GatewayThread(FakeGateway())
    thread.start()
    yield thread.gateway
    thread.stop()


@pytest.fixture
async def loop_gateway(caravan_home: Path) -> AsyncIterator[FakeGateway]:
    """For tests that run on the event loop."""
    gateway = FakeGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def tls_gateway(caravan_home: Path) -> Iterator[FakeGateway]:
    """Like `gateway`, with a certificate of the development CA in caravan_home/certs."""
    # Not at the top: few tests need it, and it takes a while.
    from caravan_rpckit.certificates import ensure_certificates

    ensure_certificates(caravan_home)
    certificates = caravan_home / "certs"
    tls = PublicTls(certificates / "gateway.crt", certificates / "gateway.key")
    thread = GatewayThread(FakeGateway(tls))
    thread.start()
    yield thread.gateway
    thread.stop()


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> str:
    """A key that the gateway takes, in the environment."""
    monkeypatch.setenv("CARAVAN_API_KEY", KEY)
    return KEY


@pytest.fixture
def start_command(gateway: FakeGateway):
    """Starts the real command as a process; what still runs afterwards is killed."""
    running: list[subprocess.Popen] = []

    def start(*arguments: str, launcher=("-m", "caravan_client"), **options) -> subprocess.Popen:
        environment = {**os.environ, "CARAVAN_ADDRESS": gateway.address, "CARAVAN_API_KEY": KEY}
        command = [sys.executable, *launcher, *arguments]
        settings = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": environment,
            **options,
        }
        process = subprocess.Popen(command, **settings)
        running.append(process)
        return process

    # Processes would inherit that it is ignored, as it is where tests run in the background.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start
    signal.signal(signal.SIGINT, earlier)
    for process in running:
        process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    terminal.resize(columns=80)
    yield terminal
    terminal.close()


@pytest.fixture
def start_at_terminal(start_command, terminal: Terminal):
    """Starts the command as a person does; `terminal` is what that person has."""

    def start(*arguments: str) -> subprocess.Popen:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.program)
        return start_command(*arguments, **streams, launcher=("-c", TAKE_TERMINAL))

    return start
