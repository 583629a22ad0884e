"""The options of the rarer samplers, which are on when one of theirs is given."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from caravan_client.generation import Dry, Mirostat, Sampling, Xtc

_SAMPLERS = "More samplers"


@dataclass(frozen=True, slots=True)
class SamplerFlags:
    """DRY, XTC, mirostat and typical sampling; the server checks the ranges."""

    typical_p: Annotated[
        float | None,
        typer.Option(
            metavar="0-1",
            help="Keep tokens of expected surprise up to this probability; 1 is off.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = None
    dry_multiplier: Annotated[
        float | None,
        typer.Option(
            metavar="0-5",
            help="Penalize repeated sequences this strongly; 0 is off.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = None
    dry_base: Annotated[
        float | None,
        typer.Option(
            metavar="1-4", help="Growth with their length; 1.75.", rich_help_panel=_SAMPLERS
        ),
    ] = None
    dry_allowed_length: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT", help="Longest that costs nothing; 2.", rich_help_panel=_SAMPLERS
        ),
    ] = None
    dry_penalty_last_n: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="How many last tokens are searched; 1024.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = None
    dry_sequence_breaker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Nothing counts as repeated across this. Can be repeated.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = None
    xtc_probability: Annotated[
        float | None,
        typer.Option(
            metavar="0-1", help="How often to drop top choices; 0.", rich_help_panel=_SAMPLERS
        ),
    ] = None
    xtc_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="0-0.5",
            help="From which probability on they are dropped; 0.1.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = None
    mirostat: Annotated[
        bool,
        typer.Option(
            "--mirostat",
            help="Steer towards a level of surprise, in place of what cuts.",
            rich_help_panel=_SAMPLERS,
        ),
    ] = False
    mirostat_tau: Annotated[
        float | None,
        typer.Option(metavar="0-20", help="That level, in bits; 5.", rich_help_panel=_SAMPLERS),
    ] = None
    mirostat_eta: Annotated[
        float | None,
        typer.Option(metavar="0-1", help="How fast to correct; 0.1.", rich_help_panel=_SAMPLERS),
    ] = None

    def over(self, sampling: Sampling) -> Sampling:
        """`sampling` with these samplers.

        Raises:
            typer.BadParameter: an option is given without the one that turns its sampler on.
        """
        return replace(
            sampling,
            typical_p=self.typical_p,
            dry=self._dry(),
            xtc=self._xtc(),
            mirostat=self._mirostat(),
        )

    def _dry(self) -> Dry | None:
        rest = (self.dry_base, self.dry_allowed_length, self.dry_penalty_last_n)
        breakers = self.dry_sequence_breaker or []
        if self.dry_multiplier is None:
            _refuse_if_given([*rest, *breakers], "--dry-multiplier")
            return None
        return Dry(self.dry_multiplier, *rest, breakers)

    def _xtc(self) -> Xtc | None:
        if self.xtc_probability is None:
            _refuse_if_given([self.xtc_threshold], "--xtc-probability")
            return None
        return Xtc(self.xtc_probability, self.xtc_threshold)

    def _mirostat(self) -> Mirostat | None:
        is_on = self.mirostat or self.mirostat_tau is not None or self.mirostat_eta is not None
        return Mirostat(self.mirostat_tau, self.mirostat_eta) if is_on else None


def _refuse_if_given(values: Sequence[object], needed: str) -> None:
    if any(value is not None for value in values):
        raise typer.BadParameter("the others of its sampler need it", param_hint=needed)
