"""Declares Prometheus instruments: name, unit, description, buckets, and labels that can't explode.

A service's `metrics.py` declares all of its instruments with one `Instruments`; its README has
their table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.metrics import MetricWrapperBase

OTHER = "other"
"""What a label says for values beyond its bound."""

InstrumentT = TypeVar("InstrumentT", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Label:
    """A label with a bound: the values it may have, or how many different ones it keeps.

    Values outside `values`, or new ones after the first `most`, are counted under "other".
    """

    name: str
    values: tuple[str, ...] = ()
    most: int = 100


@dataclass(frozen=True, slots=True)
class Declaration:
    """What an instrument is, for its table."""

    name: str
    kind: str
    unit: str
    description: str
    labels: tuple[Label, ...]
    buckets: tuple[float, ...]


class Family(Generic[InstrumentT]):
    """One instrument with its series; thread-safe as far as prometheus_client is."""

    def __init__(self, instrument: InstrumentT, labels: Sequence[Label]) -> None:
        self._instrument = instrument
        self._labels = {label.name: label for label in labels}
        self._seen = {label.name: set(label.values) for label in labels}

    def of(self, **values: str) -> InstrumentT:
        """Returns the series of these label values; no values where no labels were declared.

        Raises:
            ValueError: other label names than the declared ones.
        """
        if not self._labels and not values:
            return self._instrument
        return self._instrument.labels(**{n: self._bounded(n, v) for n, v in values.items()})

    def forget(self, **values: str) -> None:
        """Drops one series, for example of an unloaded model, and frees its place in the bound."""
        self._instrument.remove(*(values[name] for name in self._labels))
        for name, value in values.items():
            if not self._labels[name].values:
                self._seen[name].discard(value)

    def _bounded(self, name: str, value: str) -> str:
        label = self._labels.get(name)
        if label is None or value in self._seen[name]:
            return value
        if label.values or len(self._seen[name]) >= label.most:
            return OTHER
        self._seen[name].add(value)
        return value


class Instruments:
    """Declares instruments into one registry and remembers what was declared."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # No second series per counter that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = registry if registry is not None else CollectorRegistry()
        self._declarations: list[Declaration] = []

    def counter(
        self, name: str, *, unit: str, description: str, labels: Sequence[Label] = ()
    ) -> Family[Counter]:
        """Declares what only grows; the name ends in `_total`.

        Raises:
            ValueError: it doesn't, or the name is taken.
        """
        if not name.endswith("_total"):
            raise ValueError(f"the counter {name} must end in _total")
        self._declarations.append(
            Declaration(name, "counter", unit, description, tuple(labels), ())
        )
        names = [label.name for label in labels]
        return Family(Counter(name, description, names, registry=self.registry), labels)

    def gauge(
        self, name: str, *, unit: str, description: str, labels: Sequence[Label] = ()
    ) -> Family[Gauge]:
        """Declares what goes up and down.

        Raises:
            ValueError: the name is taken.
        """
        self._declarations.append(Declaration(name, "gauge", unit, description, tuple(labels), ()))
        names = [label.name for label in labels]
        return Family(Gauge(name, description, names, registry=self.registry), labels)

    def histogram(
        self,
        name: str,
        *,
        unit: str,
        description: str,
        buckets: Sequence[float],
        labels: Sequence[Label] = (),
    ) -> Family[Histogram]:
        """Declares a distribution; `buckets` are upper bounds in `unit`, without infinity.

        Raises:
            ValueError: the name is taken, or the buckets don't rise.
        """
        self._declarations.append(
            Declaration(name, "histogram", unit, description, tuple(labels), tuple(buckets))
        )
        names = [label.name for label in labels]
        histogram = Histogram(name, description, names, buckets=buckets, registry=self.registry)
        return Family(histogram, labels)

    def table(self) -> str:
        """Returns the markdown table of all instruments that a README carries."""
        lines = ["| metric | kind | unit | labels | meaning |", "| --- | --- | --- | --- | --- |"]
        for declared in self._declarations:
            labels = ", ".join(f"`{label.name}`" for label in declared.labels)
            cells = (declared.kind, declared.unit, labels, _meaning(declared))
            lines.append(f"| `{declared.name}` | {' | '.join(cells)} |")
        return "\n".join(lines)


def _meaning(declared: Declaration) -> str:
    if not declared.buckets:
        return declared.description
    buckets = " ".join(f"{bucket:g}" for bucket in declared.buckets)
    return f"{declared.description} Buckets: {buckets}."
