"""Asks workers for streams that they keep, and tells them what becomes of these."""

from collections.abc import Callable, Collection

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_gateway.clients.convert import finished_from
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.domain.emitted import Emitted, EmittedChoice
from caravan_gateway.domain.errors import InvalidCredentialError, StreamNotKeptError
from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.inference_spec import InferenceSpec
from caravan_gateway.domain.models import Endpoint, ModelCatalog
from caravan_gateway.domain.resumption import (
    BegunUsage,
    FoundStream,
    ResumeSpec,
    check_stream_name,
)
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.details import error_details
from caravan_rpckit.errors import Reason

_TELL_TIMEOUT_S = 5.0


class KeptStreams:
    """Implements the port of that name. Owned by the event loop.

    Args:
        catalog: where workers are.
        workers: the ways to them.
        spec_of: what of a request the gateway judges.
    """

    def __init__(
        self,
        catalog: ModelCatalog,
        workers: WorkerChannels,
        spec_of: Callable[[generation_pb.GenerateRequest], InferenceSpec],
    ) -> None:
        self._catalog = catalog
        self._workers = workers
        self._spec_of = spec_of

    async def find(
        self, endpoint: Endpoint, call: InferenceCall, spec: ResumeSpec
    ) -> FoundStream | None:
        """See the port."""
        if call.identity is None:
            raise InvalidCredentialError
        request = worker_pb.FindStreamRequest(
            caller=worker_pb.Caller(
                tenant=call.identity.tenant,
                principal=call.identity.principal,
                request_id=spec.request_id,
            ),
            choices=[
                worker_pb.ReceivedChoice(
                    output_tokens=each.output_tokens, finished=each.is_finished
                )
                for each in spec.choices
            ],
        )
        try:
            found = await self._workers.find_stream(endpoint, request, call.time_left())
        except grpc.aio.AioRpcError as error:
            if _is_unknown(error):
                return None
            raise
        return self._found(found)

    async def stop(
        self, request: stream_pb.CancelGenerateRequest, order: ForwardedCall
    ) -> stream_pb.CancelGenerateResponse:
        """Ends a stream for good, wherever it is.

        Raises:
            StreamNotKeptError: no worker has it.
            GatewayError: there is no worker to ask.
        """
        check_stream_name(InferenceSpec(model=request.model), request.request_id)
        model, is_found = self._catalog.find(request.model), False
        caller = worker_pb.Caller(
            tenant=order.identity.tenant,
            principal=order.identity.principal,
            request_id=request.request_id,
        )
        for endpoint in self._catalog.endpoints_of(model):
            try:
                await self._workers.stop_stream(endpoint, caller, order)
                is_found = True
            except grpc.aio.AioRpcError as error:
                if not _is_unknown(error):
                    raise
        if not is_found:
            raise StreamNotKeptError(model)
        return stream_pb.CancelGenerateResponse()

    async def tell(
        self, endpoint: Endpoint, recorded: Collection[str], dropped: Collection[str]
    ) -> bool:
        """Tells a worker what is accounted for; returns whether it need not be told again."""
        request = worker_pb.ReleaseStreamsRequest(
            recorded_usage_ids=recorded, dropped_usage_ids=dropped
        )
        return await self._workers.release_streams(endpoint, request, _TELL_TIMEOUT_S)

    def _found(self, found: worker_pb.FindStreamResponse) -> FoundStream | None:
        run = found.run
        spec = self._spec_of(run.request)
        try:
            usage = usage_pb.UsageRecord.FromString(run.retention.usage_record)
        except DecodeError:
            return None
        if not isinstance(spec, GenerationSpec):
            return None
        return FoundStream(
            spec=spec,
            request=run.request,
            seed=run.request.seed,
            usage=_begun(usage),
            emitted=_emitted(run.continuation),
            finished=tuple(map(finished_from, found.finished)),
            time_to_first_token_ms=(
                found.time_to_first_token_ms if found.HasField("time_to_first_token_ms") else None
            ),
        )


def _begun(usage: usage_pb.UsageRecord) -> BegunUsage:
    return BegunUsage(
        id=usage.id,
        method=usage.method,
        start_time_s=usage.start_time.ToNanoseconds() / 1e9,
        priority=usage.priority,
        labels=dict(usage.labels),
        failover_count=usage.failover_count,
    )


def _emitted(continuation: worker_pb.Continuation) -> Emitted:
    choices = []
    for each in continuation.choices:
        choice = EmittedChoice(finished=each.finished)
        choice.token_ids.extend(each.token_ids)
        choice.mirostat_mu = each.mirostat_mu if each.HasField("mirostat_mu") else None
        choices.append(choice)
    return Emitted.of_resumed(continuation.model_digest, continuation.cached_tokens, choices)


def _is_unknown(error: grpc.aio.AioRpcError) -> bool:
    details = error_details(error)
    return details is not None and details.reason == Reason.STREAM_NOT_KEPT
