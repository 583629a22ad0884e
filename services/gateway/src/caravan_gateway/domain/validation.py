"""The documented bounds of a request; every violation is reported at once.

Values are never repeated in a description: somebody may have put a secret into the wrong field.
"""

from collections.abc import Mapping
from itertools import islice

from caravan_gateway.domain.bounds import MAX_VIOLATIONS_PER_FIELD, Violations, size_faults
from caravan_gateway.domain.errors import EmptyInputError, InvalidFieldsError
from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_spec import (
    ChatInput,
    DetokenizeSpec,
    EmbedSpec,
    InferenceSpec,
    Input,
    TextInput,
    TokenInput,
    TokenizeSpec,
)
from caravan_gateway.domain.sampling_bounds import sampling_faults
from caravan_rpckit.errors import FieldViolation

MAX_MODEL_NAME_BYTES = 255
MAX_STOP_COUNT = 16
MAX_STOP_BYTES = 256
MAX_CHAT_MESSAGES = 1024
MAX_CHOICE_COUNT = 16
MAX_LOGPROB_TOP_COUNT = 20
MAX_EMBED_INPUTS = 256
MAX_DETOKENIZE_IDS = 1024 * 1024
MAX_SESSION_ID_BYTES = 128
MAX_PRIORITY = 100
MAX_LABEL_COUNT = 16
MAX_LABEL_KEY_BYTES = 63
MAX_LABEL_VALUE_BYTES = 255


def validate(spec: InferenceSpec) -> None:
    """Returns when everything that the gateway can judge is in order.

    Raises:
        EmptyInputError: the only fault is that there is nothing to work on.
        InvalidFieldsError: names each faulty field with its path.
    """
    emptiness = list(_emptiness(spec))
    faults = list(_faults(spec))
    if faults:
        raise InvalidFieldsError([*emptiness, *faults])
    if emptiness:
        raise EmptyInputError(emptiness)


def _emptiness(spec: InferenceSpec) -> Violations:
    match spec:
        case GenerationSpec() | TokenizeSpec():
            yield from _input_emptiness(spec.input, "")
        case EmbedSpec(inputs=()):
            yield FieldViolation("inputs", "must not be empty")
        case EmbedSpec():
            paths = (
                fault
                for index, each in enumerate(spec.inputs)
                for fault in _input_emptiness(each, f"inputs[{index}].")
            )
            yield from _first(paths)


def _input_emptiness(given: Input | None, path: str) -> Violations:
    match given:
        case TextInput(length=0):
            yield FieldViolation(f"{path}text", "must not be empty")
        case TokenInput(count=0):
            yield FieldViolation(f"{path}token_ids.ids", "must not be empty")
        case ChatInput(known_roles=()):
            yield FieldViolation(f"{path}chat.messages", "must not be empty")


def _faults(spec: InferenceSpec) -> Violations:
    if not 1 <= len(spec.model.encode()) <= MAX_MODEL_NAME_BYTES:
        yield FieldViolation("model", f"must have 1 to {MAX_MODEL_NAME_BYTES} bytes")
    match spec:
        case GenerationSpec():
            yield from _generation_faults(spec)
        case TokenizeSpec(input=None):
            yield FieldViolation("input", "set one of text and chat")
        case TokenizeSpec():
            yield from _chat_faults(spec.input)
        case DetokenizeSpec() if spec.id_count > MAX_DETOKENIZE_IDS:
            yield FieldViolation("ids", f"must be at most {MAX_DETOKENIZE_IDS}")
        case EmbedSpec():
            yield from _embed_faults(spec)
    if spec.priority is not None and spec.priority > MAX_PRIORITY:
        yield FieldViolation("priority", f"must be 0 to {MAX_PRIORITY}")
    yield from _label_faults(spec.labels)


def _generation_faults(spec: GenerationSpec) -> Violations:
    if spec.input is None:
        yield FieldViolation("input", "set one of text, token_ids and chat")
    yield from _chat_faults(spec.input)
    yield from sampling_faults(spec.sampling)
    yield from size_faults("stop", spec.stop_sizes, MAX_STOP_COUNT, MAX_STOP_BYTES)
    if spec.max_output_tokens is not None and spec.max_output_tokens < 1:
        yield FieldViolation("max_output_tokens", "must be at least 1")
    if spec.choice_count is not None and not 1 <= spec.choice_count <= MAX_CHOICE_COUNT:
        yield FieldViolation("choice_count", f"must be 1 to {MAX_CHOICE_COUNT}")
    if spec.logprob_top_count is not None and spec.logprob_top_count > MAX_LOGPROB_TOP_COUNT:
        yield FieldViolation("logprobs.top_count", f"must be 0 to {MAX_LOGPROB_TOP_COUNT}")
    if spec.session_id_size is not None and not 1 <= spec.session_id_size <= MAX_SESSION_ID_BYTES:
        yield FieldViolation("session_id", f"must have 1 to {MAX_SESSION_ID_BYTES} bytes")


def _chat_faults(given: Input | None) -> Violations:
    if not isinstance(given, ChatInput):
        return
    if len(given.known_roles) > MAX_CHAT_MESSAGES:
        yield FieldViolation("chat.messages", f"must be at most {MAX_CHAT_MESSAGES}")
    unknown = (index for index, known in enumerate(given.known_roles) if not known)
    yield from _first(
        FieldViolation(f"chat.messages[{index}].role", "must be a known role") for index in unknown
    )


def _embed_faults(spec: EmbedSpec) -> Violations:
    if len(spec.inputs) > MAX_EMBED_INPUTS:
        yield FieldViolation("inputs", f"must be at most {MAX_EMBED_INPUTS}")
    unset = (index for index, each in enumerate(spec.inputs) if each is None)
    yield from _first(
        FieldViolation(f"inputs[{index}].input", "set one of text and token_ids") for index in unset
    )


def _label_faults(labels: Mapping[str, str]) -> Violations:
    if len(labels) > MAX_LABEL_COUNT:
        yield FieldViolation("labels", f"must be at most {MAX_LABEL_COUNT}")
    if any(not 1 <= len(key.encode()) <= MAX_LABEL_KEY_BYTES for key in labels):
        yield FieldViolation("labels", f"keys must have 1 to {MAX_LABEL_KEY_BYTES} bytes")
    if any(len(value.encode()) > MAX_LABEL_VALUE_BYTES for value in labels.values()):
        yield FieldViolation("labels", f"values must have at most {MAX_LABEL_VALUE_BYTES} bytes")


def _first(violations: Violations) -> Violations:
    return islice(violations, MAX_VIOLATIONS_PER_FIELD)
