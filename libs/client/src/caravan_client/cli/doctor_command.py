"""`caravan doctor`."""

from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.doctor.findings import Area
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.output import Output
from caravan_client.cli.parameter_groups import grouped

if TYPE_CHECKING:
    from caravan_client.cli.doctor.collect import Question

_CALL_S = 2.0


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


@grouped
def doctor(
    context: typer.Context,
    connection: ConnectionOptions,
    area: Annotated[
        list[Area] | None, typer.Argument(help="Only these areas; all when left out.")
    ] = None,
) -> None:
    """Say what is wrong with this machine, installation or deployment, and how to mend it.

    Exits with 1 when something is wrong.

    Before the first start: caravan doctor machine installation
    """
    from caravan_client.cli.doctor.checks import examine
    from caravan_client.cli.doctor.collect import collect
    from caravan_client.cli.doctor.report import is_healthy, print_json, print_report

    options = connection.over(context.obj)
    output = Output(as_json=options.json)
    with output.waiting("looking around"):
        facts = collect(_question(options, area or list(Area)))
        found = examine(facts)
    (print_json if output.as_json else print_report)(facts, found, output)
    if not is_healthy(found):
        raise typer.Exit(1)


def _question(options: ConnectionOptions, areas: list[Area]) -> "Question":
    import os
    from importlib.metadata import version
    from pathlib import Path

    from caravan_client.cli.doctor.collect import Question
    from caravan_client.cli.doctor.installation_probe import find_checkout
    from caravan_client.connection import DEFAULT_ADDRESS, is_loopback, parse_address
    from caravan_client.sync_client import Caravan

    tls = options.tls_settings()
    address = options.address or os.environ.get("CARAVAN_ADDRESS") or DEFAULT_ADDRESS
    return Question(
        areas=areas,
        root=find_checkout(Path.cwd(), Path(__file__).resolve()),
        address=options.address,
        is_local=is_loopback(parse_address(address)),
        key_id=_key_id(options.api_key),
        client_version=version("caravan-client"),
        connect=lambda: Caravan(
            options.address,
            api_key=options.api_key,
            tls=tls,
            timeout_s=min(options.timeout or _CALL_S, _CALL_S),
            max_retries=0,
        ),
    )


def _key_id(given: str | None) -> str:
    """The public part of a key, `cvn_<id>_<secret>`; nothing where there is no such key."""
    from caravan_client.connection import find_api_key
    from caravan_client.errors import CaravanError

    try:
        parts = (given or find_api_key()).split("_")
    except CaravanError:
        return ""
    return parts[1] if len(parts) == 3 else ""
