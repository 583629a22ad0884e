"""The command tree, and how any command ends."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from caravan_client.cli import (
    completion_command,
    doctor_command,
    drain_command,
    inference_commands,
    status_command,
    token_commands,
    trace_command,
)
from caravan_client.cli.checkpoint_commands import checkpoints_group
from caravan_client.cli.failures import (
    ExitStatus,
    report_error,
    report_unexpected,
    report_usage,
    silence_stdout,
)
from caravan_client.cli.key_commands import key_group
from caravan_client.cli.kv_commands import kv_group
from caravan_client.cli.model_commands import model_group
from caravan_client.cli.options import ConnectionOptions
from caravan_client.cli.parameter_groups import grouped
from caravan_client.cli.session import remember
from caravan_client.errors import CaravanError, ConfigurationError


class _ReaderGoneError(RuntimeError):
    """Whoever read our stdout has closed it, as `head` does."""


class CaravanGroup(TyperGroup):
    """Ends every command in one of the documented ways, and none with a traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: object,
    ) -> NoReturn:
        """Runs the command in `args` and exits, whatever the mode."""
        arguments = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # what a terminal cannot show is no failure
        sys.exit(self._run(arguments))

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 (typer gives its own type no public name)
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # typer would end with the status of a failed call
            raise _ReaderGoneError from None

    def _run(self, arguments: list[str]) -> int:
        as_json = "--json" in arguments
        try:
            return super().main(arguments, "caravan", standalone_mode=False) or ExitStatus.OK
        except CaravanError as error:
            report_error(error, as_json=as_json)
            unsent = isinstance(error, ConfigurationError)
            return ExitStatus.USAGE if unsent else ExitStatus.CALL_FAILED
        except typer.TyperException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else "caravan"
            report_usage(error.format_message(), path, as_json=as_json)
            return error.exit_code
        except (KeyboardInterrupt, typer.Abort):
            return ExitStatus.INTERRUPTED
        except _ReaderGoneError:
            silence_stdout()
            return ExitStatus.READER_GONE
        except OSError as error:  # a full disk, for one
            silence_stdout()
            report_unexpected(error, as_json=as_json)
            return ExitStatus.CALL_FAILED
        except Exception as error:
            if os.environ.get("CARAVAN_DEBUG"):
                raise
            report_unexpected(error, as_json=as_json)
            return ExitStatus.CALL_FAILED


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("caravan-client"))
        raise typer.Exit


@grouped
def _caravan(
    context: typer.Context,
    connection: ConnectionOptions,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Talk to a Caravan gateway: chat, generate, look after models and keys."""
    remember(context, connection)


def build() -> typer.Typer:
    """Puts the commands together."""
    app = typer.Typer(
        cls=CaravanGroup,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_caravan)
    inference_commands.register(app)
    token_commands.register(app)
    app.add_typer(model_group(), name="models")
    app.add_typer(key_group(), name="keys")
    app.add_typer(kv_group(), name="kv")
    app.add_typer(checkpoints_group(), name="checkpoints")
    status_command.register(app)
    drain_command.register(app)
    trace_command.register(app)
    doctor_command.register(app)
    completion_command.register(app)
    return app


app = build()
