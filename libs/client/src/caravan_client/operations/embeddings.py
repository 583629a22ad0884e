"""The call that turns texts into vectors."""

from collections.abc import Iterable, Sequence

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan_client.embedding import Embedding, Embeddings, EmbedOptions, Pooling
from caravan_client.keywords import check_keywords
from caravan_client.operations.inference import parse_usage
from caravan_client.operations.operation import Operation, fill, operation

_METHOD = "/caravan.inference.v1.InferenceService/Embed"

_POOLINGS = {
    embedding_pb.POOLING_MEAN: Pooling.MEAN,
    embedding_pb.POOLING_CLS: Pooling.CLS,
    embedding_pb.POOLING_LAST: Pooling.LAST,
}


def embed(
    inputs: str | Sequence[str | Sequence[int]], options: EmbedOptions
) -> Operation[Embeddings]:
    """Asks for a vector for each input; a plain string is one input."""
    check_keywords(options, EmbedOptions)
    request = embedding_pb.EmbedRequest()
    fill(
        request,
        model=options["model"],
        priority=options.get("priority"),
        labels=options.get("labels"),
    )
    for index, one in enumerate([inputs] if isinstance(inputs, str) else inputs):
        _fill_input(request.inputs.add(), f"inputs[{index}].", one)
    title = f"embeddings {request.model[:100]}"
    return operation(_METHOD, request, embedding_pb.EmbedResponse, _parse, title=title)


def _fill_input(message: embedding_pb.EmbedInput, path: str, value: str | Sequence[int]) -> None:
    if isinstance(value, str) or not isinstance(value, Iterable):  # the latter is refused
        fill(message, path, text=value)
        return
    message.token_ids.SetInParent()  # no tokens at all are still an input, which is refused
    fill(message.token_ids, f"{path}token_ids.", ids=list(value))


def _parse(response: embedding_pb.EmbedResponse) -> Embeddings:
    return Embeddings(
        request_id=response.request_id,
        model=response.model,
        model_digest=response.model_digest,
        embeddings=tuple(
            Embedding(tuple(one.values), one.input_tokens) for one in response.embeddings
        ),
        pooling=_POOLINGS.get(response.pooling, Pooling.UNKNOWN),
        usage=parse_usage(response.usage),
    )
