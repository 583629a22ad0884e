"""`caravan models list|load|unload`."""

from collections.abc import Iterable
from typing import Annotated

import typer

from caravan_client.cli.completion import complete_model
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.output import Output
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.quantities import size_text
from caravan_client.cli.session import open_session, remember
from caravan_client.resources import LoadPhase, LoadProgress, Model

MODEL_COLUMNS = (
    "MODEL",
    "ALIASES",
    "STATE",
    "SIZE",
    "CONTEXT",
    "WORKERS",
    "MEMORY",
    "DESCRIPTION",
)

_Name = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Name or alias.", autocompletion=complete_model),
]


def model_group() -> typer.Typer:
    """The subcommands."""
    group = typer.Typer(help="List, load and unload models.")
    group.callback(invoke_without_command=True)(grouped(remember))
    group.command("list")(list_models)
    group.command("load")(load)
    group.command("unload")(unload)
    return group


def model_row(model: Model) -> tuple[str, ...]:
    """A model as a row of a table."""
    details = model.details
    ready = sum(replica.state == "ready" for replica in model.replicas)
    return (
        model.name,
        ", ".join(model.aliases),
        f"{model.state} ({model.state_detail})" if model.state_detail else model.state,
        size_text(model.size_bytes),
        str(details.context_tokens) if details else "",
        f"{ready}/{len(model.replicas)}" if model.replicas else "",
        details.kv_unit if details else "",
        details.description if details else "",
    )


@grouped
def list_models(context: typer.Context, connection: ConnectionOptions) -> None:
    """List the models that this deployment can serve."""
    with open_session(context, connection) as session:
        models = session.client.models.list()
        if session.output.as_json:
            session.output.document({"models": models})
        else:
            session.output.table(MODEL_COLUMNS, [model_row(model) for model in models])


@grouped
def load(
    context: typer.Context,
    connection: ConnectionOptions,
    model: _Name,
    replicas: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            min=1,
            help="How many workers; of a loaded model, workers are added or ended.",
        ),
    ] = None,
) -> None:
    """Load a model, with progress, until it takes requests."""
    with open_session(context, connection) as session:
        output = session.output
        with session.client.models.load(model, replicas=replicas) as steps:
            if output.as_json:
                for step in steps:
                    output.document(step)
                return
            last = (_draw if output.interactive else _tell)(steps, output)
        if last is not None:
            output.line(f"{last.model.name} is {last.model.state}")


@grouped
def unload(
    context: typer.Context,
    connection: ConnectionOptions,
    model: _Name,
    drain: Annotated[
        float | None,
        typer.Option(
            "--drain-timeout",
            metavar="SECONDS",
            help="How long running requests may take to finish; else the engine's default.",
        ),
    ] = None,
) -> None:
    """Let a model's running requests finish, and free its memory."""
    with open_session(context, connection) as session:
        with session.output.working(f"letting the requests of {model} finish"):
            result = session.client.models.unload(model, drain_timeout_s=drain)
        if session.output.as_json:
            session.output.document(result)
            return
        ended = result.num_ended_requests
        session.output.line(
            f"{result.model.name} is {result.model.state}"
            + (f"; {ended} requests were ended" if ended else "")
        )


def _tell(steps: Iterable[LoadProgress], output: Output) -> LoadProgress | None:
    """One line for each phase, for logs."""
    last: LoadProgress | None = None
    for step in steps:
        if last is None or step.phase is not last.phase:
            output.note(_phase_text(step))
        last = step
    return last


def _draw(steps: Iterable[LoadProgress], output: Output) -> LoadProgress | None:
    """A progress bar, for a person."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    last: LoadProgress | None = None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with progress:
        task = progress.add_task("connecting", total=None)
        for last in steps:
            progress.update(task, description=_phase_text(last), total=1.0, completed=last.fraction)
    return last


def _phase_text(step: LoadProgress) -> str:
    phase = step.phase.value.replace("_", " ")
    if step.needed_bytes and step.phase is not LoadPhase.READY:
        return f"{phase} ({size_text(step.needed_bytes)} of {size_text(step.budget_bytes)})"
    return phase
