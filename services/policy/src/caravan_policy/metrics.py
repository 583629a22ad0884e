"""The declared instruments of this service."""

from collections.abc import Callable

from caravan_obskit.instruments import Instruments, Label
from caravan_policy.domain.authenticator import AuthenticationOutcome
from caravan_rpckit.observers import CallRecord

_OWN_PREFIX = "caravan.policy."
_ALLOWED, _DENIED = "allowed", "denied"
_DURATION_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class PolicyMetrics:
    """What this service counts. Thread-safe; an observer of the RPC server besides."""

    def __init__(self, instruments: Instruments) -> None:
        outcomes = tuple(AuthenticationOutcome)
        self._authentications = instruments.counter(
            "caravan_policy_authentications_total",
            unit="credentials",
            description="Credentials checked.",
            labels=(Label("outcome", outcomes),),
        )
        self._decisions = instruments.counter(
            "caravan_policy_decisions_total",
            unit="decisions",
            description="Permissions checked.",
            labels=(Label("outcome", (_ALLOWED, _DENIED)),),
        )
        self._rules = instruments.gauge(
            "caravan_policy_rules",
            unit="rules",
            description="Grants and memberships held in memory.",
        )
        self._version = instruments.gauge(
            "caravan_policy_version",
            unit="versions",
            description="Version of the policy that decides.",
        )
        self._watchers = instruments.gauge(
            "caravan_policy_watchers",
            unit="watchers",
            description="Gateways that watch for changes.",
        )
        self._durations = instruments.histogram(
            "caravan_policy_rpc_duration_seconds",
            unit="seconds",
            description="Duration of calls; of WatchPolicy how long it was watched.",
            buckets=_DURATION_BUCKETS_S,
            labels=(Label("method"), Label("code")),
        )
        for outcome in outcomes:
            self._authentications.of(outcome=outcome)
        for decision in (_ALLOWED, _DENIED):
            self._decisions.of(outcome=decision)

    def read_at_scrape(
        self,
        *,
        rules: Callable[[], float],
        policy_version: Callable[[], float],
        watchers: Callable[[], float],
    ) -> None:
        """Says where the gauges get their values from."""
        self._rules.of().set_function(rules)
        self._version.of().set_function(policy_version)
        self._watchers.of().set_function(watchers)

    def authenticated(self, outcome: AuthenticationOutcome) -> None:
        """Counts a checked credential."""
        self._authentications.of(outcome=outcome).inc()

    def decided(self, allowed: bool) -> None:
        """Counts a decision."""
        self._decisions.of(outcome=_ALLOWED if allowed else _DENIED).inc()

    def call_started(self, method: str) -> None:
        """Counts nothing: a call is counted at its end."""

    def call_ended(self, record: CallRecord) -> None:
        """Times the call, unless it is one of health or reflection."""
        if record.method.startswith(_OWN_PREFIX):
            method = record.method.rpartition("/")[2]
            code = record.code.name.lower()
            self._durations.of(method=method, code=code).observe(record.duration_s)
