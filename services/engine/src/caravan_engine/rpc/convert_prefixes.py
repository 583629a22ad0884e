"""The marks of an input, from the wire."""

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.runtime.held_prefixes import MarkedInput

_MOST_MARKS = 64


def marked_input_of(
    run: worker_pb.RunRequest, request: GenerationRequest, model_digest: str
) -> MarkedInput:
    """Returns a request's input with the marks that came with it, the first of them if too many."""
    marks = zip(run.marks.hashes, run.marks.shares, strict=False)
    return MarkedInput(
        root=root_key(model_digest, request.client.tenant),
        tokens=request.prompt,
        marks=tuple(marks)[:_MOST_MARKS],
    )
