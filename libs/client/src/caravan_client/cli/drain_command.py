"""`caravan drain`."""

from typing import Annotated

import typer

from caravan_client.cli.completion import complete_model
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import open_session
from caravan_client.resources import DrainedWorkers


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(drain)


@grouped
def drain(
    context: typer.Context,
    connection: ConnectionOptions,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Workers of this model; else all of the engine host.",
            autocompletion=complete_model,
        ),
    ] = None,
    replica: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", min=0, help="Only this replica, as `status` numbers it."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Only workers of this engine host."),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="How long running requests may take to finish; else the engine's default.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Replace each worker before the next one leaves.")
    ] = False,
) -> None:
    """Empty workers; what they don't finish in time goes on on the others.

    caravan drain --model bundled --replica 0

    caravan drain --model bundled --restart

    caravan drain --engine 127.0.0.1:50052
    """
    if model is None and (engine is None or replica is not None):
        raise typer.BadParameter("say of which", param_hint="--model or --engine")
    with open_session(context, connection) as session:
        with session.output.working("letting running requests finish"):
            drained = session.client.drain(
                model,
                replica=replica,
                engine=engine,
                drain_timeout_s=drain_timeout,
                restart=restart,
            )
        if session.output.as_json:
            session.output.document(drained)
        else:
            session.output.line(_summary(drained, restart=restart))


def _summary(drained: DrainedWorkers, *, restart: bool) -> str:
    what = "replaced" if restart else "drained"
    unfinished = drained.num_unfinished_requests
    return f"{drained.num_workers} workers {what}" + (
        f"; {unfinished} requests were not finished in time" if unfinished else ""
    )
