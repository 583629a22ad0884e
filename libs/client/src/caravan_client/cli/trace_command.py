"""`caravan trace REQUEST_ID`."""

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import open_session
from caravan_client.cli.waterfall import summary, table
from caravan_client.errors import NotFoundError
from caravan_client.resources import Trace

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan

# Each process sends its spans about twice a second.
_PATIENCE_S = 3.0
_PAUSE_S = 0.5
_SETTLED_AFTER_S = 1.5


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(trace)


@grouped
def trace(
    context: typer.Context,
    connection: ConnectionOptions,
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST_ID", help="As `--stats` and errors show it.")
    ],
) -> None:
    """Show where the time of a call went, over all processes.

    caravan trace 2f1c0b5d
    """
    with open_session(context, connection) as session:
        with session.output.waiting("…"):
            found = _complete_trace(session.client, request_id)
        if session.output.as_json:
            session.output.document(found)
            return
        session.output.line(summary(found))
        session.output.line("")
        session.output.drawing(table(found))
        if found.truncated:
            session.output.note("(there are more spans than are shown)")


def _complete_trace(client: "Caravan", request_id: str) -> Trace:
    """The trace once its last spans have had the time to arrive."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            found = client.trace(request_id)
        except NotFoundError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)
            continue
        age_s = _age_s(found)
        if not 0 <= age_s < _SETTLED_AFTER_S:
            return found
        time.sleep(_SETTLED_AFTER_S - age_s)
        return client.trace(request_id)


def _age_s(found: Trace) -> float:
    """Seconds since the last span ended, as far as clocks agree."""
    ends = [
        span.start_time + timedelta(milliseconds=span.duration_ms)
        for span in found.spans
        if span.start_time is not None
    ]
    return (datetime.now(UTC) - max(ends)).total_seconds() if ends else _SETTLED_AFTER_S
