"""What a context's memory is made of."""

import pytest

from caravan_engine.domain.paging.kv_setup import KvOptions
from caravan_engine.domain.paging.page_image import root_key


def test_there_are_256_sequence_ids_at_most_with_the_one_that_moves_pages():
    assert KvOptions(num_cells=300, num_seats=200, num_shelf_ids=55).scratch == 255
    with pytest.raises(ValueError, match="256"):
        KvOptions(num_cells=300, num_seats=200, num_shelf_ids=56)


def test_a_root_is_of_one_tenant_and_one_model():
    names = [("digest", "acme"), ("digest", "other"), ("another", "acme"), ("digestacme", "")]
    assert len({root_key(*name) for name in names}) == len(names)
