"""The host's own instruments; those of its workers come from `caravan_obskit.worker_metrics`."""

from collections.abc import Callable

from caravan_engine.host.models import ModelState, Picture
from caravan_obskit.instruments import Instruments, Label


class HostMetrics:
    """What the host counts. Belongs to the event loop."""

    def __init__(self, instruments: Instruments) -> None:
        self._models = instruments.gauge(
            "caravan_engine_models",
            unit="models",
            description="Models by state.",
            labels=(Label("state", tuple(ModelState)),),
        )
        self._starts = instruments.counter(
            "caravan_engine_worker_starts_total",
            unit="processes",
            description="Worker processes started, restarts included.",
            labels=(Label("model"),),
        )
        self._watchers = instruments.gauge(
            "caravan_engine_endpoint_watchers",
            unit="watchers",
            description="Who watches endpoints, the host itself included.",
        )
        self._budget = instruments.gauge(
            "caravan_engine_memory_free_bytes",
            unit="bytes",
            description="What is left of the memory budget, by plan.",
        )

    def read_at_scrape(
        self,
        *,
        picture: Callable[[], Picture],
        watchers: Callable[[], float],
        free_bytes: Callable[[], float],
    ) -> None:
        """Says where the gauges get their values from."""
        for state in ModelState:
            self._models.of(state=state).set_function(_counter_of(state, picture))
        self._watchers.of().set_function(watchers)
        self._budget.of().set_function(free_bytes)

    def worker_started(self, model: str) -> None:
        """Counts a started process."""
        self._starts.of(model=model).inc()


def _counter_of(state: ModelState, picture: Callable[[], Picture]) -> Callable[[], float]:
    return lambda: sum(model.state is state for model in picture().models)
