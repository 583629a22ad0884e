"""`caravan keys create|list|revoke`."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from caravan_client.cli.completion import complete_key
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import parse_duration, time_text
from caravan_client.cli.session import open_session, remember
from caravan_client.errors import FailedPreconditionError, NotFoundError
from caravan_client.resources import ApiKey, Principal

if TYPE_CHECKING:
    from caravan_client.sync_client import Caravan

_COLUMNS = ("KEY", "PRINCIPAL", "TENANT", "STATE", "CREATED", "EXPIRES", "DESCRIPTION")

_Tenant = Annotated[str | None, typer.Option(metavar="NAME", help="`default` when left out.")]


def key_group() -> typer.Typer:
    """The subcommands."""
    group = typer.Typer(help="Create, list and revoke API keys.")
    group.callback(invoke_without_command=True)(grouped(remember))
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("revoke")(revoke)
    return group


@grouped
def create(
    context: typer.Context,
    connection: ConnectionOptions,
    principal: Annotated[str, typer.Argument(help="Whom the key stands for.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE",
            help="Creates the principal with this role if it does not exist. Can be repeated.",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Such as 30d or 12h; never when left out."),
    ] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A note for people.")
    ] = None,
    tenant: _Tenant = None,
) -> None:
    """Make a key and print its secret, this once.

    caravan keys create alice --role user --expires 30d
    """
    time_to_live = _duration(expires)
    with open_session(context, connection) as session:
        owner = _principal(session.client, principal, role or [], tenant)
        created = session.client.keys.create(
            owner.name, description=description, time_to_live=time_to_live, tenant=tenant
        )
        if session.output.as_json:
            session.output.document(created)
            return
        session.output.line(created.secret)
        key = created.key
        until = f"until {time_text(key.expire_time)}" if key.expire_time else "without end"
        session.output.note(
            f"key {key.id} of {key.principal} ({', '.join(owner.roles)}), good {until}. "
            "Keep the secret: it is not shown again."
        )


@grouped
def list_keys(
    context: typer.Context,
    connection: ConnectionOptions,
    principal: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this principal's.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="Only this tenant's.")] = None,
) -> None:
    """List keys, newest first; secrets are never shown."""
    with open_session(context, connection) as session:
        keys = session.client.keys.list(principal=principal, tenant=tenant)
        if session.output.as_json:
            session.output.document({"keys": keys})
        else:
            session.output.table(_COLUMNS, [_row(key) for key in keys])


@grouped
def revoke(
    context: typer.Context,
    connection: ConnectionOptions,
    key_id: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Its id, from `keys list`.", autocompletion=complete_key
        ),
    ],
) -> None:
    """Make a key stop working everywhere within a second."""
    with open_session(context, connection) as session:
        key = session.client.keys.revoke(key_id)
        if session.output.as_json:
            session.output.document(key)
        else:
            session.output.line(f"{key.id} of {key.principal} is {key.state}")


def _principal(client: "Caravan", name: str, roles: list[str], tenant: str | None) -> Principal:
    """The principal, created if need be; one that has other roles than asked for is refused."""
    try:
        found = client.principals.get(name, tenant=tenant)
    except NotFoundError as error:
        if not roles:
            raise NotFoundError(
                f"there is no principal {name}; --role creates it, such as --role user",
                error.details,
            ) from None
        return client.principals.create(name, roles=roles, tenant=tenant)
    if roles and set(roles) != set(found.roles):
        raise FailedPreconditionError(
            f"{name} exists with {', '.join(found.roles)}; leave --role out to make a key for that"
        )
    return found


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expires") from None


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.id,
        key.principal,
        key.tenant,
        key.state,
        time_text(key.create_time),
        time_text(key.expire_time),
        key.description,
    )
