"""`caravan status`."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.model_commands import MODEL_COLUMNS, model_row
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.output import Block, Output
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import time_text
from caravan_client.cli.session import Session, open_session
from caravan_client.cli.worker_numbers import (
    NUMBER_COLUMNS,
    missing_text,
    number_line,
    number_row,
)
from caravan_client.errors import PermissionDeniedError, UnavailableError, UnimplementedError
from caravan_client.resources import GatewayStatus, WorkersReport

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(status)


@grouped
def status(
    context: typer.Context,
    connection: ConnectionOptions,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show the numbers of workers until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="How often to look, with --watch."),
    ] = 1.0,
) -> None:
    """Show services, models and workers.

    caravan status --watch
    """
    with open_session(context, connection) as session:
        if watch:
            with suppress(KeyboardInterrupt):
                _watch(session, interval)
            return
        found = session.client.status()
        report = _report(session.client)
        if session.output.as_json:
            session.output.document(_document(found, report))
            return
        for block in _blocks(found, report):
            _print(block, session.output)
        if report is not None and (missing := missing_text(report)):
            session.output.note(f"({missing})")
        if report is None:
            session.output.hint("(numbers of workers need the permission metrics)")


def _watch(session: Session, interval_s: float) -> None:
    """Shows the numbers again and again, each way of output in its own manner."""
    output = session.output
    reports = _reports(session.client, interval_s)
    if output.as_json:
        for report in reports:
            output.document(report or {"workers": None})
    elif output.interactive:
        with output.refreshing() as show:
            for report in reports:
                show(_picture(report))
    else:
        for report in reports:
            for line in _lines(report):
                output.line(line)


def _reports(client: "Caravan", interval_s: float) -> Iterator[WorkersReport | None]:
    """Yields reports for ever; None while the gateway can't be asked."""
    while True:
        try:
            yield client.worker_stats()
        except UnavailableError:
            yield None
        time.sleep(interval_s)


def _picture(report: WorkersReport | None) -> list[Block]:
    now = f"{datetime.now().astimezone():%H:%M:%S}"
    if report is None:
        return [f"{now}  the gateway can't be asked at present"]
    table = (NUMBER_COLUMNS, [number_row(worker) for worker in report.workers])
    lines = (f"{now}  Ctrl-C ends", missing_text(report))
    return [table, *(line for line in lines if line)]


def _lines(report: WorkersReport | None) -> list[str]:
    now = datetime.now().astimezone()
    if report is None:
        return [f"{now:%H:%M:%S} the gateway can't be asked at present"]
    lines = [number_line(worker, now) for worker in report.workers]
    if missing := missing_text(report):
        lines.append(f"{now:%H:%M:%S} {missing}")
    return lines or [f"{now:%H:%M:%S} no workers"]


def _report(client: "Caravan") -> WorkersReport | None:
    """The numbers of workers; None for who may not see them, or where the gateway has none."""
    try:
        return client.worker_stats()
    except (PermissionDeniedError, UnimplementedError):
        return None


def _document(found: GatewayStatus, report: WorkersReport | None) -> dict[str, object]:
    members = {each.name: getattr(found, each.name) for each in fields(found)}
    workers = None if report is None else report.workers
    return {**members, "workers": workers}


def _blocks(found: GatewayStatus, report: WorkersReport | None) -> list[Block]:
    blocks = [_services(found)]
    if found.models:
        blocks.append((MODEL_COLUMNS, [model_row(model) for model in found.models]))
    if any(model.replicas for model in found.models):
        blocks.append(_processes(found))
    if report is not None and report.workers:
        blocks.append((NUMBER_COLUMNS, [number_row(worker) for worker in report.workers]))
    parted: list[Block] = [blocks[0]]
    for block in blocks[1:]:
        parted += ["", block]
    return parted


def _print(block: Block, output: Output) -> None:
    if isinstance(block, str):
        output.line(block)
    else:
        output.table(*block)


def _services(found: GatewayStatus) -> Block:
    spooled = found.num_spooled_records
    gateway = (
        f"version {found.version}, since {time_text(found.start_time)}, "
        f"{found.num_active_calls} calls in progress"
    )
    rows = [
        (
            "gateway",
            "",
            "serving" if found.serving else "not serving",
            gateway + (f", {spooled} usage records wait for telemetry" if spooled else ""),
        )
    ]
    rows += [
        (entry.service, entry.address, "up" if entry.reachable else "unreachable", entry.detail)
        for entry in found.dependencies
    ]
    return ("SERVICE", "ADDRESS", "STATE", "DETAIL"), rows


def _processes(found: GatewayStatus) -> Block:
    rows = [
        (
            f"{model.name}/{replica.index}",
            replica.state,
            "" if replica.process_id is None else str(replica.process_id),
            str(replica.num_restarts),
            replica.state_detail,
        )
        for model in found.models
        for replica in model.replicas
    ]
    return ("WORKER", "STATE", "PID", "RESTARTS", "DETAIL"), rows
