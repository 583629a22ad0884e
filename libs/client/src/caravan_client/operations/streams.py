"""The calls of `caravan.gateway.v1.StreamService`."""

from collections.abc import Sequence

from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan_client.generation import Event
from caravan_client.operations.inference import parse_event
from caravan_client.operations.operation import Operation, operation

_SERVICE = "/caravan.gateway.v1.StreamService/"


def resume_generate(
    model: str, request_id: str, received: Sequence[tuple[int, bool]]
) -> Operation[Event | None]:
    """Asks for the rest of a stream.

    Args:
        model: that generates it.
        request_id: of the call that began it.
        received: of each choice by its index how many tokens there are, and whether it is over.
    """
    request = stream_pb.ResumeGenerateRequest(
        model=model,
        request_id=request_id,
        choices=[
            stream_pb.ReceivedChoice(output_tokens=count, finished=is_finished)
            for count, is_finished in received
        ],
    )
    return operation(
        f"{_SERVICE}ResumeGenerate", request, stream_pb.ResumeGenerateResponse, _parse_event
    )


def cancel_generate(model: str, request_id: str) -> Operation[None]:
    """Says that nobody will ask for the rest of a stream."""
    return operation(
        f"{_SERVICE}CancelGenerate",
        stream_pb.CancelGenerateRequest(model=model, request_id=request_id),
        stream_pb.CancelGenerateResponse,
        _parse_nothing,
    )


def _parse_event(response: stream_pb.ResumeGenerateResponse) -> Event | None:
    return parse_event(response.event)


def _parse_nothing(_response: stream_pb.CancelGenerateResponse) -> None:
    return None
