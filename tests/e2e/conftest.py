"""One running deployment for all end-to-end tests, and stubs that call it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from caravan.gateway.v1 import gateway_admin_service_pb2_grpc as gateway_grpc
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan.policy.v1 import policy_admin_service_pb2_grpc as policy_grpc
from caravan_testkit.stack import Stack, running_stack
from caravan_testkit.tiny_model import write_tiny_gguf
from caravan_testkit.waiting import wait_until

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from slow_model import SETTLE_S, SLOW, Worker, generate

SMALL = {
    "CARAVAN_ENGINE__MODELS__LOAD": "slow",
    "CARAVAN_ENGINE__MODELS__RESCAN_INTERVAL_S": "0.2",
    "CARAVAN_ENGINE__CONTEXT__CELLS": "4096",
    "CARAVAN_ENGINE__CONTEXT__SEATS": "2",
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": "64",
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    # Tests let deadlines pass that would be refused at the measured speed.
    "CARAVAN_ENGINE__QUEUE__REFUSE_LATE": "false",
    "CARAVAN_ENGINE__WORKERS__MEMORY_BUDGET_BYTES": str(450 * 2**20),
    "CARAVAN_ENGINE__WORKERS__MAX_FAILED_STARTS": "1",
    "CARAVAN_ENGINE__CHAT__TIME_LIMIT_S": "1",
    "CARAVAN_ENGINE__CHAT__MEMORY_LIMIT_BYTES": str(128 * 2**20),
    "CARAVAN_GATEWAY__SERVER__READER_STALL_S": "1",
}


class Client:
    """Stubs of the gateway that send one key."""

    def __init__(
        self, address: str, key: str | None, options: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.metadata = () if key is None else (("authorization", f"Bearer {key}"),)
        self.channel = grpc.insecure_channel(address, options=options)
        self.inference = inference_grpc.InferenceServiceStub(self.channel)
        self.models = model_grpc.ModelServiceStub(self.channel)
        self.policy = policy_grpc.PolicyAdminServiceStub(self.channel)
        self.gateway = gateway_grpc.GatewayAdminServiceStub(self.channel)

    def create_key(
        self, principal: str, role: str, **fields: object
    ) -> policy_pb.CreateApiKeyResponse:
        """Makes a principal, if it isn't there yet, and a key for it."""
        try:
            self.policy.CreatePrincipal(
                policy_pb.CreatePrincipalRequest(name=principal, roles=[role]),
                metadata=self.metadata,
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        return self.policy.CreateApiKey(
            policy_pb.CreateApiKeyRequest(principal=principal, **fields), metadata=self.metadata
        )

    def close(self) -> None:
        self.channel.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("e2e") / "home") as stack:
        yield stack


@pytest.fixture(scope="session")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A deployment that comes to its limits soon: one slow model, two seats, little memory."""
    home = tmp_path_factory.mktemp("small") / "home"
    write_tiny_gguf(home / "models" / "slow.gguf", shape=SLOW)
    with running_stack(home, SMALL) as stack:
        yield stack


@pytest.fixture
def small_admin(small_stack: Stack) -> Iterator[Client]:
    client = Client(small_stack.address, small_stack.admin_key)
    yield client
    client.close()


@pytest.fixture
def worker(small_stack: Stack) -> Worker:
    """The slow model's worker, with all that earlier tests did behind it."""
    worker = Worker(small_stack)
    wait_until(lambda: worker.look().is_idle, timeout_s=SETTLE_S, what="an idle worker")
    return worker


@pytest.fixture
def small_stack_stays(small_admin: Client, small_stack: Stack) -> Iterator[None]:
    """After the test the slow model answers, by the same worker."""
    [before] = small_stack.workers()
    yield
    assert len(generate(small_admin).choices[0].token_ids) == 4
    assert [each.pid for each in small_stack.workers()] == [before.pid]


@pytest.fixture
def connect_to_small(small_stack: Stack) -> Iterator[Callable[..., Client]]:
    """Makes clients with connections of their own."""
    clients: list[Client] = []

    def make(options: Sequence[tuple[str, int]] = ()) -> Client:
        options = (("grpc.use_local_subchannel_pool", 1), *options)
        clients.append(Client(small_stack.address, small_stack.admin_key, options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def admin(stack: Stack) -> Iterator[Client]:
    client = Client(stack.address, stack.admin_key)
    yield client
    client.close()


@pytest.fixture
def connect(stack: Stack) -> Iterator[type[Client]]:
    """Makes clients with other keys."""
    clients: list[Client] = []

    def make(key: str | None) -> Client:
        clients.append(Client(stack.address, key))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
