"""Takes request records in, each once, and lets them go when they are too old."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caravan_telemetry.domain.ports import RequestStore, UsageMeter
from caravan_telemetry.domain.request_record import RequestRecord, supersedes

_MS_PER_DAY = 86_400_000


@dataclass(frozen=True, slots=True)
class IntakeResult:
    """How many records of a batch were new or replaced others, and how many were known."""

    stored_count: int
    duplicate_count: int


class UsageIntake:
    """Stores batches and counts them. Blocking; owned by the thread that stores."""

    def __init__(
        self, store: RequestStore, meter: UsageMeter, *, now_ms: Callable[[], int]
    ) -> None:
        self._store = store
        self._meter = meter
        self._now_ms = now_ms

    def take(self, records: Sequence[RequestRecord]) -> IntakeResult:
        """Stores what is new; of two records with one id the first counts that isn't provisional.

        Raises:
            StoreUnavailableError: nothing was stored.
        """
        by_id: dict[str, RequestRecord] = {}
        for record in records:
            earlier = by_id.setdefault(record.id, record)
            if earlier.is_provisional and supersedes(record, earlier.output_tokens):
                by_id[record.id] = record
        standing = self._store.provisional(by_id)
        replaced = {
            record_id: tokens
            for record_id, tokens in standing.items()
            if supersedes(by_id[record_id], tokens.output)
        }
        new_ids = self._store.add(list(by_id.values()), self._now_ms(), replaced=replaced)
        for record_id in new_ids:
            if record_id in replaced:
                self._meter.replaced(by_id[record_id], replaced[record_id])
            else:
                self._meter.stored(by_id[record_id])
        duplicate_count = len(records) - len(new_ids)
        self._meter.repeated(duplicate_count)
        return IntakeResult(len(new_ids), duplicate_count)

    def remove_expired(self, *, retention_days: int, limit: int) -> int:
        """Removes up to `limit` records that are over their age; 0 days keeps all for ever.

        Age counts from when a record was received, so that a late delivery is not lost at once.

        Raises:
            StoreUnavailableError: nothing was removed.
        """
        if not retention_days:
            return 0
        oldest_ms = self._now_ms() - retention_days * _MS_PER_DAY
        count = self._store.remove_received_before(oldest_ms, limit=limit)
        self._meter.removed(count)
        return count
