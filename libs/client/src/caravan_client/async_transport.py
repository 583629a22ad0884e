"""Sends operations over an asyncio channel. Belongs to the event loop of its first call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc
import grpc.aio
from tenacity import AsyncRetrying

from caravan_client.accumulation import Accumulator
from caravan_client.calls import Attempt, CallPlan, channel_credentials, channel_options
from caravan_client.connection import Connection
from caravan_client.errors import CaravanError
from caravan_client.generation import CallOptions, Delta, Event, Generation
from caravan_client.operations.operation import Operation, Page
from caravan_client.resuming import RESUMABLE, Recovery

_FAREWELL_S = 1.0

T = TypeVar("T")


class AsyncTransport:
    """One channel to one gateway; connects at the first call, and again when it has to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._credentials = None if connection.tls is None else channel_credentials(connection.tls)
        self._channel: grpc.aio.Channel | None = None
        self._farewells = AsyncFarewells(self.channel)

    def channel(self) -> grpc.aio.Channel:
        """The channel, which is made when a loop is there to hold it."""
        if self._channel is None:
            address, options = self.connection.address, channel_options(self.connection)
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(address, options=options)
            else:
                self._channel = grpc.aio.secure_channel(address, self._credentials, options=options)
        return self._channel

    async def unary(self, operation: Operation[T], options: CallOptions) -> T:
        """Makes the call and returns its answer.

        Raises:
            CaravanError: the call failed, also after repeating it.
        """
        plan = CallPlan(self.connection, options, operation)
        with plan.ending():
            answer: T = await AsyncRetrying(**plan.retry_rules)(self._unary_once, operation, plan)
        return answer

    async def collect(
        self, page: Callable[[str], Operation[Page[T]]], options: CallOptions
    ) -> list[T]:
        """Fetches a list, page by page."""
        items: list[T] = []
        token = ""
        while True:
            part = await self.unary(page(token), options)
            items.extend(part.items)
            token = part.next_token
            if not token:
                return items

    def stream(self, operation: Operation[T | None], options: CallOptions) -> "AsyncStream[T]":
        """Prepares a stream; the call begins when it is first read."""
        return AsyncStream(self.channel, operation, CallPlan(self.connection, options, operation))

    def generation_stream(
        self, operation: Operation[Event | None], options: CallOptions
    ) -> "AsyncGenerationStream":
        """Like `stream`, for the events of a generation."""
        metadata = RESUMABLE if self.connection.max_retries > 0 else ()
        plan = CallPlan(self.connection, options, operation, metadata)
        return AsyncGenerationStream(self.channel, operation, plan, self._farewells)

    async def close(self) -> None:
        """Ends all calls and the connection."""
        if self._channel is not None:
            await self._farewells.wait()
            await self._channel.close()

    async def _unary_once(self, operation: Operation[T], plan: CallPlan) -> T:
        attempt = plan.attempt()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = self.channel().unary_unary(operation.method)
        try:
            data = await call(
                operation.payload, timeout=attempt.timeout_s, metadata=_metadata(attempt)
            )
        except grpc.RpcError as error:
            raise plan.error(error, attempt) from error
        return operation.decode(data)


