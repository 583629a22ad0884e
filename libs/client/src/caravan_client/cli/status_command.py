"""`caravan status`."""

import typer

from caravan_client.cli.model_commands import MODEL_COLUMNS, model_row
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.output import Output
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import time_text
from caravan_client.cli.session import open_session
from caravan_client.resources import GatewayStatus, Model, Replica


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(status)


@grouped
def status(context: typer.Context, connection: ConnectionOptions) -> None:
    """Show services, models and workers."""
    with open_session(context, connection) as session:
        found = session.client.status()
        if session.output.as_json:
            session.output.document(found)
            return
        _print_services(found, session.output)
        if found.models:
            session.output.line("")
            session.output.table(MODEL_COLUMNS, [model_row(model) for model in found.models])
        workers = [(model, replica) for model in found.models for replica in model.replicas]
        if workers:
            session.output.line("")
            _print_workers(workers, session.output)


def _print_services(found: GatewayStatus, output: Output) -> None:
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
    output.table(("SERVICE", "ADDRESS", "STATE", "DETAIL"), rows)


def _print_workers(workers: list[tuple[Model, Replica]], output: Output) -> None:
    rows = [
        (
            f"{model.name}/{replica.index}",
            replica.state,
            "" if replica.process_id is None else str(replica.process_id),
            str(replica.num_restarts),
            replica.state_detail,
        )
        for model, replica in workers
    ]
    output.table(("WORKER", "STATE", "PID", "RESTARTS", "DETAIL"), rows)
