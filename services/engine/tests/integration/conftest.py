"""An engine host as a real process with its workers, and a gateway's view of it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import endpoint_service_pb2_grpc as endpoint_grpc
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_engine.storage.handover_folder import handover_directories
from caravan_engine.storage.owned_folder import remove_abandoned
from caravan_rpckit.certificates import ensure_certificates
from caravan_rpckit.channel import open_channel
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.network import free_port
from caravan_testkit.tiny_model import ModelShape, write_tiny_gguf
from caravan_testkit.waiting import wait_until

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from fake_ingest import INGEST, FakeIngest

# Small, so that a model loads in milliseconds; room for a request that never ends by itself.
SMALL = (
    *("--context.cells", "1024"),
    *("--context.seats", "4"),
    *("--context.token-budget", "128"),
    *("--context.threads", "1"),
)


def is_alive(pid):
    """Whether a process runs; one that waits to be reaped doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children_of(pid):
    """Process ids of all descendants."""
    try:
        tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    direct = [int(child) for child in tasks]
    return direct + [grandchild for child in direct for grandchild in children_of(child)]


@dataclass
class Host:
    """A running engine host."""

    home: Path
    process: subprocess.Popen
    port: int
    ops_port: int
    log: Path

    @property
    def models(self):
        return self.home / "models"

    def fetch(self, path):
        with contextlib.suppress(OSError):
            return self.fetch_or_raise(path)
        return ""

    def fetch_or_raise(self, path):
        url = f"http://127.0.0.1:{self.ops_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    def fetch_failure(self, path):
        """The body of an answer that is no success."""
        try:
            self.fetch_or_raise(path)
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""
        return ""

    def await_ready(self, timeout_s=30):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the host ended:\n{self.log.read_text()}")
            return '"ready"' in self.fetch("/health/ready")

        wait_until(ready, timeout_s=timeout_s, what="the host to become ready")

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=30)

    def processes(self):
        """Process ids of everything that the host started, directly or not."""
        return children_of(self.process.pid)

    @staticmethod
    def is_alive(pid):
        return is_alive(pid)

    def log_records(self):
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def log_text(self):
        return self.log.read_text()


@pytest.fixture(scope="session")
def certified_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("certified")
    ensure_certificates(home)
    return home


@pytest.fixture(scope="session")
def slow_gguf(tmp_path_factory):
    """A model of some 30 MB that takes milliseconds for a token."""
    shape = ModelShape(
        num_layers=8,
        width=512,
        num_heads=8,
        num_kv_heads=2,
        ffn_width=2048,
        vocabulary_size=1000,
        context_length=4096,
    )
    return write_tiny_gguf(tmp_path_factory.mktemp("slow") / "slow.gguf", shape=shape)


class HostStarter:
    """Starts hosts whose folder has the models `tiny` and `slow`; ends them at last."""

    def __init__(self, folder, certified_home, models):
        self._folder = folder
        self._certs = certified_home / "certs"
        self._models = models
        self._hosts = []

    def __call__(self, *flags, home=None, load="tiny", ready=True):
        number = len(self._hosts)
        home = home or self._folder / f"home{number}"
        self._furnish(home)
        port, ops_port = free_port(), free_port()
        log = self._folder / f"host{number}.log"
        command = [
            *(sys.executable, "-m", "caravan_engine", "--home", str(home), "--models.load", load),
            *("--server.address", f"127.0.0.1:{port}"),
            *("--server.ops-address", f"127.0.0.1:{ops_port}"),
            *("--workers.port-base", "0", "--telemetry.address", "none", *SMALL, *flags),
        ]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CARAVAN_")}
        with log.open("w") as sink:
            process = subprocess.Popen(command, stderr=sink, stdout=sink, env=environment)
        host = Host(home, process, port, ops_port, log)
        self._hosts.append(host)
        if ready:
            host.await_ready()
        return host

    def close(self):
        for host in self._hosts:
            host.stop(signal.SIGKILL)
        remove_abandoned(handover_directories())

    def _furnish(self, home):
        (home / "models").mkdir(parents=True, exist_ok=True)
        for link, target in (
            (home / "certs", self._certs),
            *((home / "models" / model.name, model) for model in self._models),
        ):
            if not link.exists():
                link.symlink_to(target)


@pytest.fixture(scope="session")
def host_models(tiny_gguf, slow_gguf):
    return (tiny_gguf, slow_gguf)


@pytest.fixture
def start_host(tmp_path, certified_home, host_models):
    """Starts hosts for one test."""
    starter = HostStarter(tmp_path, certified_home, host_models)
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def shared_host(tmp_path_factory, certified_home, host_models):
    """One host with both models loaded, for tests that leave it as they found it."""
    starter = HostStarter(tmp_path_factory.mktemp("shared"), certified_home, host_models)
    # Tests let deadlines pass that would be refused at the measured speed.
    yield starter("--queue.refuse-late=false", load="tiny,slow")
    starter.close()


