"""The one place where OpenTelemetry's GenAI names stand; they are still being developed.

Names only say what was asked for and how much came out. Stop sequences have a name there too and
none here: they are a client's text.
"""

from enum import StrEnum

PROVIDER_NAME = "gen_ai.provider.name"
OPERATION_NAME = "gen_ai.operation.name"

REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_TOP_K = "gen_ai.request.top_k"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"

RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"

USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
USAGE_CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

# Histograms, as Prometheus writes OpenTelemetry's names, with the buckets that it recommends.
REQUEST_DURATION = "gen_ai_server_request_duration_seconds"
TIME_TO_FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105 (no password)
TIME_PER_OUTPUT_TOKEN = "gen_ai_server_time_per_output_token_seconds"  # noqa: S105 (no password)
OPERATION_LABEL = "gen_ai_operation_name"
MODEL_LABEL = "gen_ai_request_model"
ERROR_LABEL = "error_type"
DURATION_BUCKETS_S = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
OUTPUT_TOKEN_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)

FIRST_TOKEN_EVENT = "first_token"  # noqa: S105 (no password)
"""Name of the event; not one of OpenTelemetry's."""

PROVIDER = "caravan"
_LARGEST_INTEGER = 2**63 - 1


class Operation(StrEnum):
    """What is asked of a model."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"
    EMBEDDINGS = "embeddings"


def span_name(operation: Operation, model: str) -> str:
    """What a span about an operation is called."""
    return f"{operation} {model}"


def seed_value(seed: int) -> int | str:
    """A seed as an attribute: OpenTelemetry's numbers are signed, ours aren't."""
    return seed if seed <= _LARGEST_INTEGER else str(seed)
