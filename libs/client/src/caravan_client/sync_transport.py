"""Sends operations over a blocking channel. Safe to share between threads, streams apart."""

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc
from tenacity import Retrying

from caravan_client.accumulation import Accumulator
from caravan_client.calls import Attempt, CallPlan, channel_credentials, channel_options
from caravan_client.connection import Connection
from caravan_client.errors import CaravanError
from caravan_client.generation import CallOptions, Delta, Event, Generation
from caravan_client.operations.operation import Operation, Page
from caravan_client.resuming import RESUMABLE, Recovery

_FAREWELL_S = 1.0

T = TypeVar("T")


class SyncTransport:
    """One channel to one gateway; connects at the first call, and again when it has to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        options = channel_options(connection)
        if connection.tls is None:
            self._channel = grpc.insecure_channel(connection.address, options=options)
        else:
            credentials = channel_credentials(connection.tls)
            self._channel = grpc.secure_channel(connection.address, credentials, options=options)
        self._farewells = Farewells(self._channel)

    def unary(self, operation: Operation[T], options: CallOptions) -> T:
        """Makes the call and returns its answer.

        Raises:
            CaravanError: the call failed, also after repeating it.
        """
        plan = CallPlan(self.connection, options, operation)
        with plan.ending():
            answer: T = Retrying(**plan.retry_rules)(self._unary_once, operation, plan)
        return answer

    def collect(self, page: Callable[[str], Operation[Page[T]]], options: CallOptions) -> list[T]:
        """Fetches a list, page by page."""
        items: list[T] = []
        token = ""
        while True:
            part = self.unary(page(token), options)
            items.extend(part.items)
            token = part.next_token
            if not token:
                return items

    def stream(self, operation: Operation[T | None], options: CallOptions) -> "Stream[T]":
        """Prepares a stream; the call begins when it is first read."""
        return Stream(self._channel, operation, CallPlan(self.connection, options, operation))

    def generation_stream(
        self, operation: Operation[Event | None], options: CallOptions
    ) -> "GenerationStream":
        """Like `stream`, for the events of a generation."""
        metadata = RESUMABLE if self.connection.max_retries > 0 else ()
        plan = CallPlan(self.connection, options, operation, metadata)
        return GenerationStream(self._channel, operation, plan, self._farewells)

    def close(self) -> None:
        """Ends all calls and the connection."""
        self._farewells.wait()
        self._channel.close()

    def _unary_once(self, operation: Operation[T], plan: CallPlan) -> T:
        attempt = plan.attempt()
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel.unary_unary(operation.method)
        try:
            data = call(operation.payload, timeout=attempt.timeout_s, metadata=attempt.metadata)
        except grpc.RpcError as error:
            raise plan.error(error, attempt) from error
        return operation.decode(data)


class _Pending(Protocol):
    """The same of a call that isn't waited for."""

    def done(self) -> bool: ...

    def result(self, timeout: float | None = None) -> bytes: ...


