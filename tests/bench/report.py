"""Medians and ratios, as a table for people and as JSON for programs."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workloads import Run


@dataclass(slots=True)
class Measured:
    """All runs of one workload on one server, in the order of the rounds."""

    workload: str
    source: str
    runs: list[Run] = field(default_factory=list)
    noisy_rounds: list[int] = field(default_factory=list)

    def median(self, figure: str) -> float:
        return statistics.median(getattr(run, figure) for run in self.runs)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that isn't a run: name, value, unit, and what is aimed at."""

    name: str
    value: float
    unit: str
    target: str


def ratios(ours: Measured, theirs: Measured, figure: str) -> list[float]:
    """Ours over theirs, round by round."""
    return [
        getattr(mine, figure) / getattr(peer, figure)
        for mine, peer in zip(ours.runs, theirs.runs, strict=True)
    ]


def table(machine: str, measured: list[Measured], figures: list[Figure], versus: str) -> str:
    """A markdown table; ratios are against the source named `versus`, medians over the rounds."""
    lines = [f"Machine: {machine}", ""]
    lines += [
        "| workload | server | tok/s | ratio | TTFT p50 s | ratio | longest gap s | noisy rounds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in measured:
        peer = next(m for m in measured if (m.workload, m.source) == (each.workload, versus))
        lines.append(_row(each, peer))
    if figures:
        lines += ["", "| figure | value | target |", "| --- | --- | --- |"]
        lines += [f"| {f.name} | {f.value:.3g} {f.unit} | {f.target} |" for f in figures]
    return "\n".join(lines)


def write_json(path: Path, machine: str, measured: list[Measured], figures: list[Figure]) -> None:
    """Everything that was measured, run by run."""
    document = {
        "machine": machine,
        "runs": [asdict(each) for each in measured],
        "figures": [asdict(figure) for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _row(each: Measured, peer: Measured) -> str:
    speed = statistics.median(ratios(each, peer, "tokens_per_s"))
    ttft = statistics.median(ratios(each, peer, "ttft_p50_s"))
    noisy = ", ".join(map(str, each.noisy_rounds)) or "none"
    return (
        f"| {each.workload} | {each.source} | {each.median('tokens_per_s'):.1f} | {speed:.3f} "
        f"| {each.median('ttft_p50_s'):.2f} | {ttft:.3f} | {each.median('longest_gap_s'):.2f} "
        f"| {noisy} |"
    )
