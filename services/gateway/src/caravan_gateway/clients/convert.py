"""Between the wire and the domain, for what the gateway asks of others."""

from collections.abc import Mapping
from dataclasses import replace

from google.protobuf.timestamp_pb2 import Timestamp

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_gateway.domain.affinity import SESSION_SHARE, InputMarks
from caravan_gateway.domain.call_record import record_of
from caravan_gateway.domain.generation import choice_count_of
from caravan_gateway.domain.inference_call import InferenceCall, RunEvent
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    RunFacts,
    StartedFacts,
)
from caravan_gateway.domain.models import Endpoint, ModelState, Picture, ServedModel
from caravan_gateway.domain.principal import Identity
from caravan_gateway.domain.usage import UsageRecord

_MODEL_STATES: Mapping[int, ModelState] = {
    model_pb.MODEL_STATE_UNLOADED: ModelState.UNLOADED,
    model_pb.MODEL_STATE_LOADING: ModelState.LOADING,
    model_pb.MODEL_STATE_READY: ModelState.READY,
    model_pb.MODEL_STATE_DRAINING: ModelState.DRAINING,
    model_pb.MODEL_STATE_FAILED: ModelState.FAILED,
}


def identity_from(response: authentication_pb.AuthenticateResponse) -> Identity:
    """Who policy says it is."""
    expires = response.HasField("expire_time")
    return Identity(
        tenant=response.principal.tenant,
        principal=response.principal.name,
        key_id=response.key_id,
        priority_cap=response.principal.priority_cap,
        expire_time_s=response.expire_time.ToNanoseconds() / 1e9 if expires else None,
        policy_version=response.policy_version,
    )


def picture_from(response: endpoint_pb.WatchEndpointsResponse) -> Picture:
    """What an engine host says."""
    return Picture(
        host_id=response.host_id,
        models=tuple(_model_from(model) for model in response.models),
        endpoints=tuple(
            Endpoint(
                model=endpoint.model,
                model_digest=endpoint.model_digest,
                replica_index=endpoint.replica_index,
                worker_id=endpoint.worker_id,
                address=endpoint.address,
            )
            for endpoint in response.endpoints
        ),
        leaving=response.leaving,
    )


def _model_from(model: model_pb.Model) -> ServedModel:
    return ServedModel(
        name=model.name,
        aliases=tuple(model.aliases),
        state=_MODEL_STATES.get(model.state, ModelState.UNLOADED),
        restarting=any(_comes_back(replica, model.state) for replica in model.replicas),
        starting=any(
            replica.state == model_pb.REPLICA_STATE_STARTING for replica in model.replicas
        ),
    )


def _comes_back(replica: model_pb.Replica, state: int) -> bool:
    if replica.state == model_pb.REPLICA_STATE_RESTARTING:
        return True
    if replica.state == model_pb.REPLICA_STATE_DRAINING:  # it is being replaced
        return state == model_pb.MODEL_STATE_LOADING
    return replica.state == model_pb.REPLICA_STATE_STARTING and replica.restart_count > 0


def run_request_to(call: InferenceCall, traceparent: str, gateway_id: str) -> worker_pb.RunRequest:
    """What the worker is asked: the client's request with everything open filled in.

    Nothing of the client's metadata goes along; who is calling is said here and nowhere else.
    The call's record goes along as it is so far.

    Raises:
        TypeError: the call was not made from a GenerateRequest.
    """
    if not isinstance(call.request, generation_pb.GenerateRequest) or call.identity is None:
        raise TypeError("an authenticated call with a GenerateRequest is needed")
    run = worker_pb.RunRequest(request=call.request)
    run.request.model = call.model
    run.request.seed = call.seed
    run.request.priority = call.priority
    run.caller.CopyFrom(caller_to(call, call.identity, traceparent))
    if call.marks is not None:
        run.marks.CopyFrom(_marks_to(call.marks))
    if call.emitted.has_begun:
        run.continuation.CopyFrom(_continuation_to(call))
    if call.usage_id:
        usage = record_of(call, call.identity, call.usage_id, call.start_s)
        begun = replace(usage, output_tokens=0, finish_reasons=())
        run.retention.usage_id = call.usage_id
        run.retention.resumable = call.is_resumable
        run.retention.usage_record = usage_to(begun, gateway_id)
    return run


