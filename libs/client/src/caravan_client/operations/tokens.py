"""The calls between texts and tokens."""

from collections.abc import Sequence

from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_client.generation import Message
from caravan_client.operations.inference import fill_chat
from caravan_client.operations.operation import Operation, fill, operation

_SERVICE = "/caravan.inference.v1.InferenceService/"


def tokenize(text: str | Sequence[Message], model: str) -> Operation[tuple[int, ...]]:
    """Asks for the tokens of a text, or of a chat as the model's template renders it."""
    request = tokenization_pb.TokenizeRequest()
    fill(request, model=model)
    if isinstance(text, str):
        fill(request, text=text)
    else:
        fill_chat(request.chat, text)
    return operation(
        f"{_SERVICE}Tokenize",
        request,
        tokenization_pb.TokenizeResponse,
        lambda response: tuple(response.ids),
    )


def detokenize(token_ids: Sequence[int], model: str) -> Operation[str]:
    """Asks for the text of tokens."""
    request = tokenization_pb.DetokenizeRequest()
    fill(request, model=model, ids=list(token_ids))
    return operation(
        f"{_SERVICE}Detokenize",
        request,
        tokenization_pb.DetokenizeResponse,
        lambda response: response.text,
    )
