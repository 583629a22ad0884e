import pytest
from prometheus_client import generate_latest

from caravan_obskit.instruments import Instruments, Label


@pytest.fixture
def instruments():
    return Instruments()


def exported(instruments):
    text = generate_latest(instruments.registry).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_each_kind_is_exported_under_its_exact_name(instruments):
    instruments.counter("llama_x_total", unit="tokens", description="X.").of().inc(2)
    instruments.gauge("vllm:y", unit="1", description="Y.").of().set(3)
    histogram = instruments.histogram("z_ms", unit="ms", description="Z.", buckets=(1, 10))
    histogram.of().observe(5)
    assert exported(instruments) == [
        "llama_x_total 2.0",
        "vllm:y 3.0",
        'z_ms_bucket{le="1.0"} 0.0',
        'z_ms_bucket{le="10.0"} 1.0',
        'z_ms_bucket{le="+Inf"} 1.0',
        "z_ms_count 1.0",
        "z_ms_sum 5.0",
    ]


def test_a_label_with_fixed_values_counts_the_rest_together(instruments):
    label = Label("decision", values=("allow", "deny"))
    family = instruments.counter("x_total", unit="1", description="X.", labels=[label])
    for value in ("allow", "maybe", "perhaps"):
        family.of(decision=value).inc()
    assert exported(instruments) == [
        'x_total{decision="allow"} 1.0',
        'x_total{decision="other"} 2.0',
    ]


def test_a_label_keeps_only_so_many_values(instruments):
    family = instruments.gauge("x", unit="1", description="X.", labels=[Label("model", most=2)])
    for value in ("a", "b", "c", "d", "a"):
        family.of(model=value).inc()
    assert exported(instruments) == [
        'x{model="a"} 2.0',
        'x{model="b"} 1.0',
        'x{model="other"} 2.0',
    ]


def test_a_forgotten_series_makes_room_for_another(instruments):
    family = instruments.gauge("x", unit="1", description="X.", labels=[Label("model", most=1)])
    family.of(model="a").set(1)
    family.forget(model="a")
    family.of(model="b").set(2)
    assert exported(instruments) == ['x{model="b"} 2.0']


def test_wrong_declarations_and_uses_are_refused(instruments):
    with pytest.raises(ValueError, match="must end in _total"):
        instruments.counter("x", unit="1", description="X.")
    family = instruments.gauge("y", unit="1", description="Y.", labels=[Label("model")])
    with pytest.raises(ValueError, match="Incorrect label names"):
        family.of(tenant="a")
    with pytest.raises(ValueError, match="Duplicated"):
        instruments.gauge("y", unit="1", description="Y.")


def test_the_table_names_every_instrument(instruments):
    instruments.counter("x_total", unit="tokens", description="X.", labels=[Label("model")])
    instruments.histogram("z_ms", unit="ms", description="Z.", buckets=(0.5, 10))
    assert instruments.table().splitlines()[2:] == [
        "| `x_total` | counter | tokens | `model` | X. |",
        "| `z_ms` | histogram | ms |  | Z. Buckets: 0.5 10. |",
    ]
