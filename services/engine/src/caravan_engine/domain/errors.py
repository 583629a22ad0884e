"""The engine's exceptions.

CaravanError
├── InvalidFieldError             INVALID_FIELD
├── EmptyInputError               EMPTY_INPUT
├── ContextLengthExceededError    CONTEXT_LENGTH_EXCEEDED
├── TokenOutOfRangeError          TOKEN_OUT_OF_RANGE
├── QueueFullError                QUEUE_FULL
├── QueueTimeoutError             QUEUE_TIMEOUT
├── DeadlineUnreachableError      DEADLINE_UNREACHABLE
├── DrainingError                 DRAINING
├── DeadlineExceededError         DEADLINE_EXCEEDED
├── RequestCancelledError         CANCELLED
├── ReaderStalledError            READER_STALLED
├── StreamNotKeptError            STREAM_NOT_KEPT
├── ResumedElsewhereError         RESUMED_ELSEWHERE
├── DecodeFailedError             DECODE_FAILED
├── EmbeddingUnsupportedError     METHOD_NOT_SERVED
├── ModelFileInvalidError         MODEL_FILE_INVALID
├── ModelLoadFailedError          MODEL_LOAD_FAILED
└── ModelTooLargeError            MODEL_TOO_LARGE
"""

from typing import ClassVar

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason


class InvalidFieldError(CaravanError):
    """Fields of a request are out of their bounds; names each with its path."""

    reason: ClassVar[Reason] = Reason.INVALID_FIELD

    def __init__(self, *violations: FieldViolation) -> None:
        listed = "; ".join(f"{each.field}: {each.description}" for each in violations)
        super().__init__(listed, field_violations=violations)


class EmptyInputError(CaravanError):
    """There is nothing to continue."""

    reason: ClassVar[Reason] = Reason.EMPTY_INPUT

    def __init__(self) -> None:
        super().__init__("the input has no tokens")


class ContextLengthExceededError(CaravanError):
    """The input can never fit, however long one waits; carries both lengths."""

    reason: ClassVar[Reason] = Reason.CONTEXT_LENGTH_EXCEEDED

    def __init__(self, *, input_tokens: int, context_tokens: int, has_output: bool = True) -> None:
        super().__init__(
            f"the input has {input_tokens} tokens; the context of {context_tokens} tokens "
            "must hold it" + (" and at least one token of output" if has_output else ""),
            metadata={"input_tokens": str(input_tokens), "context_tokens": str(context_tokens)},
        )


class TokenOutOfRangeError(CaravanError):
    """A token id isn't in the vocabulary, or is a control token."""

    reason: ClassVar[Reason] = Reason.TOKEN_OUT_OF_RANGE

    def __init__(self, *, index: int, token_id: int, vocabulary_size: int) -> None:
        super().__init__(
            f"token {token_id} at index {index} is not a text token of the vocabulary "
            f"of {vocabulary_size} tokens",
            metadata={
                "index": str(index),
                "token_id": str(token_id),
                "vocabulary_size": str(vocabulary_size),
            },
        )


class QueueFullError(CaravanError):
    """No place in the queue; the delay comes from the measured departure rate."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, *, capacity: int, retry_after_s: float) -> None:
        super().__init__(
            f"{capacity} requests are waiting already",
            metadata={"queue_capacity": str(capacity)},
            retry_after_s=retry_after_s,
        )


class QueueTimeoutError(CaravanError):
    """The request waited too long for its first computation."""

    reason: ClassVar[Reason] = Reason.QUEUE_TIMEOUT

    def __init__(self, *, waited_s: float, retry_after_s: float) -> None:
        super().__init__(
            f"not started within {waited_s:.1f} s",
            metadata={"waited_ms": str(round(waited_s * 1000))},
            retry_after_s=retry_after_s,
        )


_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 60.0


class DeadlineUnreachableError(CaravanError):
    """At the measured speed the request would be done too late; carries both times.

    The delay is after what the work ahead of it would have shrunk enough, if nothing else came.
    """

    reason: ClassVar[Reason] = Reason.DEADLINE_UNREACHABLE

    def __init__(self, *, estimate_s: float, remaining_s: float) -> None:
        super().__init__(
            f"it would take about {estimate_s:.1f} s, and the deadline is in {remaining_s:.1f} s",
            metadata={
                "estimate_ms": str(round(estimate_s * 1000)),
                "remaining_ms": str(round(remaining_s * 1000)),
            },
            retry_after_s=min(max(estimate_s - remaining_s, _MIN_RETRY_S), _MAX_RETRY_S),
        )


class DrainingError(CaravanError):
    """The worker is on its way down and takes nothing new."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self) -> None:
        super().__init__("the worker is draining", retry_after_s=1.0)


class DeadlineExceededError(CaravanError):
    """The caller's own deadline passed."""

    reason: ClassVar[Reason] = Reason.DEADLINE_EXCEEDED

    def __init__(self) -> None:
        super().__init__("the deadline passed before the generation was complete")


class RequestCancelledError(CaravanError):
    """The caller left."""

    reason: ClassVar[Reason] = Reason.CANCELLED

    def __init__(self) -> None:
        super().__init__("the caller cancelled the request")


class ReaderStalledError(CaravanError):
    """The caller stopped reading for so long that its cells are needed elsewhere."""

    reason: ClassVar[Reason] = Reason.READER_STALLED

    def __init__(self, *, stalled_s: float) -> None:
        super().__init__(
            f"output was not read for {stalled_s:.1f} s",
            metadata={"stalled_ms": str(round(stalled_s * 1000))},
        )


class StreamNotKeptError(CaravanError):
    """Nothing is kept under this name, or not what the client lacks, or it is somebody else's."""

    reason: ClassVar[Reason] = Reason.STREAM_NOT_KEPT

    def __init__(self, model: str) -> None:
        super().__init__("no such stream is kept", metadata={"model": model})


class ResumedElsewhereError(CaravanError):
    """Another call reads on."""

    reason: ClassVar[Reason] = Reason.RESUMED_ELSEWHERE

    def __init__(self) -> None:
        super().__init__("the stream was resumed by another call")


class DecodeFailedError(CaravanError):
    """The model can't compute this request; others are not affected."""

    reason: ClassVar[Reason] = Reason.DECODE_FAILED

    def __init__(self) -> None:
        super().__init__("the model failed to compute this request")


class EmbeddingUnsupportedError(CaravanError):
    """The model makes no vector of a text that could be computed here."""

    reason: ClassVar[Reason] = Reason.METHOD_NOT_SERVED

    def __init__(self, model: str) -> None:
        super().__init__(
            f"model {model!r} can't embed here: it is a reranker, or its tokens look ahead",
            metadata={"model": model},
        )


class ModelFileInvalidError(CaravanError):
    """The file is missing, cut off, damaged or of another format."""

    reason: ClassVar[Reason] = Reason.MODEL_FILE_INVALID


class ModelLoadFailedError(CaravanError):
    """llama.cpp refused the model."""

    reason: ClassVar[Reason] = Reason.MODEL_LOAD_FAILED


class ModelTooLargeError(CaravanError):
    """The model needs more memory than it may have; carries both sizes."""

    reason: ClassVar[Reason] = Reason.MODEL_TOO_LARGE

    def __init__(self, *, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(
            f"the model needs about {needed_bytes} bytes, the budget is {budget_bytes}",
            metadata={"needed_bytes": str(needed_bytes), "budget_bytes": str(budget_bytes)},
        )
