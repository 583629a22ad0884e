"""Makes the record of a call from what is known of it, also before it is over."""

from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.principal import Identity
from caravan_gateway.domain.usage import UsageRecord


def record_of(call: InferenceCall, identity: Identity, usage_id: str, now_s: float) -> UsageRecord:
    """The record of a call as it is now.

    Args:
        call: the call.
        identity: who makes it.
        usage_id: names the record.
        now_s: of the monotonic clock that the call's start is from.
    """
    progress = call.progress
    first = progress.first_token_s
    endpoint = None if call.lease is None else call.lease.endpoint
    return UsageRecord(
        id=usage_id,
        request_id=call.request_id,
        tenant=identity.tenant,
        principal=identity.principal,
        key_id=identity.key_id,
        method=call.method,
        model=call.model,
        model_digest=progress.model_digest or (endpoint.model_digest if endpoint else ""),
        outcome=call.outcome,
        finish_reasons=tuple(reason for _, reason in sorted(progress.finish_reasons.items())),
        input_tokens=progress.input_tokens,
        cached_tokens=progress.cached_tokens,
        output_tokens=progress.output_tokens,
        start_time_s=call.start_time_s,
        duration_ms=(now_s - call.start_s) * 1000,
        time_to_first_token_ms=None if first is None else (first - call.start_s) * 1000,
        queue_ms=progress.queue_ms,
        priority=call.priority,
        labels=call.labels,
        failover_count=call.failover_count,
    )
