"""`caravan checkpoints list|prune`."""

import typer

from caravan_client.cli.options import ConnectionOptions, ModelOption
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import size_text, time_text
from caravan_client.cli.session import open_session, remember
from caravan_client.resources import Checkpoints, JournalState, RequestCheckpoint

_WORKER_COLUMNS = ("worker", "journal", "requests", "pages", "page size", "being written")
_REQUEST_COLUMNS = ("worker", "request", "tenant", "principal", "state", "tokens", "since")


def checkpoints_group() -> typer.Typer:
    """The subcommands."""
    group = typer.Typer(help="Look after what workers have on disk for the time after their death.")
    group.callback(invoke_without_command=True)(grouped(remember))
    group.command("list")(list_checkpoints)
    group.command("prune")(prune)
    return group


@grouped
def list_checkpoints(
    context: typer.Context, connection: ConnectionOptions, model: ModelOption = None
) -> None:
    """Show the pages on disk, and the requests that are written down.

    caravan checkpoints list
    """
    with open_session(context, connection) as session:
        found = session.client.checkpoints.list(model=model)
        if session.output.as_json:
            session.output.document(found)
            return
        session.output.table(_WORKER_COLUMNS, [_worker_row(each) for each in found])
        requests = [_request_row(each, request) for each in found for request in each.requests]
        if requests:
            session.output.line("")
            session.output.table(_REQUEST_COLUMNS, requests)


@grouped
def prune(context: typer.Context, connection: ConnectionOptions, model: ModelOption = None) -> None:
    """Give up what nobody needs now: requests that nobody asked for since a death, unused pages.

    caravan checkpoints prune --model bundled
    """
    with open_session(context, connection) as session:
        pruned = session.client.checkpoints.prune(model=model)
        if session.output.as_json:
            session.output.document(pruned)
        else:
            session.output.line(
                f"{pruned.num_requests} requests and {pruned.num_pages} pages given up "
                f"by {pruned.num_workers} workers"
            )


def _worker_row(worker: Checkpoints) -> tuple[str, ...]:
    return (
        _name_of(worker),
        _journal_of(worker),
        str(worker.num_requests),
        str(worker.num_pages),
        size_text(worker.page_bytes),
        str(worker.num_pages_pending),
    )


def _request_row(worker: Checkpoints, request: RequestCheckpoint) -> tuple[str, ...]:
    return (
        _name_of(worker),
        request.request_id,
        request.tenant,
        request.principal,
        request.state or "",
        str(request.output_tokens),
        time_text(request.begin_time),
    )


def _journal_of(worker: Checkpoints) -> str:
    if worker.journal is None:
        return ""
    if worker.journal is JournalState.OFF:
        return "off"
    state = (
        "given up" if worker.journal is JournalState.GIVEN_UP else size_text(worker.journal_bytes)
    )
    left_out = worker.num_requests_left_out
    return f"{state}, {left_out} left out" if left_out else state


def _name_of(worker: Checkpoints) -> str:
    return f"{worker.model}#{worker.replica}"
