"""`caravan kv drop|budget`."""

from typing import Annotated

import typer

from caravan_client.cli.completion import complete_model
from caravan_client.cli.options import ConnectionOptions, ModelOption
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import open_session, remember


def kv_group() -> typer.Typer:
    """The subcommands."""
    group = typer.Typer(help="Look after what workers have stored of earlier texts.")
    group.callback(invoke_without_command=True)(grouped(remember))
    group.command("drop")(drop)
    group.command("budget")(budget)
    return group


@grouped
def drop(
    context: typer.Context,
    connection: ConnectionOptions,
    tenant: Annotated[str, typer.Option(metavar="NAME", help="Whose pages.")],
    model: ModelOption = None,
) -> None:
    """Zero and forget a tenant's pages, in memory and on disk.

    caravan kv drop --tenant default
    """
    with open_session(context, connection) as session:
        dropped = session.client.pages.drop(tenant, model=model)
        if session.output.as_json:
            session.output.document(dropped)
        else:
            session.output.line(
                f"{dropped.num_pages} pages of {tenant} dropped by {dropped.num_workers} workers"
            )


@grouped
def budget(
    context: typer.Context,
    connection: ConnectionOptions,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Name or alias.",
            autocompletion=complete_model,
        ),
    ],
    host_bytes: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=0, help="Host memory for the pages of each worker."),
    ] = None,
    disk_bytes: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=0, help="Disk for the pages of each worker."),
    ] = None,
) -> None:
    """Change how much each worker of a model stores, until it ends.

    caravan kv budget --model bundled --host-bytes 100000000
    """
    if host_bytes is None and disk_bytes is None:
        raise typer.BadParameter("give one", param_hint="--host-bytes or --disk-bytes")
    with open_session(context, connection) as session:
        num_workers = session.client.pages.set_budgets(
            model, host_bytes=host_bytes, disk_bytes=disk_bytes
        )
        if session.output.as_json:
            session.output.document({"num_workers": num_workers})
        else:
            session.output.line(f"changed in {num_workers} workers of {model}")