def _marks_to(marks: InputMarks) -> worker_pb.InputMarks:
    wire = worker_pb.InputMarks(hashes=marks.hashes, shares=marks.shares)
    if marks.session is not None:
        wire.hashes.append(marks.session)
        wire.shares.append(SESSION_SHARE)
    return wire


def _continuation_to(call: InferenceCall) -> worker_pb.Continuation:
    emitted = call.emitted
    return worker_pb.Continuation(
        choices=[
            worker_pb.ChoiceContinuation(
                token_ids=choice.token_ids,
                finished=choice.finished,
                mirostat_mu=choice.mirostat_mu,
            )
            for choice in emitted.choices(choice_count_of(call.spec))
        ],
        model_digest=emitted.model_digest or "",
        cached_tokens=emitted.cached_tokens,
    )


def completed_from(call: InferenceCall) -> RunEvent:
    """The last event of a generation whose choices are over, as its worker would have sent it."""
    usage = generation_pb.Usage(
        input_tokens=call.progress.input_tokens,
        cached_tokens=call.emitted.cached_tokens,
        output_tokens=call.emitted.num_tokens,
    )
    event = generation_pb.GenerateEvent(completed=generation_pb.Completed(usage=usage))
    facts = CompletedFacts(
        usage.input_tokens, usage.cached_tokens, usage.output_tokens, call.progress.queue_ms
    )
    return RunEvent(event, facts)


def caller_to(call: InferenceCall, identity: Identity, traceparent: str) -> worker_pb.Caller:
    """Who is calling, for the worker."""
    return worker_pb.Caller(
        tenant=identity.tenant,
        principal=identity.principal,
        priority=call.priority,
        request_id=call.request_id,
        traceparent=traceparent,
    )


def run_event_from(response: worker_pb.RunResponse) -> RunEvent | None:
    """One event of a worker; None for a kind that this gateway does not know."""
    event = response.event
    facts: RunFacts
    match event.WhichOneof("event"):
        case "delta":
            delta = event.delta
            facts = DeltaFacts(
                delta.choice_index,
                delta.token_offset,
                delta.token_ids,
                response.mirostat_mu if response.HasField("mirostat_mu") else None,
            )
        case "started":
            started = event.started
            facts = StartedFacts(started.model_digest, started.input_tokens, started.cached_tokens)
        case "finished":
            facts = finished_from(event.finished)
        case "completed":
            usage = event.completed.usage
            facts = CompletedFacts(
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                response.timings.queue_ms,
            )
        case _:
            return None
    return RunEvent(event, facts)


def finished_from(finished: generation_pb.Finished) -> FinishedFacts:
    """How a choice ended."""
    reason = generation_pb.FinishReason.Name(finished.finish_reason)
    return FinishedFacts(
        finished.choice_index,
        reason.removeprefix("FINISH_REASON_").lower(),
        finished.output_tokens,
    )


def usage_to(usage: UsageRecord, gateway_id: str) -> bytes:
    """The wire form of a record."""
    start_time = Timestamp()
    start_time.FromNanoseconds(round(usage.start_time_s * 1e9))
    return usage_pb.UsageRecord(
        id=usage.id,
        request_id=usage.request_id,
        tenant=usage.tenant,
        principal=usage.principal,
        key_id=usage.key_id,
        method=usage.method,
        model=usage.model,
        model_digest=usage.model_digest,
        status_code=usage.outcome.status_code,
        error_reason=usage.outcome.reason,
        finish_reasons=usage.finish_reasons,
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=usage.output_tokens,
        start_time=start_time,
        duration_ms=usage.duration_ms,
        time_to_first_token_ms=usage.time_to_first_token_ms,
        queue_ms=usage.queue_ms,
        priority=usage.priority,
        labels=usage.labels,
        gateway_id=gateway_id,
        failover_count=usage.failover_count,
    ).SerializeToString()
