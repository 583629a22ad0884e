"""`Caravan`, the blocking client."""

from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self, Unpack

from caravan_client.client_settings import ClientSettings, connection_of
from caravan_client.embedding import Embeddings, EmbedOptions
from caravan_client.generation import CallOptions, GenerateOptions, Generation, Message
from caravan_client.keywords import call_options
from caravan_client.operations import (
    checkpoints,
    embeddings,
    gateway,
    inference,
    models,
    policy,
    tokens,
    traces,
)
from caravan_client.resources import (
    ApiKey,
    Checkpoints,
    CreatedApiKey,
    DrainedWorkers,
    DroppedPages,
    GatewayStatus,
    LoadProgress,
    Model,
    Principal,
    PrunedCheckpoints,
    RoleDefinition,
    Trace,
    UnloadedModel,
    WorkersReport,
)
from caravan_client.sync_transport import GenerationStream, Stream, SyncTransport


class Caravan:
    """A client of one gateway. Safe to share between threads; close it, or use it with `with`.

    Each call raises a `CaravanError` when it fails.

    Attributes:
        models: what can be run.
        keys: API keys.
        principals: who may call.
        roles: what they may do.
        pages: what workers have stored of earlier texts.
        checkpoints: what workers have on disk for the time after their death.
    """

    def __init__(self, address: str | None = None, **settings: Unpack[ClientSettings]) -> None:
        """Prepares a client; the connection is made by the first call.

        Args:
            address: host:port; else `CARAVAN_ADDRESS`, else localhost:50051.
            settings: see `ClientSettings`.

        Raises:
            ConfigurationError: a setting cannot be used, or no API key was found.
        """
        self._transport = SyncTransport(connection_of(address, settings))
        self.models = Models(self._transport)
        self.keys = Keys(self._transport)
        self.principals = Principals(self._transport)
        self.roles = Roles(self._transport)
        self.pages = Pages(self._transport)
        self.checkpoints = WorkerCheckpoints(self._transport)

    def generate(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Continues a text, or token ids, and returns when all of it is there."""
        request = inference.text_request(prompt, options)
        return self._transport.unary(inference.generate(request), call_options(options))

    def stream(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> GenerationStream:
        """Continues a text, or token ids, as events."""
        request = inference.text_request(prompt, options)
        return self._transport.generation_stream(
            inference.stream_generate(request), call_options(options)
        )

    def chat(
        self, messages: str | Sequence[Message], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Answers a chat; a plain string is one user message."""
        request = inference.chat_request(messages, options)
        return self._transport.unary(inference.generate(request), call_options(options))

    def stream_chat(
        self, messages: str | Sequence[Message], **options: Unpack[GenerateOptions]
    ) -> GenerationStream:
        """Answers a chat as events."""
        request = inference.chat_request(messages, options)
        return self._transport.generation_stream(
            inference.stream_generate(request), call_options(options)
        )

    def embed(
        self, inputs: str | Sequence[str | Sequence[int]], **options: Unpack[EmbedOptions]
    ) -> Embeddings:
        """Turns texts, or sequences of token ids, into vectors; a plain string is one text."""
        request = embeddings.embed(inputs, options)
        return self._transport.unary(request, call_options(options))

    def tokenize(
        self, text: str | Sequence[Message], *, model: str, **call: Unpack[CallOptions]
    ) -> tuple[int, ...]:
        """Splits a text, or a chat as the model's template renders it, into tokens."""
        return self._transport.unary(tokens.tokenize(text, model), call)

    def detokenize(
        self, token_ids: Sequence[int], *, model: str, **call: Unpack[CallOptions]
    ) -> str:
        """Writes tokens out as text."""
        return self._transport.unary(tokens.detokenize(token_ids, model), call)

    def status(self, **call: Unpack[CallOptions]) -> GatewayStatus:
        """How the deployment is."""
        return self._transport.unary(gateway.get_status(), call)

    def worker_stats(self, **call: Unpack[CallOptions]) -> WorkersReport:
        """The numbers of all workers, a few seconds old at most."""
        return self._transport.unary(gateway.get_worker_stats(), call)

    def drain(
        self,
        model: str | None = None,
        *,
        replica: int | None = None,
        engine: str | None = None,
        drain_timeout_s: float | None = None,
        restart: bool = False,
        **call: Unpack[CallOptions],
    ) -> DrainedWorkers:
        """Empties workers, and ends or replaces them; what they don't finish goes on elsewhere.

        Args:
            model: of this model; None: of all on the engine host.
            replica: only this one of the model, numbered as in `status`.
            engine: only those of the engine host with this address; needed without a model.
            drain_timeout_s: that running requests may take; None: the engine's own setting.
            restart: replaces each before the next one is emptied.
            call: see `CallOptions`.
        """
        order = gateway.drain_workers(
            model=model, replica=replica, engine=engine, timeout_s=drain_timeout_s, restart=restart
        )
        return self._transport.unary(order, call)

    def trace(self, of_request_id: str, **call: Unpack[CallOptions]) -> Trace:
        """Where the time of a call went; its spans arrive a second or two after it."""
        return self._transport.unary(traces.get_trace(of_request_id), call)

    def close(self) -> None:
        """Ends all calls and the connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Caravan({self._transport.connection.address!r})"


class Models:
    """What can be run."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def list(self, **call: Unpack[CallOptions]) -> list[Model]:
        """All models, by name."""
        return self._transport.collect(models.list_models, call)

    def get(self, name: str, **call: Unpack[CallOptions]) -> Model:
        """One model by name or alias."""
        return self._transport.unary(models.get_model(name), call)

    def load(
        self, name: str, *, replicas: int | None = None, **call: Unpack[CallOptions]
    ) -> Stream[LoadProgress]:
        """Loads a model and tells how far it is; the last step has the phase READY."""
        return self._transport.stream(models.load_model(name, replicas), call)

    def unload(
        self, name: str, *, drain_timeout_s: float | None = None, **call: Unpack[CallOptions]
    ) -> UnloadedModel:
        """Lets running requests finish, for the engine's default time if None, and unloads."""
        return self._transport.unary(models.unload_model(name, drain_timeout_s), call)


class Keys:
    """API keys."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def create(
        self,
        principal: str,
        *,
        description: str | None = None,
        time_to_live: timedelta | None = None,
        tenant: str | None = None,
        **call: Unpack[CallOptions],
    ) -> CreatedApiKey:
        """Makes a key for a principal, which must exist; None lets it work for ever."""
        operation = policy.create_key(
            principal, tenant=tenant, description=description, time_to_live=time_to_live
        )
        return self._transport.unary(operation, call)

    def list(
        self,
        *,
        principal: str | None = None,
        tenant: str | None = None,
        **call: Unpack[CallOptions],
    ) -> list[ApiKey]:
        """Keys, newest first, revoked and expired ones included."""
        return self._transport.collect(
            lambda token: policy.list_keys(token, principal, tenant), call
        )

    def revoke(self, key_id: str, **call: Unpack[CallOptions]) -> ApiKey:
        """Makes a key stop working everywhere within a second."""
        return self._transport.unary(policy.revoke_key(key_id), call)


class Principals:
    """Who may call."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        roles: Sequence[str],
        tenant: str | None = None,
        **call: Unpack[CallOptions],
    ) -> Principal:
        """Adds a principal."""
        return self._transport.unary(policy.create_principal(name, roles, tenant), call)

    def get(
        self, name: str, *, tenant: str | None = None, **call: Unpack[CallOptions]
    ) -> Principal:
        """One principal by name."""
        return self._transport.unary(policy.get_principal(name, tenant), call)

    def list(self, *, tenant: str | None = None, **call: Unpack[CallOptions]) -> list[Principal]:
        """All principals, by tenant and name."""
        return self._transport.collect(lambda token: policy.list_principals(token, tenant), call)


