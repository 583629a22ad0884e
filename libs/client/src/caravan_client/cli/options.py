"""The options that several commands share, and what they mean to the SDK."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from caravan_client.cli.completion import complete_model
from caravan_client.cli.sampler_options import SamplerFlags
from caravan_client.connection import Tls
from caravan_client.generation import GenerateOptions, Sampling

_CONNECTION = "Connection"
_GENERATION = "Generation"
_SAMPLING = "Sampling"


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Where the gateway is, who calls, and how to print; accepted before and after a subcommand."""

    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Where the gateway is; else CARAVAN_ADDRESS, else localhost:50051.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Else CARAVAN_API_KEY, else admin.key in CARAVAN_HOME (./.caravan).",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Most time for a call; 600 by default.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--plaintext",
            help="By default plaintext to this machine, TLS to any other.",
            show_default=False,
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CA that signed the gateway's certificate.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    client_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Our certificate, for a gateway that asks.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    client_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key.", rich_help_panel=_CONNECTION),
    ] = None
    server_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name in the gateway's certificate, where it is not that of the address.",
            rich_help_panel=_CONNECTION,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON, for streams one object a line; errors too, on stderr.",
            rich_help_panel="Output",
        ),
    ] = False

    def over(self, outer: "ConnectionOptions | None") -> "ConnectionOptions":
        """These options, and for what was not given those of the command around."""
        if outer is None:
            return self
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        for name, value in values.items():
            if value is None:
                values[name] = getattr(outer, name)
        values["json"] = self.json or outer.json
        return ConnectionOptions(**values)

    def tls_settings(self) -> Tls | bool | None:
        """What the SDK's `tls` has to be.

        Raises:
            typer.BadParameter: certificates are given for a plaintext connection.
        """
        tls = Tls(self.ca, self.client_certificate, self.client_key, self.server_name)
        if tls == Tls():
            return self.tls
        if self.tls is False:
            raise typer.BadParameter("certificates make no sense with --plaintext")
        return tls


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Of this model only; else of all that are loaded.",
        autocompletion=complete_model,
    ),
]


@dataclass(frozen=True, slots=True)
class GenerationFlags:
    """What is generated, beside how tokens are chosen."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            autocompletion=complete_model,
            rich_help_panel=_GENERATION,
        ),
    ] = "bundled"
    max_output_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-output-tokens",
            "-n",
            metavar="COUNT",
            help="Most tokens to generate; 256 by default.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="End before this text. Can be repeated.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="The same seed gives the same text; drawn by default.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos",
            help="Go on when the model wants to end.",
            rich_help_panel=_GENERATION,
        ),
    ] = False
    priority: Annotated[
        int | None,
        typer.Option(metavar="0-100", help="More is sooner.", rich_help_panel=_GENERATION),
    ] = None
    choices: Annotated[
        int | None,
        typer.Option(
            metavar="1-16",
            help="How many texts to generate; they share the computation of the input.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="0-20",
            help="With --json: log-probabilities, with so many of the most probable tokens.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    session: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Name the conversation, to keep its computation longer for the next turn.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Mark the usage record. Can be repeated.",
            rich_help_panel=_GENERATION,
        ),
    ] = None
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Name the call in logs.", rich_help_panel=_GENERATION),
    ] = None
    stream: Annotated[
        bool,
        typer.Option(
            "--stream/--no-stream",
            help="Print text as it comes, or when it is complete.",
            rich_help_panel="Output",
        ),
    ] = True
    stats: Annotated[
        bool,
        typer.Option(
            "--stats",
            help="Say on stderr what ran, for how long and over how many tokens.",
            rich_help_panel="Output",
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class SamplingFlags:
    """How tokens are chosen. The names are those of `Sampling`; the server checks the ranges."""

    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "-t",
            metavar="0-5",
            help="0 is greedy, more is more random; 0.8 by default.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="Keep so many most probable tokens; 40.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="0-1", help="Keep this much probability; 0.95.", rich_help_panel=_SAMPLING
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            metavar="0-1",
            help="Drop what is less probable than this share of the best; 0.05.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    repeat_penalty: Annotated[
        float | None, typer.Option(metavar="0-10", help="1 is off.", rich_help_panel=_SAMPLING)
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(metavar="-2..2", help="0 is off.", rich_help_panel=_SAMPLING)
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(metavar="-2..2", help="0 is off.", rich_help_panel=_SAMPLING)
    ] = None
    penalty_last_n: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            help="How many last tokens the penalties look at; 64.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN=BIAS",
            help="Add to a token's logit. Can be repeated.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None


def generate_options(
    flags: GenerationFlags, sampling: SamplingFlags, samplers: SamplerFlags
) -> GenerateOptions:
    """The options of the SDK's generating methods.

    Raises:
        typer.BadParameter: `--label`, `--logit-bias` or a sampler's option is not as it has to be.
    """
    values = {entry.name: getattr(sampling, entry.name) for entry in fields(sampling)}
    values["logit_bias"] = dict(_bias(entry) for entry in sampling.logit_bias or ())
    options = GenerateOptions(model=flags.model, sampling=samplers.over(Sampling(**values)))
    if flags.max_output_tokens is not None:
        options["max_output_tokens"] = flags.max_output_tokens
    if flags.stop:
        options["stop"] = flags.stop
    if flags.ignore_eos:
        options["ignore_eos"] = True
    _add_numbers(options, flags)
    if flags.session is not None:
        options["session_id"] = flags.session
    if flags.label:
        options["labels"] = dict(_pair(entry, "--label") for entry in flags.label)
    if flags.request_id is not None:
        options["request_id"] = flags.request_id
    return options


def _add_numbers(options: GenerateOptions, flags: GenerationFlags) -> None:
    if flags.seed is not None:
        options["seed"] = flags.seed
    if flags.priority is not None:
        options["priority"] = flags.priority
    if flags.choices is not None:
        options["num_choices"] = flags.choices
    if flags.logprobs is not None:
        options["logprobs"] = flags.logprobs


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _bias(text: str) -> tuple[int, float]:
    token, value = _pair(text, "--logit-bias")
    try:
        return int(token), float(value)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not TOKEN=BIAS, such as 42=-1.5", param_hint="--logit-bias"
        ) from None
