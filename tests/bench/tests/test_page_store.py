import pytest

from page_store import HOST_BYTES, HOST_TOKENS, RAW_BYTES_PER_TOKEN, host_memory


class Stats:
    """A message of numbers with the given fields."""

    def __init__(self, **fields):
        self.DESCRIPTOR = self
        self.fields_by_name = fields
        self.__dict__.update(fields)


def test_host_memory_is_given_beside_that_of_keys_and_values():
    stats = Stats(**{HOST_BYTES: 2 * 10 * RAW_BYTES_PER_TOKEN, HOST_TOKENS: 10})

    [figure] = host_memory(stats)

    assert figure.value == pytest.approx(2.0)
    assert figure.is_reached is False


def test_a_worker_that_keeps_or_says_nothing_has_no_such_figure():
    assert list(host_memory(Stats())) == []
    assert list(host_memory(Stats(**{HOST_BYTES: 0, HOST_TOKENS: 0}))) == []
