"""Medians, ratios and targets, as tables for people and as JSON for programs."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from runs import Run


@dataclass(slots=True)
class Measured:
    """All runs of one workload on one server, in the order of the rounds."""

    workload: str
    source: str
    runs: list[Run] = field(default_factory=list)
    noisy_rounds: list[int] = field(default_factory=list)

    def median(self, figure: str) -> float | None:
        """The median of the runs that have the figure; None where none has."""
        values = [value for run in self.runs if (value := getattr(run, figure)) is not None]
        return statistics.median(values) if values else None


class Bound(StrEnum):
    """On which side of a target's value the measurement has to be."""

    AT_LEAST = ">="
    AT_MOST = "<="

    def holds(self, measured: float, value: float) -> bool:
        """Whether `measured` is on the right side."""
        return measured >= value if self is Bound.AT_LEAST else measured <= value


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is aimed at: a figure of `source` beside that of `versus`, or by itself."""

    figure: str  # a field of Run
    bound: Bound
    value: float
    source: str
    versus: str | None = None  # None: the figure itself, in the worst round

    @property
    def text(self) -> str:
        """For people."""
        unit = "" if self.versus is None else f" x {self.versus}"
        return f"{FIGURE_NAMES[self.figure]} {self.bound} {self.value:.4g}{unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured of it: the median, or the worst of figures by themselves."""

    workload: str
    target: str
    measured: float | None  # None: a figure is missing, for example because all calls failed
    is_reached: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that isn't of a run: name, value, unit, and what is aimed at, if anything is."""

    name: str
    value: float
    unit: str
    bound: Bound = Bound.AT_MOST
    target: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None else self.bound.holds(self.value, self.target)


@dataclass(slots=True)
class Report:
    """Everything that was measured."""

    machine: str
    measured: list[Measured] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # by experiment
    versus: dict[str, str] = field(default_factory=dict)  # by workload, whom ratios refer to


FIGURE_NAMES = {
    "tokens_per_s": "tok/s",
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "longest_gap_s": "longest gap",
    "wall_s": "total time",
    "num_completed": "complete calls",
    "least_tokens": "tokens of each call",
}


def ratios(ours: Measured, theirs: Measured, figure: str) -> list[float]:
    """Ours over theirs, round by round; without rounds in which either is missing or theirs 0."""
    pairs = [
        (getattr(mine, figure), getattr(peer, figure))
        for mine, peer in zip(ours.runs, theirs.runs, strict=True)
    ]
    return [mine / peer for mine, peer in pairs if mine is not None and peer]


def judge(target: Target, measured: Sequence[Measured]) -> Verdict:
    """Compares the runs of one workload with a target."""
    by_source = {each.source: each for each in measured}
    ours = by_source[target.source]
    if target.versus is None:
        worst = min if target.bound is Bound.AT_LEAST else max
        values = [value for run in ours.runs if (value := getattr(run, target.figure)) is not None]
        result = worst(values) if values else None
    else:
        found = ratios(ours, by_source[target.versus], target.figure)
        result = statistics.median(found) if found else None
    is_reached = result is not None and target.bound.holds(result, target.value)
    return Verdict(ours.workload, target.text, result, is_reached)


def table(report: Report) -> str:
    """Markdown: the runs, then targets, then single figures, then what failed."""
    lines = [f"Machine: {report.machine}", ""]
    if report.measured:
        lines += _rows_of_runs(report)
    if report.verdicts:
        lines += ["", "| workload | target | measured | reached |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {v.workload} | {v.target} | {_number(v.measured, 3)} | {_yes(v.is_reached)} |"
            for v in report.verdicts
        ]
    if report.figures:
        lines += ["", "| figure | value | target | reached |", "| --- | --- | --- | --- |"]
        lines += [_figure_row(each) for each in report.figures]
    lines += [f"\nFAILED {name}: {reason}" for name, reason in report.failures.items()]
    return "\n".join(lines)


def write_json(path: Path, report: Report) -> None:
    """Everything that was measured, run by run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")


_COLUMNS = (
    *("workload", "server", "tok/s", "ratio", "TTFT p50 s", "ratio", "TTFT p95 s", "longest gap s"),
    *("total s", "complete", "tokens a call", "noisy rounds"),
)


def _rows_of_runs(report: Report) -> list[str]:
    lines = [f"| {' | '.join(_COLUMNS)} |", f"| {' | '.join('---' for _ in _COLUMNS)} |"]
    for each in report.measured:
        versus = report.versus[each.workload]
        peer = next(m for m in report.measured if (m.workload, m.source) == (each.workload, versus))
        lines.append(_row(each, peer))
    return lines


def _row(each: Measured, peer: Measured) -> str:
    complete = min(run.num_completed for run in each.runs)
    least = min(run.least_tokens for run in each.runs)
    most = max(run.most_tokens for run in each.runs)
    cells = (
        each.workload,
        each.source,
        _number(each.median("tokens_per_s"), 1),
        _ratio(each, peer, "tokens_per_s"),
        _number(each.median("ttft_p50_s"), 2),
        _ratio(each, peer, "ttft_p50_s"),
        _number(each.median("ttft_p95_s"), 2),
        _number(each.median("longest_gap_s"), 2),
        _number(each.median("wall_s"), 1),
        f"{complete} of {each.runs[0].num_calls}",
        str(least) if least == most else f"{least} to {most}",
        ", ".join(map(str, each.noisy_rounds)) or "none",
    )
    return f"| {' | '.join(cells)} |"


def _ratio(each: Measured, peer: Measured, figure: str) -> str:
    found = ratios(each, peer, figure)
    return _number(statistics.median(found) if found else None, 3)


def _figure_row(figure: Figure) -> str:
    aim = "" if figure.target is None else f"{figure.bound} {figure.target:.4g} {figure.unit}"
    reached = "" if figure.is_reached is None else _yes(figure.is_reached)
    return f"| {figure.name} | {figure.value:.3g} {figure.unit} | {aim} | {reached} |"


def _number(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def _yes(is_reached: bool) -> str:
    return "yes" if is_reached else "NO"