class _Call(Protocol):
    """What is needed of gRPC's call objects, whose own type has no public name."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> object: ...


class Stream(Generic[T]):
    """Messages as they arrive. Iterate it once, from one thread; leaving its `with` ends the call.

    Until the first message is there a call that meets UNAVAILABLE is repeated; afterwards not.
    """

    def __init__(
        self, channel: grpc.Channel, operation: Operation[T | None], plan: CallPlan
    ) -> None:
        self._channel = channel
        self._operation = operation
        self._plan = plan
        self._call: _Call | None = None
        self._attempt: Attempt | None = None
        self._closed = False

    @property
    def request_id(self) -> str | None:
        """The call's name in logs, traces and usage; None before it begins."""
        return None if self._attempt is None else self._attempt.request_id

    def close(self) -> None:
        """Ends the call: the gateway stops working on it. Harmless when it is over already."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()
        self._plan.end()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._closed:
            raise StopIteration
        try:
            message = self._next_news()
        except BaseException as error:
            self._plan.end(error)
            raise
        if message is not None:
            self._arrived(message)
            return message
        if not self._closed:
            self._closed = True
            self._plan.end()
            self._ended()
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _arrived(self, message: T) -> None:
        """Called with each message."""

    def _ended(self) -> None:
        """Called when the server has ended the stream well."""

    def _next_news(self) -> T | None:
        """What `__next__` gives."""
        return self._next()

    def _next(self) -> T | None:
        if self._call is None or self._attempt is None:
            first: T | None = Retrying(**self._plan.retry_rules)(self._open)
            return first
        return self._read(self._call, self._attempt)

    def _open(self) -> T | None:
        return self._read(*self._begin(self._operation, self._plan.attempt()))

    def _begin(self, operation: Operation[T | None], attempt: Attempt) -> tuple[_Call, Attempt]:
        method: grpc.UnaryStreamMultiCallable[bytes, bytes]
        method = self._channel.unary_stream(operation.method)
        call = method(operation.payload, timeout=attempt.timeout_s, metadata=attempt.metadata)
        self._operation, self._call, self._attempt = operation, call, attempt
        return call, attempt

    def _read(self, call: _Call, attempt: Attempt) -> T | None:
        """The next message, or None at the end; kinds newer than this client are passed over."""
        try:
            for data in call:
                message = self._operation.decode(data)
                if message is not None:
                    return message
        except grpc.RpcError as error:
            if not self._closed:
                raise self._plan.error(error, attempt) from error
        return None


class Farewells:
    """Says of streams that their rest isn't wanted, without waiting for the answer."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._pending: list[_Pending] = []

    def send(self, operation: Operation[None], attempt: Attempt) -> None:
        """Sends it; what fails doesn't matter, since streams end by themselves some time."""
        self._pending = [each for each in self._pending if not each.done()]
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel.unary_unary(operation.method)
        self._pending.append(
            call.future(operation.payload, timeout=_FAREWELL_S, metadata=attempt.metadata)
        )

    def wait(self) -> None:
        """Returns when all have arrived, or failed."""
        for each in self._pending:
            with contextlib.suppress(grpc.RpcError, grpc.FutureTimeoutError):
                each.result(_FAREWELL_S)
        self._pending.clear()


class GenerationStream(Stream[Event]):
    """The events of a generation; afterwards also the answer as a whole.

    When the connection breaks after its first event it is resumed, also by another gateway; all
    that shows is a pause.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        operation: Operation[Event | None],
        plan: CallPlan,
        farewells: Farewells,
    ) -> None:
        super().__init__(channel, operation, plan)
        self._accumulator = Accumulator()
        self._recovery = Recovery(is_wanted=plan.can_resume)
        self._farewells = farewells

    def close(self) -> None:
        """Ends the call: the gateway stops working on it. Harmless when it is over already."""
        if (farewell := self._recovery.farewell()) is not None:
            self._farewells.send(farewell, self._plan.attempt(self._recovery.request_id))
        super().close()

    @property
    def text_so_far(self) -> str:
        """The text of the first choice, as far as it was read."""
        return self._accumulator.text()

    @property
    def generation(self) -> Generation:
        """The whole answer, once the stream was read to its end.

        Raises:
            InternalError: it was not.
        """
        return self._accumulator.result()

    def text(self) -> Iterator[str]:
        """Reads the stream and gives only the text of its first choice, piece by piece."""
        for event in self:
            if isinstance(event, Delta) and event.choice_index == 0:
                yield event.text

    def _next_news(self) -> Event | None:
        while True:
            try:
                event = self._next()
            except CaravanError as error:
                if self._recovery.is_complete:
                    return None
                time.sleep(self._recovery.pause_s(error, self._plan.time_left()))
                attempt = self._plan.attempt(self._recovery.request_id)
                self._begin(self._recovery.resumption(), attempt)
                continue
            if event is None or self._recovery.is_news(event):
                return event

    def _arrived(self, message: Event) -> None:
        self._accumulator.add(message)

    def _ended(self) -> None:
        self._accumulator.result()
