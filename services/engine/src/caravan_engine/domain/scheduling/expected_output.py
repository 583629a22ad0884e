"""How much output is still to come, which nobody knows before it is there."""

from caravan_engine.domain.events import FINISHES
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.scheduling.rates import Smoothed
from caravan_engine.domain.sequence import Sequence, SequenceGroup


class ExpectedOutput:
    """Learns which share of their bound requests use, and expects it of the next ones.

    Most callers set a bound far above what they get, so the bound itself would expect too much.
    Those who ignore the end of text use all of it. Taught by the decode thread, usable from any.
    """

    def __init__(self) -> None:
        self._share = Smoothed()

    def learn(self, group: SequenceGroup, outcome: str) -> None:
        """Takes a request that is over; what failed or was cancelled teaches nothing."""
        request = group.request
        if outcome not in FINISHES or not isinstance(request, GenerationRequest):
            return
        if not request.ignore_eos:
            bound = sum(each.max_tokens - len(request.prompt) for each in group.sequences)
            self._share.add(group.num_output_tokens / bound)

    def remaining(self, sequence: Sequence) -> float:
        """Returns the tokens that a sequence will still generate; at least one before its first.

        0 for one that has outdone what was expected of it, and for what is embedded.
        """
        request = sequence.request
        if not isinstance(request, GenerationRequest):
            return 0.0
        bound = sequence.max_tokens - len(request.prompt)
        share = 1.0 if request.ignore_eos else self._share.value
        return max(0.0, max(1.0, share * bound) - sequence.num_output_tokens)
