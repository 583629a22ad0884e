"""Who answers the evaluation's questions: a running gateway, or a model file directly."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import llama_cpp

from caravan_client import Caravan, Sampling
from caravan_client import Message as ClientMessage
from caravan_client.generation import Role
from caravan_testkit.stack import running_stack
from corpus.documents import Message, chat
from tokenizer import IM_START

_GREEDY = Sampling(temperature=0)


class Answerer(Protocol):
    """Generates greedily."""

    def chat(self, messages: Sequence[Message], most_tokens: int) -> str:
        """Returns the assistant's next turn."""

    def complete(self, text: str, most_tokens: int) -> str:
        """Returns what follows a plain text."""


class GatewayAnswerer:
    """Asks through the SDK."""

    def __init__(self, caravan: Caravan, model: str) -> None:
        self._caravan = caravan
        self._model = model

    def chat(self, messages: Sequence[Message], most_tokens: int) -> str:
        """See `Answerer`."""
        turns = [ClientMessage(Role(turn.role), turn.content) for turn in messages]
        return self._caravan.chat(
            turns, model=self._model, sampling=_GREEDY, max_output_tokens=most_tokens
        ).text

    def complete(self, text: str, most_tokens: int) -> str:
        """See `Answerer`."""
        return self._caravan.generate(
            text, model=self._model, sampling=_GREEDY, max_output_tokens=most_tokens
        ).text


class FileAnswerer:
    """Runs llama.cpp in this process, for quick looks at a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False
        )

    def chat(self, messages: Sequence[Message], most_tokens: int) -> str:
        """See `Answerer`; the template is the one that the training documents follow."""
        asked = "".join(span.text for span in chat(messages)) + f"{IM_START}assistant\n"
        return self._generate(self.tokenize(asked, special=True), most_tokens)

    def complete(self, text: str, most_tokens: int) -> str:
        """See `Answerer`."""
        return self._generate(self.tokenize(text, special=False), most_tokens)

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Returns llama.cpp's own tokens of a text."""
        return self._llama.tokenize(text.encode(), add_bos=False, special=special)

    def _generate(self, tokens: list[int], most_tokens: int) -> str:
        answer: list[int] = []
        self._llama.reset()
        for token in self._llama.generate(tokens, temp=0.0, reset=True):
            if token == self._llama.token_eos() or len(answer) == most_tokens:
                break
            answer.append(token)
        return self._llama.detokenize(answer).decode(errors="replace")


@contextmanager
def gateway_of_its_own() -> Iterator[GatewayAnswerer]:
    """Starts the four services with the shipped model and ends them afterwards."""
    with (
        TemporaryDirectory() as folder,
        running_stack(Path(folder)) as stack,
        Caravan(stack.address, api_key=stack.admin_key) as caravan,
    ):
        yield GatewayAnswerer(caravan, "bundled")


@contextmanager
def gateway_at(address: str, key_path: Path) -> Iterator[GatewayAnswerer]:
    """Connects to a gateway that runs already."""
    with Caravan(address, api_key=key_path.read_text().strip()) as caravan:
        yield GatewayAnswerer(caravan, "bundled")
