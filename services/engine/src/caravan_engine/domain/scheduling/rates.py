"""How fast the model computes: measured step by step, read by whoever has to foresee something."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from caravan_engine.domain.step import StepPlan

_RISE, _FALL = 0.1, 0.3
_MOST_CHANGE = 3.0
_NUM_FIRST = 5
_MIN_PREFILL = 16
_FULL_WEIGHT = 128
_NUM_FOR_FORECASTS = 3


class Smoothed:
    """The median of the first five samples, then an exponential mean; 0 before the first.

    A sample counts as at most three times the mean and at least a third of it: one step that was
    held up by something else moves it by a fifth; a lasting change is followed within some steps.
    Downwards it moves faster. What makes a step slow may pass, what makes it fast is the model; so
    it errs towards fast, and by no more than steps of the same kind differ.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self.value = 0.0

    @property
    def num_first(self) -> int:
        """How many samples there were, of the first five."""
        return len(self._first)

    def add(self, sample: float, weight: float = 1.0) -> None:
        """Takes a sample; one of less weight moves the mean less."""
        if len(self._first) < _NUM_FIRST:
            self._first.append(sample)
            self.value = median(self._first)
            return
        cut = min(max(sample, self.value / _MOST_CHANGE), self.value * _MOST_CHANGE)
        smoothing = _RISE if cut > self.value else _FALL
        self.value += smoothing * weight * (cut - self.value)


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured until a moment.

    A step is taken to be the sum of its parts:

        step = decode_s(sequences that decode) + prefill tokens * prefill_token_s

    The first part is measured for each number of sequences, because the weights are read once for
    all of them and it grows slower than the number. The second has one rate for all chunks: once
    they are longer than 16 tokens, what a token costs hardly depends on how many share the step.
    Both grow with the cells in use, which smoothing follows.
    """

    prefill_token_s: float | None = None
    decode_step_s: Mapping[int, float] = field(default_factory=dict)  # by number of sequences
    can_foresee: bool = False  # enough was measured for a refusal to rest on it
    last_prefill_token_s: float = 0.0  # in the last step that had enough to tell

    def decode_s(self, num_sequences: float) -> float | None:
        """Returns the time of a step in which so many sequences decode.

        Between measured numbers it is interpolated. Beyond them it errs towards fast: as many
        take no longer than the most that were measured, and fewer take their share.
        """
        if not self.decode_step_s:
            return None
        numbers = sorted(self.decode_step_s)
        at = bisect_left(numbers, num_sequences)
        if at == len(numbers):
            return self.decode_step_s[numbers[-1]]
        above = numbers[at]
        below = numbers[at - 1] if at else 0
        above_s = self.decode_step_s[above]
        below_s = self.decode_step_s[below] if at else 0.0
        return below_s + (above_s - below_s) * (num_sequences - below) / (above - below)

    def prefill_tokens_within(self, step_s: float, num_decoding: int) -> int:
        """Returns how many prompt tokens fit into a step beside so many (at least one) that decode.

        None fit while nothing was measured. Until a prompt was, its tokens are taken to cost as
        much as decoded ones, which is too much. Within a long prompt each chunk costs more than the
        one before it, faster than the mean follows, so the last one counts where it was slower.
        """
        decode_s = self.decode_s(num_decoding) or 0.0
        token_s = self._next_token_s or decode_s / num_decoding
        return max(0, int((step_s - decode_s) / token_s)) if token_s else 0

    def prefill_s(self, num_tokens: int) -> float:
        """Returns the time of the next part of a prompt; 0 while none was measured."""
        return num_tokens * self._next_token_s

    @property
    def _next_token_s(self) -> float:
        return max(self.prefill_token_s or 0.0, self.last_prefill_token_s)


class StepRates:
    """Measures. Fed by the decode thread; `current` may be read by any, without a lock."""

    def __init__(self) -> None:
        self._prefill = Smoothed()
        self._decode: dict[int, Smoothed] = {}
        self._num_decodes = 0
        self._last_prefill_token_s = 0.0
        self._current = Rates()

    @property
    def current(self) -> Rates:
        """What was measured so far."""
        return self._current

    def observe(self, plan: StepPlan, step_s: float) -> None:
        """Takes the time that a step took; those that embed cost otherwise and don't count."""
        if plan.is_embedding or step_s <= 0:
            return
        num_decoding = sum(each.is_decode for each in plan.chunks)
        num_prefill = plan.num_tokens - num_decoding
        if num_prefill >= _MIN_PREFILL:
            self._add_prefill(num_prefill, num_decoding, step_s)
        elif num_decoding and not num_prefill:
            self._decode.setdefault(num_decoding, Smoothed()).add(step_s)
            self._num_decodes += 1
        else:
            return
        enough = min(self._prefill.num_first, self._num_decodes) >= _NUM_FOR_FORECASTS
        self._current = Rates(
            prefill_token_s=self._prefill.value or None,
            last_prefill_token_s=self._last_prefill_token_s,
            decode_step_s={number: each.value for number, each in self._decode.items()},
            can_foresee=enough,
        )

    def _add_prefill(self, num_prefill: int, num_decoding: int, step_s: float) -> None:
        decode_s = self._current.decode_s(num_decoding) if num_decoding else 0.0
        if decode_s is None:
            decode_s = step_s * num_decoding / (num_prefill + num_decoding)
        token_s = max(step_s - decode_s, 0.0) / num_prefill
        self._last_prefill_token_s = token_s
        self._prefill.add(token_s, weight=min(1.0, num_prefill / _FULL_WEIGHT))
