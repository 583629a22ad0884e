"""The programs, built from stubs that are generated now, and the gateways that they call."""

import asyncio
import fcntl
import filecmp
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

import stubs
from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2 as inference_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError
from caravan_rpckit.server import RpcServer
from caravan_testkit.stack import Stack, running_stack
from protoc_plugins import MAVEN, StepFailedError, ToolMissingError, need, run

SOURCES = Path(__file__).resolve().parent
BUILDS = SOURCES.parents[1] / "build" / "clients"
BUILD_S = 200.0
PLAY_S = 60.0
NUM_TOKENS = 6  # of a stream of the fake gateway

# What npm, Go and Maven say when their registry is out of reach, or when they are too old.
CANNOT_BUILD_HERE = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH"
    r"|no such host|dial tcp|i/o timeout|connection refused"
    r"|Could not transfer artifact|Unknown host|name resolution"
    r"|requires go >= |release version \d+ not supported|not within \d+ s"
)


@dataclass(frozen=True)
class Recipe:
    """How the program of one language is built and started, in its folder."""

    stubs: str
    tools: tuple[str, ...]
    build: tuple[str, ...]
    start: tuple[str, ...]


RECIPES = {
    "go": Recipe(
        stubs="go",
        tools=("go",),
        build=("go", "build", "-buildvcs=false", "-o", "client", "."),
        start=("./client",),
    ),
    "node": Recipe(
        stubs="typescript",
        tools=("npm", "node"),
        build=("npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"),
        start=("node", "main.js"),
    ),
    "java": Recipe(
        stubs="java",
        tools=("mvn", "javac", "java"),
        build=(*MAVEN, "compile"),
        start=("java", "-cp", "target/classes:target/lib/*", "caravan.example.Main"),
    ),
}


@dataclass(frozen=True)
class Program:
    """A built program."""

    folder: Path
    start: tuple[str, ...]

    async def play(
        self,
        scenario: str,
        address: str,
        key: str,
        *,
        at_first_text: Callable[[], None] = lambda: None,
    ) -> dict:
        """Runs one scenario against a gateway and returns the line that it prints."""
        process = await asyncio.create_subprocess_exec(
            *self.start,
            scenario,
            cwd=self.folder,
            env={**os.environ, "CARAVAN_ADDRESS": address, "CARAVAN_API_KEY": key},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PLAY_S):
                if await process.stderr.read(1):
                    at_first_text()
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        (line,) = output.decode().splitlines()
        result = json.loads(line)
        assert result.pop("scenario") == scenario
        return result


@pytest.fixture(scope="session", params=RECIPES)
def program(request: pytest.FixtureRequest) -> Program:
    language: str = request.param
    recipe = RECIPES[language]
    folder = BUILDS / language
    try:
        need(*recipe.tools)
        with locked(folder):
            copy_changed(SOURCES / language, folder)
            stubs.generate(recipe.stubs, folder / "gen")
            run(recipe.build, cwd=folder, timeout_s=BUILD_S)
    except ToolMissingError as error:
        pytest.skip(f"{language}: {error}")
    except StepFailedError as error:
        reasons = [line for line in str(error).splitlines() if CANNOT_BUILD_HERE.search(line)]
        if not reasons:
            raise
        pytest.skip(f"{language} can't be built here: {reasons[0].strip()[:300]}")
    return Program(folder, recipe.start)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other test runs of this checkout out of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def copy_changed(source: Path, target: Path) -> None:
    """Copies a program to where it is built, leaving alone what a build need not look at again."""
    ignored = {"gen", "node_modules", "target", "client"}
    for path in source.rglob("*"):
        name = path.relative_to(source)
        if not path.is_file() or name.parts[0] in ignored:
            continue
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or not filecmp.cmp(path, copy, shallow=False):
            shutil.copyfile(path, copy)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("clients") / "home") as stack:
        yield stack


class FakeGateway:
    """Refuses as it is told, then answers; for what a real gateway does only by chance.

    Attributes:
        refusals: raised by the next calls of `Generate`, one each.
        arrivals: when each call of `Generate` came, by the event loop's clock.
        left: set when a client has left an endless stream.
        resumptions: what was asked for by `ResumeGenerate`.
    """

    def __init__(self) -> None:
        self.refusals: list[CaravanError] = []
        self.arrivals: list[float] = []
        self.left = asyncio.Event()
        self.resumptions: list[stream_pb.ResumeGenerateRequest] = []

    async def Generate(self, request: pb.GenerateRequest, call: Call) -> pb.GenerateResponse:
        self.arrivals.append(asyncio.get_running_loop().time())
        if self.refusals:
            raise self.refusals.pop(0)
        choice = pb.Choice(text=" there was", finish_reason=pb.FINISH_REASON_LENGTH)
        return pb.GenerateResponse(request_id=call.request_id, choices=[choice])

    async def Tokenize(
        self, request: tokenization_pb.TokenizeRequest, call: Call
    ) -> tokenization_pb.TokenizeResponse:
        return tokenization_pb.TokenizeResponse()

    async def Detokenize(
        self, request: tokenization_pb.DetokenizeRequest, call: Call
    ) -> tokenization_pb.DetokenizeResponse:
        return tokenization_pb.DetokenizeResponse()

    async def Embed(
        self, request: embedding_pb.EmbedRequest, call: Call
    ) -> embedding_pb.EmbedResponse:
        return embedding_pb.EmbedResponse()

    async def StreamGenerate(
        self, request: pb.GenerateRequest, call: Call
    ) -> AsyncIterator[pb.GenerateEvent]:
        try:
            yield pb.GenerateEvent(started=pb.Started(request_id=call.request_id))
            yield pb.GenerateEvent()  # a kind of event that no client of today knows
            for offset in range(3):
                yield delta(offset)
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def ResumeGenerate(
        self, request: stream_pb.ResumeGenerateRequest, call: Call
    ) -> AsyncIterator[stream_pb.ResumeGenerateResponse]:
        self.resumptions.append(request)
        for event in (
            pb.GenerateEvent(started=pb.Started(request_id=request.request_id)),
            *(delta(offset) for offset in range(request.choices[0].output_tokens, NUM_TOKENS)),
            pb.GenerateEvent(finished=pb.Finished(finish_reason=pb.FINISH_REASON_LENGTH)),
            pb.GenerateEvent(completed=pb.Completed(usage=pb.Usage(output_tokens=NUM_TOKENS))),
        ):
            yield stream_pb.ResumeGenerateResponse(event=event)

    async def CancelGenerate(
        self, request: stream_pb.CancelGenerateRequest, call: Call
    ) -> stream_pb.CancelGenerateResponse:
        return stream_pb.CancelGenerateResponse()


def delta(offset: int) -> pb.GenerateEvent:
    text = str(offset)
    return pb.GenerateEvent(delta=pb.Delta(text=text, token_ids=[offset], token_offset=offset))


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[tuple[FakeGateway, str]]:
    """A fake gateway and its address."""
    fake = FakeGateway()
    server = RpcServer("127.0.0.1:0")
    server.add(fake, inference_pb.DESCRIPTOR.services_by_name["InferenceService"])
    server.add(fake, stream_pb.DESCRIPTOR.services_by_name["StreamService"])
    await server.start()
    yield fake, f"127.0.0.1:{server.port}"
    await server.stop(0)
