from types import SimpleNamespace

import numpy as np
import pytest

from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.pooling import Pooler, pooling_of

ROWS = np.array([[3, 4], [1, 0], [0, 2], [5, 12]], np.float32)


def pooled(pooling, *sizes):
    pooler, start = Pooler(pooling), 0
    for size in sizes:
        pooler.add(start, ROWS[start : start + size])
        start += size
    return pooler.vector()


@pytest.mark.parametrize("sizes", [(4,), (1, 3), (2, 1, 1)])
@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (Pooling.MEAN, np.array([9, 18]) / np.hypot(9, 18)),
        (Pooling.CLS, [0.6, 0.8]),
        (Pooling.LAST, [5 / 13, 12 / 13]),
    ],
)
def test_a_vector_does_not_depend_on_how_its_tokens_were_divided(pooling, wanted, sizes):
    assert pooled(pooling, *sizes) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
def test_a_replay_begins_anew(pooling):
    pooler = Pooler(pooling)
    pooler.add(0, ROWS[2:])
    pooler.add(0, ROWS)
    assert pooler.vector() == pytest.approx(pooled(pooling, 4))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_has_no_direction_is_no_vector(value):
    pooler = Pooler(Pooling.MEAN)
    pooler.add(0, np.full((2, 3), value, np.float32))
    assert pooler.vector() is None


@pytest.mark.parametrize(
    ("said", "metadata", "wanted"),
    [
        (Pooling.NONE, {}, Pooling.MEAN),
        (Pooling.UNSPECIFIED, {}, Pooling.MEAN),
        (Pooling.MEAN, {}, Pooling.MEAN),
        (Pooling.CLS, {}, Pooling.CLS),
        (Pooling.LAST, {}, Pooling.LAST),
        (Pooling.RANK, {}, None),
        (Pooling.MEAN, {"llama.attention.causal": "false"}, None),
        (Pooling.MEAN, {"llama.attention.causal": "true"}, Pooling.MEAN),
    ],
)
def test_the_model_says_how_its_texts_are_pooled(said, metadata, wanted):
    facts = SimpleNamespace(pooling=said, architecture="llama", metadata=metadata)
    assert pooling_of(facts) is wanted
