"""The calls that the README promises, by the tools that it names."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format

from caravan.inference.v1 import generation_pb2 as pb

SERVICES = {
    "caravan.gateway.v1.GatewayAdminService",
    "caravan.gateway.v1.StreamService",
    "caravan.inference.v1.InferenceService",
    "caravan.model.v1.ModelService",
    "caravan.policy.v1.PolicyAdminService",
    "caravan.telemetry.v1.TraceQueryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
STREAM = "caravan.inference.v1.InferenceService/StreamGenerate"
BODY = json.dumps(
    {
        "model": "bundled",
        "text": "Once upon a time",
        "max_output_tokens": 32,
        "sampling": {"temperature": 0},
    }
)
BIN = Path(sys.executable).parent

needs_grpcurl = pytest.mark.skipif(
    shutil.which("grpcurl") is None, reason="grpcurl is not on the PATH"
)


def run(command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout


def events_in(text):
    """The events that a tool printed; tools differ in how they write the names of fields."""
    decoder = json.JSONDecoder()
    events = []
    position = 0
    while position < len(text.rstrip()):
        while text[position].isspace():
            position += 1
        document, position = decoder.raw_decode(text, position)
        events.append(json_format.ParseDict(document, pb.GenerateEvent()))
    return events


def check_stream(events):
    started, *middle, finished, completed = events
    assert started.started.model == "bundled"
    assert started.started.input_tokens > 0
    offset = 0
    for event in middle:
        assert event.delta.token_offset == offset
        offset += len(event.delta.token_ids)
    assert offset == 32
    assert "".join(event.delta.text for event in middle)
    assert finished.finished.finish_reason == pb.FINISH_REASON_LENGTH
    assert finished.finished.output_tokens == 32
    assert completed.completed.usage.output_tokens == 32
    assert completed.completed.usage.input_tokens == started.started.input_tokens


@needs_grpcurl
def test_grpcurl_lists_the_services_without_a_key(stack):
    assert set(run(["grpcurl", "-plaintext", stack.address, "list"]).split()) == SERVICES


@needs_grpcurl
@pytest.mark.parametrize("service", sorted(SERVICES))
def test_grpcurl_describes_each_service(stack, service):
    assert service in run(["grpcurl", "-plaintext", stack.address, "describe", service])


@needs_grpcurl
def test_grpcurl_streams_a_generation(stack):
    bearer = f"authorization: Bearer {stack.admin_key}"
    command = ["grpcurl", "-plaintext", "-H", bearer, "-d", BODY, stack.address, STREAM]
    check_stream(events_in(run(command)))


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_buf_curl_streams_a_generation_by_reflection(stack, protocol):
    command = [
        str(BIN / "buf"),
        "curl",
        "--http2-prior-knowledge",
        "--protocol",
        "grpc",
        "--reflect-protocol",
        protocol,
        "--header",
        f"authorization: Bearer {stack.admin_key}",
        "--data",
        BODY,
        f"http://{stack.address}/{STREAM}",
    ]
    check_stream(events_in(run(command)))


def caravan(stack, *arguments, **kwargs):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CARAVAN_")}
    environment |= {"CARAVAN_HOME": str(stack.home), "CARAVAN_ADDRESS": stack.address}
    return run([str(BIN / "caravan"), *arguments], env=environment, **kwargs)


def test_caravan_chat_answers(stack):
    assert caravan(stack, "chat", "-m", "bundled", "What is Caravan?").strip()


def test_caravan_status_shows_everything_ready(stack):
    status = json.loads(caravan(stack, "status", "--json"))
    assert status["serving"] is True
    assert all(dependency["reachable"] for dependency in status["dependencies"])
    assert [model["name"] for model in status["models"]] == ["bundled"]


def test_metrics_name_the_generated_tokens_by_model(stack, admin):
    lines = stack.metrics("telemetry").splitlines()
    assert any(line.startswith('llama_tokens_generated_total{model="bundled"}') for line in lines)


def first_calls(language, repository):
    """The examples of the README's "First calls", line by line of a shell, else as a whole."""
    section = (repository / "README.md").read_text().partition("## First calls")[2]
    section = section.partition("\n## ")[0]
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()] if language == "sh" else blocks


def as_here(example, stack):
    """An example for this deployment instead of the one that `make run` starts."""
    for documented, here in (
        ("localhost:50051", stack.address),
        ("localhost:9090", stack.ops_address("telemetry")),
        (".caravan/admin.key", str(stack.home / "admin.key")),
        (".venv/bin/caravan", f"{BIN / 'caravan'} --address {stack.address}"),
        ('"cvn_..."', repr(stack.admin_key)),
    ):
        example = example.replace(documented, here)
    return example


def test_the_first_calls_of_the_readme_work_as_they_are_written(stack, repository):
    lines = first_calls("sh", repository)
    assert len(lines) == 6
    environment = {**os.environ, "CARAVAN_HOME": str(stack.home)}
    for line in lines:
        if line.startswith("grpcurl") and shutil.which("grpcurl") is None:
            continue  # the tests of grpcurl say so
        command = ["bash", "-euo", "pipefail", "-c", as_here(line, stack)]
        assert run(command, env=environment).strip(), line


def test_the_python_of_the_readme_works_as_it_is_written(stack, repository):
    [example] = first_calls("python", repository)
    assert run([sys.executable, "-W", "error", "-c", as_here(example, stack)]).strip()