class AsyncStream(Generic[T]):
    """Messages as they arrive. Iterate it once; leaving its `async with` ends the call.

    Until the first message is there a call that meets UNAVAILABLE is repeated; afterwards not.
    """

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        operation: Operation[T | None],
        plan: CallPlan,
    ) -> None:
        self._channel = channel
        self._operation = operation
        self._plan = plan
        self._call: grpc.aio.UnaryStreamCall[bytes, bytes] | None = None
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

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        try:
            message = await self._next_news()
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
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
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

    async def _next_news(self) -> T | None:
        """What `__anext__` gives."""
        return await self._next()

    async def _next(self) -> T | None:
        if self._call is None or self._attempt is None:
            first: T | None = await AsyncRetrying(**self._plan.retry_rules)(self._open)
            return first
        return await self._read(self._call, self._attempt)

    async def _open(self) -> T | None:
        return await self._read(*self._begin(self._operation, self._plan.attempt()))

    def _begin(
        self, operation: Operation[T | None], attempt: Attempt
    ) -> "tuple[grpc.aio.UnaryStreamCall[bytes, bytes], Attempt]":
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        method = self._channel().unary_stream(operation.method)
        call = method(operation.payload, timeout=attempt.timeout_s, metadata=_metadata(attempt))
        self._operation, self._call, self._attempt = operation, call, attempt
        return call, attempt

    async def _read(
        self, call: "grpc.aio.UnaryStreamCall[bytes, bytes]", attempt: Attempt
    ) -> T | None:
        """The next message, or None at the end; kinds newer than this client are passed over."""
        try:
            while isinstance(data := await call.read(), bytes):
                message = self._operation.decode(data)
                if message is not None:
                    return message
        except grpc.RpcError as error:
            if not self._closed:
                raise self._plan.error(error, attempt) from error
        except asyncio.CancelledError:
            # gRPC raises this also for a call that was ended by `close`, whose reader goes on.
            task = asyncio.current_task()
            if not self._closed or task is None or task.cancelling():
                call.cancel()
                raise
        return None


class AsyncFarewells:
    """Says of streams that their rest isn't wanted, without waiting for the answer."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel
        self._pending: list[grpc.aio.UnaryUnaryCall[bytes, bytes]] = []

    def send(self, operation: Operation[None], attempt: Attempt) -> None:
        """Sends it; what fails doesn't matter, since streams end by themselves some time."""
        self._pending = [each for each in self._pending if not each.done()]
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel().unary_unary(operation.method)
        metadata = _metadata(attempt)
        self._pending.append(call(operation.payload, timeout=_FAREWELL_S, metadata=metadata))

    async def wait(self) -> None:
        """Returns when all have arrived, or failed."""
        pending, self._pending = self._pending, []
        for each in pending:
            with contextlib.suppress(grpc.RpcError):
                await each


class AsyncGenerationStream(AsyncStream[Event]):
    """The events of a generation; afterwards also the answer as a whole.

    When the connection breaks after its first event it is resumed, also by another gateway; all
    that shows is a pause.
    """

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel],
        operation: Operation[Event | None],
        plan: CallPlan,
        farewells: AsyncFarewells,
    ) -> None:
        super().__init__(channel, operation, plan)
        self._accumulator = Accumulator()
        self._recovery = Recovery(is_wanted=plan.can_resume)
        self._farewells = farewells

    def close(self) -> None:
        """Ends the call: the gateway stops working on it. Harmless when it is over already."""
        self._say_farewell()
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

    async def text(self) -> AsyncIterator[str]:
        """Reads the stream and gives only the text of its first choice, piece by piece."""
        async for event in self:
            if isinstance(event, Delta) and event.choice_index == 0:
                yield event.text

    async def _next_news(self) -> Event | None:
        try:
            return await self._next_or_resume()
        except asyncio.CancelledError:
            self._say_farewell()
            raise

    async def _next_or_resume(self) -> Event | None:
        while True:
            try:
                event = await self._next()
            except CaravanError as error:
                if self._recovery.is_complete:
                    return None
                await asyncio.sleep(self._recovery.pause_s(error, self._plan.time_left()))
                attempt = self._plan.attempt(self._recovery.request_id)
                self._begin(self._recovery.resumption(), attempt)
                continue
            if event is None or self._recovery.is_news(event):
                return event

    def _say_farewell(self) -> None:
        if (farewell := self._recovery.farewell()) is not None:
            self._farewells.send(farewell, self._plan.attempt(self._recovery.request_id))

    def _arrived(self, message: Event) -> None:
        self._accumulator.add(message)

    def _ended(self) -> None:
        self._accumulator.result()


def _metadata(attempt: Attempt) -> grpc.aio.Metadata:
    return grpc.aio.Metadata(*attempt.metadata)
