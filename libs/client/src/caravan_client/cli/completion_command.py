"""`caravan completion bash|zsh|fish`."""

from enum import StrEnum
from typing import Annotated

import typer
from typer import completion

VARIABLE = "_CARAVAN_COMPLETE"


class Shell(StrEnum):
    """Shells that completion is known to work in."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("completion")(print_script)


def print_script(
    shell: Annotated[Shell, typer.Argument(help="Whose script to print.")],
) -> None:
    """Print a script that completes commands, options, models and keys in a shell.

    source <(caravan completion bash)
    """
    # typer's documented way is --show-completion, which asks the running shell, not the person.
    script = completion.get_completion_script(  # type: ignore[attr-defined]  # only imported there
        prog_name="caravan", complete_var=VARIABLE, shell=shell.value
    )
    typer.echo(script)
