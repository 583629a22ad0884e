import pytest

from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.rpc.convert_models import replica_count_of


def test_as_many_workers_as_asked_for_and_none_said_otherwise():
    assert replica_count_of(service_pb.LoadModelRequest(replica_count=64)) == 64
    assert replica_count_of(service_pb.LoadModelRequest()) is None


@pytest.mark.parametrize("count", [0, 65])
def test_a_number_of_workers_out_of_bounds_is_refused(count):
    with pytest.raises(InvalidFieldError) as refused:
        replica_count_of(service_pb.LoadModelRequest(replica_count=count))
    assert [each.field for each in refused.value.field_violations] == ["replica_count"]