class GatewayView:
    """Calls that a gateway makes."""

    def __init__(self, host, peer="gateway"):
        self._tls = TlsIdentity.in_home(host.home, peer)
        self.host = host
        self.channel = open_channel(f"127.0.0.1:{host.port}", tls=self._tls, server_name="engine")
        self.models = model_grpc.ModelServiceStub(self.channel)
        self.endpoints = endpoint_grpc.EndpointServiceStub(self.channel)
        self._workers = {}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for channel in (self.channel, *self._workers.values()):
            await channel.close()

    async def picture(self, condition=lambda _: True, timeout_s=30):
        """Returns the first picture that satisfies `condition`."""
        watch = self.endpoints.WatchEndpoints(endpoint_pb.WatchEndpointsRequest())
        try:
            async with asyncio.timeout(timeout_s):
                async for picture in watch:
                    if condition(picture):
                        return picture
        finally:
            watch.cancel()
        raise AssertionError("the picture ended")

    async def endpoint(self, model="tiny"):
        """Waits until the model has a worker that takes requests."""

        def found(picture):
            return [each for each in picture.endpoints if each.model == model]

        return found(await self.picture(found))[0]

    async def worker(self, model="tiny"):
        return self.worker_at((await self.endpoint(model)).address)

    def worker_at(self, address):
        if address not in self._workers:
            self._workers[address] = open_channel(address, tls=self._tls, server_name="engine")
        return worker_grpc.WorkerServiceStub(self._workers[address])

    async def model(self, name="tiny"):
        answer = await self.models.GetModel(model_pb.GetModelRequest(model=name))
        return answer.model

    async def load(self, name, **options):
        request = model_pb.LoadModelRequest(model=name)
        return [step async for step in self.models.LoadModel(request, **options)]

    async def unload(self, name, drain_timeout_ms=None):
        request = model_pb.UnloadModelRequest(model=name, drain_timeout_ms=drain_timeout_ms)
        return await self.models.UnloadModel(request)

    async def run(self, *, within_s=30, **fields):
        """Runs a request to its end and returns its events."""
        worker = await self.worker(fields.get("worker", "tiny"))
        call = worker.Run(run_request(**fields), timeout=within_s)
        return [answer async for answer in call]

    async def begin(self, **fields):
        """Starts a request that takes seconds; returns the call after its first text."""
        worker = await self.worker("slow")
        call = worker.Run(run_request(**{"model": "slow", "max_output_tokens": 900, **fields}))
        async for answer in call:
            if answer.event.HasField("delta"):
                return call
        raise AssertionError("no text")

    @staticmethod
    def request(**fields):
        return run_request(**fields)

    async def stats(self, model="tiny"):
        return await self.stats_of(await self.worker(model))

    @staticmethod
    async def stats_of(worker):
        call = worker.WatchStats(worker_pb.WatchStatsRequest())
        try:
            return (await anext(aiter(call))).stats
        finally:
            call.cancel()


def run_request(**fields):
    """A greedy request for the tiny model; `caller` fields may be given as a dict."""
    caller = {"tenant": "default", "principal": "alice", "priority": 10, "request_id": "req-1"}
    caller |= fields.pop("caller", {})
    fields.pop("worker", None)
    continuation = fields.pop("continuation", None)
    retention = fields.pop("retention", None)
    given = {"model": "tiny", "max_output_tokens": 8, "seed": 7}
    if not {"text", "chat", "token_ids"} & set(fields):
        given["text"] = "Once upon a time"
    sampling = fields.pop("sampling", {"temperature": 0})
    request = generation_pb.GenerateRequest(
        **{**given, **fields}, sampling=generation_pb.SamplingOptions(**sampling)
    )
    return worker_pb.RunRequest(
        request=request,
        caller=worker_pb.Caller(**caller),
        continuation=continuation,
        retention=retention,
    )


@pytest.fixture
async def ingest(certified_home):
    """A telemetry service, for usage records."""
    ingest = FakeIngest()
    server = RpcServer("127.0.0.1:0", tls=TlsIdentity.in_home(certified_home, "telemetry"))
    server.add(ingest, INGEST, peers=("engine",))
    await server.start()
    ingest.address = f"127.0.0.1:{server.port}"
    yield ingest
    await server.stop(0)


@pytest.fixture
async def view_of():
    async with contextlib.AsyncExitStack() as stack:

        async def make(host, peer="gateway"):
            return await stack.enter_async_context(GatewayView(host, peer))

        yield make


@pytest.fixture
async def view(shared_host, view_of):
    """A gateway's view of the shared host."""
    return await view_of(shared_host)
