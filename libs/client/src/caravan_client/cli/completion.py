"""Completes names that only the gateway knows, for the shell.

Asks briefly and is silent about failures: an error in the middle of a command line helps nobody.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from caravan_client.cli.options import ConnectionOptions
    from caravan_client.sync_client import Caravan

LIMIT_S = 1.0

# Shells evaluate what they are offered, so names that mean something to one are left out.
_HARMLESS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names and aliases of models."""

    def ask(client: "Caravan") -> Iterable[str]:
        return (name for model in client.models.list() for name in (model.name, *model.aliases))

    return _names(context, incomplete, ask)


def complete_key(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of keys that still work."""

    def ask(client: "Caravan") -> Iterable[str]:
        return (key.id for key in client.keys.list() if key.state == "active")

    return _names(context, incomplete, ask)


def _names(
    context: typer.Context, incomplete: str, ask: Callable[["Caravan"], Iterable[str]]
) -> list[str]:
    from caravan_client.cli.doctor.bounded import gather

    def names() -> list[str]:
        return list(_ask(_connection(context), ask))

    try:
        found = gather({"names": names}, limit_s=LIMIT_S).get("names", [])
    except Exception:  # noqa: BLE001 (whatever it is, there is nobody to tell)
        return []
    return sorted(n for n in found if n.startswith(incomplete) and _HARMLESS_NAME.fullmatch(n))


def _ask(options: "ConnectionOptions", ask: Callable[["Caravan"], Iterable[str]]) -> Iterable[str]:
    from caravan_client.sync_client import Caravan

    with Caravan(
        options.address,
        api_key=options.api_key,
        tls=options.tls_settings(),
        timeout_s=LIMIT_S,
        max_retries=0,
    ) as client:
        return list(ask(client))


def _connection(context: typer.Context) -> "ConnectionOptions":
    """The options that stand on the line so far, of the command and of those around it."""
    from caravan_client.cli.options import ConnectionOptions

    names = [entry.name for entry in fields(ConnectionOptions)]
    options: ConnectionOptions | None = None
    for params in _given(context):
        given = {name: params[name] for name in names if params.get(name) is not None}
        options = ConnectionOptions(**given).over(options)
    return options or ConnectionOptions()


def _given(context: typer.Context) -> list[dict[str, Any]]:
    """What was given to the command and to those around it, the outermost first."""
    given = [context.params]
    around = context.parent
    while around is not None:
        given.append(around.params)
        around = around.parent
    return given[::-1]
