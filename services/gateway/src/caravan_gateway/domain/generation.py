"""What a generation is asked for, without its prompt; see `inference_spec`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from caravan_gateway.domain.inference_spec import InferenceSpec, Input


@dataclass(frozen=True, slots=True)
class Dry:
    """What penalizes repeated sequences. `breaker_sizes` are in bytes, in order."""

    multiplier: float = 0.0
    base: float | None = None
    allowed_length: int | None = None
    penalty_last_n: int | None = None
    breaker_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Xtc:
    """What excludes the most probable tokens now and then."""

    probability: float = 0.0
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Mirostat:
    """What steers towards a level of surprise."""

    tau: float | None = None
    eta: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None where the client left it to the default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_last_n: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    typical_p: float | None = None
    dry: Dry | None = None
    xtc: Xtc | None = None
    mirostat: Mirostat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSpec(InferenceSpec):
    """One request. `stop_sizes` and `session_id_size` are in bytes.

    `logprob_top_count` is None where no log-probabilities are wanted.
    """

    input: Input | None
    sampling: Sampling = Sampling()
    stop_sizes: tuple[int, ...] = ()
    max_output_tokens: int | None = None
    seed: int | None = None
    choice_count: int | None = None
    logprob_top_count: int | None = None
    session_id_size: int | None = None


def choice_count_of(spec: InferenceSpec) -> int:
    """How many texts a request wants; 0 where it wants something else."""
    if not isinstance(spec, GenerationSpec):
        return 0
    return 1 if spec.choice_count is None else spec.choice_count
