"""What tests use to call a gateway and to wait for what it does."""

import asyncio

import grpc
import grpc.aio

from caravan.gateway.v1 import gateway_admin_service_pb2_grpc as gateway_grpc
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan.policy.v1 import policy_admin_service_pb2_grpc as policy_grpc
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

KEY = "cvn_alice_secret"
ADMIN_KEY = "cvn_admin_secret"


class Client:
    """Stubs of a gateway."""

    def __init__(self, port, key=KEY):
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.metadata = () if key is None else (("authorization", f"Bearer {key}"),)
        self.inference = inference_grpc.InferenceServiceStub(self.channel)
        self.models = model_grpc.ModelServiceStub(self.channel)
        self.policy = policy_grpc.PolicyAdminServiceStub(self.channel)
        self.gateway = gateway_grpc.GatewayAdminServiceStub(self.channel)

    def generate(self, text="hello", *, metadata=None, timeout=20, **fields):
        return self.inference.Generate(
            request_of(text, **fields), metadata=metadata or self.metadata, timeout=timeout
        )

    def stream(self, text="hello", *, metadata=None, timeout=20, **fields):
        return self.inference.StreamGenerate(
            request_of(text, **fields), metadata=metadata or self.metadata, timeout=timeout
        )


def request_of(text="hello", **fields):
    return generation_pb.GenerateRequest(**{"model": "tiny", "text": text, **fields})


async def until(condition, what, timeout_s=10.0):
    async def holds():
        return condition()

    return await wait_until_async(holds, timeout_s=timeout_s, what=what)


async def failure_of(call):
    """Code and details of a call that must fail; a stream is read to its end."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error_details(error)
    raise AssertionError("the call went well")


async def events_of(call):
    return [event async for event in call]


async def ops(app, path="/metrics"):
    """Status and body of a page of the operations port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.ops_port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def metric(app, series):
    """The value of one series, 0 where it is not there."""
    _, body = await ops(app)
    for line in body.splitlines():
        name, _, value = line.rpartition(" ")
        if name == series:
            return float(value)
    return 0.0


async def announced(engine, app):
    """Sends the engine's picture and returns when the gateway knows as many workers as it has."""
    engine.announce()
    while await metric(app, "caravan_gateway_workers_known") != len(engine.endpoints):
        await asyncio.sleep(0.02)
