"""Where the choices of a request begin, also of one that another worker began."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from caravan_engine.domain.events import Delta, Finished, FinishReason
from caravan_engine.domain.ports import Vocabulary
from caravan_engine.domain.request import Emitted, GenerationRequest, check_token_ids
from caravan_engine.runtime.detokenizer import Detokenizer
from caravan_engine.runtime.writers import EarlierWork


@dataclass(frozen=True, slots=True)
class Resumption:
    """The choices that go on, each with a detokenizer that has read its text, and all else."""

    detokenizers: Mapping[int, Detokenizer]  # by choice index
    earlier: EarlierWork


def resume(request: GenerationRequest, vocabulary: Vocabulary, max_tokens: int) -> Resumption:
    """Finds out what is left to do of each choice.

    A worker may have died between the last token of a choice and the word that it is over; then
    there is nothing to generate, and only the word is missing.

    Raises:
        TokenOutOfRangeError: for an emitted token outside the vocabulary.
    """
    detokenizers: dict[int, Detokenizer] = {}
    untold: list[Finished] = []
    num_finished_tokens = 0
    for index in range(request.choice_count):
        emitted = request.emitted(index)
        check_token_ids(emitted.tokens, vocabulary)
        detokenizer = Detokenizer(vocabulary.pieces, request.stop)
        detokenizer.skip(emitted.tokens)
        num_tokens = len(emitted.tokens)
        reason = _reason(emitted, detokenizer, max_tokens - len(request.prompt))
        if reason is None and not emitted.is_finished:
            detokenizers[index] = detokenizer
            continue
        num_finished_tokens += num_tokens
        if reason is not None:
            untold.append(Finished(index, reason, detokenizer.stop_string, num_tokens))
    cached_tokens = request.continuation.cached_tokens if request.continuation else None
    earlier = EarlierWork(cached_tokens, num_finished_tokens, tuple(untold))
    return Resumption(detokenizers, earlier)


def retell(request: GenerationRequest, pieces: Sequence[bytes]) -> Iterator[Delta]:
    """Yields the deltas of what was emitted, as small as they can be.

    Nothing where deltas hold what tokens don't tell: log-probabilities, and Mirostat's mu.
    """
    if request.num_top_logprobs is not None or request.sampling.mirostat is not None:
        return
    for index in range(request.choice_count):
        detokenizer, offset = Detokenizer(pieces, request.stop), 0
        for token in request.emitted(index).tokens:
            piece = detokenizer.append(token)
            if piece.token_ids:
                yield Delta(index, piece.text, piece.token_ids, offset)
                offset += len(piece.token_ids)
            if detokenizer.stop_string is not None:
                break
        rest = detokenizer.flush()
        if rest.token_ids:
            yield Delta(index, rest.text, rest.token_ids, offset)


def _reason(
    emitted: Emitted, detokenizer: Detokenizer, max_output_tokens: int
) -> FinishReason | None:
    """Why a choice is over that isn't known to be."""
    if emitted.is_finished:
        return None
    if detokenizer.stop_string is not None:
        return FinishReason.STOP_STRING
    return FinishReason.LENGTH if len(emitted.tokens) >= max_output_tokens else None
