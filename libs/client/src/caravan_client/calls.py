"""What both clients share about making a call: identity, deadline, options of the channel.

Does no I/O but reading certificate files.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from caravan_client.connection import Connection, Tls, is_loopback
from caravan_client.errors import CaravanError, ConfigurationError, ErrorDetails
from caravan_client.generation import CallOptions
from caravan_client.keywords import check_keywords
from caravan_client.operations.operation import Operation
from caravan_client.retries import RetryRules, retry_rules
from caravan_client.statuses import REQUEST_ID_KEY, CallContext, error_of
from caravan_client.tracing import TRACEPARENT_KEY, CallTrace

_RESPONSE_LIMIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a call."""

    request_id: str
    metadata: tuple[tuple[str, str], ...]
    timeout_s: float | None


class CallPlan:
    """One call over all its attempts: they share a deadline, and each has its own request id."""

    def __init__(
        self,
        connection: Connection,
        options: CallOptions,
        operation: Operation[object],
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Starts the clock of the call; `metadata` goes along with each attempt.

        Raises:
            ConfigurationError: the timeout is not above 0.
            TypeError: there is no such option.
        """
        check_keywords(options, CallOptions)
        self._connection = connection
        self._request_id = options.get("request_id")
        self._metadata = metadata
        self.timeout_s = options.get("timeout_s", connection.timeout_s)
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigurationError(
                "the timeout must be above 0 seconds", ErrorDetails(reason="INVALID_CONFIGURATION")
            )
        self._started = time.monotonic()
        self._last_request_id: str | None = None
        traceparent = options.get("traceparent")
        self._trace = CallTrace(operation.title, operation.method, traceparent)

    @property
    def retry_rules(self) -> RetryRules:
        """When to try again."""
        return retry_rules(self._connection.max_retries, self.timeout_s)

    @property
    def can_resume(self) -> bool:
        """Whether what breaks is tried again."""
        return self._connection.max_retries > 0

    def time_left(self) -> float | None:
        """Seconds until the deadline, if there is one."""
        if self.timeout_s is None:
            return None
        return max(0.0, self._started + self.timeout_s - time.monotonic())

    def attempt(self, request_id: str | None = None) -> Attempt:
        """Names the next attempt, if it has no name, and gives it what is left of the time."""
        request_id = request_id or self._request_id or uuid.uuid4().hex
        self._last_request_id = request_id
        timeout_s = self.time_left()
        metadata = (
            *self._metadata,
            ("authorization", f"Bearer {self._connection.api_key}"),
            (REQUEST_ID_KEY, request_id),
            (TRACEPARENT_KEY, self._trace.begin()),
        )
        return Attempt(request_id, metadata, timeout_s)

    def end(self, error: BaseException | None = None) -> None:
        """Says that there will be no more attempts, and why; the first time counts."""
        self._trace.end(error, self._last_request_id)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """All attempts are made within it."""
        try:
            yield
        except BaseException as error:
            self.end(error)
            raise
        self.end()

    def error(self, error: grpc.RpcError, attempt: Attempt) -> CaravanError:
        """Makes the exception for an attempt that failed."""
        context = CallContext(self._connection.address, attempt.request_id, self.timeout_s)
        return error_of(error, context)


def channel_options(connection: Connection) -> list[tuple[str, str | int]]:
    """Options of the channel, sync or async."""
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", _RESPONSE_LIMIT_BYTES),
        # Finds out that a gateway is gone also while a stream is silent.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # So that a repeated call does not meet the failure of the one before.
        ("grpc.initial_reconnect_backoff_ms", 100),
        # In spite of its name how long connecting may take, TLS included.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if is_loopback(connection.address):
        options.append(("grpc.enable_http_proxy", 0))
    if connection.tls is not None and connection.tls.server_name:
        options.append(("grpc.ssl_target_name_override", connection.tls.server_name))
    return options


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Reads the files that `tls` names.

    Raises:
        ConfigurationError: one cannot be read, or a certificate comes without its key.
    """
    if (tls.certificate_path is None) != (tls.key_path is None):
        raise ConfigurationError(
            "a client certificate and its key are needed together",
            ErrorDetails(reason="INVALID_CONFIGURATION"),
        )
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_path),
        private_key=_read(tls.key_path),
        certificate_chain=_read(tls.certificate_path),
    )


def _read(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", ErrorDetails(reason="INVALID_CONFIGURATION")
        ) from None
