"""What every command has in hand: a client of the right gateway, and the output."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.output import Output

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command."""

    client: "Caravan"
    output: Output


@contextmanager
def open_session(context: typer.Context, connection: ConnectionOptions) -> Iterator[Session]:
    """Opens what the options of the command and those before it ask for."""
    from caravan_client.client_settings import ClientSettings
    from caravan_client.sync_client import Caravan

    options = connection.over(context.obj)
    settings = ClientSettings(api_key=options.api_key, tls=options.tls_settings())
    if options.timeout is not None:
        settings["timeout_s"] = options.timeout
    with Caravan(options.address, **settings) as client:
        yield Session(client, Output(as_json=options.json))


def remember(context: typer.Context, connection: ConnectionOptions) -> None:
    """Keeps the options that stand before a subcommand for it, and shows help without one."""
    context.obj = connection.over(context.obj)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
