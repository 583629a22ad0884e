"""Caravan beside llama-server of the same llama.cpp, in alternation, on a random model.

Usage: bench.py [--workload NAME]... [--rounds N] [--quick] [--json PATH]
"""

import argparse
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import machine
import peer
from clients import WorkloadFailedError
from report import Report, judge, table, write_json
from rounds import alternate
from servers import running_servers
from suite import SUITE, Experiment, Inspection

LEAST_ROUNDS = 3


def main(arguments: list[str]) -> int:
    """Measures, prints the tables, writes the JSON; 1 if a workload failed."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    report = Report(machine.describe())
    try:
        for each in SUITE:
            if not options.workload or each.name in options.workload:
                measure(each, report, options)
    finally:
        print(table(report))  # what there is, also when it was interrupted
    return 1 if report.failures else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    names = [each.name for each in SUITE]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--workload",
        action="append",
        choices=names,
        metavar="NAME",
        help=f"measure this one, repeatable; all by default: {', '.join(names)}",
    )
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    parser.add_argument("--rounds", type=int, default=4, help="rounds, at least 3 (default 4)")
    parser.add_argument("--json", type=Path, default=peer.ROOT / "build" / "bench.json")
    options = parser.parse_args(arguments)
    if options.rounds < LEAST_ROUNDS:
        parser.error("--rounds: fewer than 3 say nothing; --quick runs one, to see that it works")
    return options


def measure(each: Experiment | Inspection, report: Report, options: argparse.Namespace) -> None:
    """Adds one part of the suite to the report, or why it failed; writes the JSON."""
    rounds = 1 if options.quick else options.rounds
    try:
        add(each, report, rounds=rounds, quick=options.quick)
    except WorkloadFailedError as error:
        report.failures[each.name] = str(error)
    except Exception as error:  # noqa: BLE001 (shown, and what else was measured isn't lost)
        traceback.print_exc()
        report.failures[each.name] = f"{type(error).__name__}: {error}"
    if each.name in report.failures:
        print(f"{each.name} failed: {report.failures[each.name]}", file=sys.stderr)
    write_json(options.json, report)


def add(each: Experiment | Inspection, report: Report, *, rounds: int, quick: bool) -> None:
    """Measures one part of the suite; a part that fails adds nothing.

    Raises:
        WorkloadFailedError: it took too long, a server didn't start, or calls failed.
    """
    if isinstance(each, Inspection):
        report.figures += list(each.figures())
        return
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running_servers(each.servers, Path(folder)) as servers,
    ):
        measured = alternate(
            servers,
            each.workload,
            rounds=rounds,
            name=each.name,
            preparation=each.preparation,
        )
        figures = list(each.figures(servers, measured, is_quick=quick) if each.figures else ())
    report.measured += measured
    report.versus[each.name] = each.versus
    report.verdicts += [judge(target, measured) for target in each.targets]
    report.figures += figures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