class Roles:
    """What principals may do."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def list(self, **call: Unpack[CallOptions]) -> list[RoleDefinition]:
        """All roles, by name."""
        return self._transport.collect(policy.list_roles, call)


class Pages:
    """What workers have stored of earlier texts."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def drop(
        self, tenant: str, *, model: str | None = None, **call: Unpack[CallOptions]
    ) -> DroppedPages:
        """Zeroes and forgets a tenant's pages, of all loaded models if None."""
        return self._transport.unary(gateway.drop_pages(tenant, model), call)

    def set_budgets(
        self,
        model: str,
        *,
        host_bytes: int | None = None,
        disk_bytes: int | None = None,
        **call: Unpack[CallOptions],
    ) -> int:
        """Changes how much each worker of a model stores, and returns how many there are.

        None leaves a budget as it is.
        """
        operation = gateway.set_page_budgets(model, host_bytes, disk_bytes)
        return self._transport.unary(operation, call)


class WorkerCheckpoints:
    """What workers have on disk for the time after their death."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def list(
        self, *, model: str | None = None, **call: Unpack[CallOptions]
    ) -> tuple[Checkpoints, ...]:
        """What each worker has, of all loaded models if None."""
        return self._transport.unary(checkpoints.list_checkpoints(model), call)

    def prune(self, *, model: str | None = None, **call: Unpack[CallOptions]) -> PrunedCheckpoints:
        """Gives up requests that nobody asked for since a death, and pages that nobody needs."""
        return self._transport.unary(checkpoints.prune_checkpoints(model), call)
