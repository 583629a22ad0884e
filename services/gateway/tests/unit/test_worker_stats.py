from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.clients.merged_models import merged
from caravan_gateway.clients.worker_stats import numbered


def model(name, *indexes, pid):
    replicas = [model_pb.Replica(index=index, process_id=pid + index) for index in indexes]
    return model_pb.Model(name=name, replicas=replicas)


def worker(name, index, *, pid):
    return stats_pb.WorkerStats(model=name, replica_index=index, worker_id=str(pid + index))


def test_replicas_are_numbered_as_in_the_merged_list():
    one = ([model("a", 0, 1, pid=10), model("b", 0, pid=20)], [worker("a", 1, pid=10)])
    two = ([model("a", 0, 2, pid=30)], [worker("a", 2, pid=30), worker("a", 0, pid=30)])

    found = numbered([one, two])

    listed = {
        (each.name, replica.index): str(replica.process_id)
        for each in merged([*one[0], *two[0]])
        for replica in each.replicas
    }
    assert [(each.model, each.replica_index) for each in found] == [("a", 1), ("a", 2), ("a", 3)]
    for each in found:
        assert listed[each.model, each.replica_index] == each.worker_id


def test_a_worker_that_its_host_does_not_list_is_left_out():
    assert (
        numbered([([model("a", 0, pid=1)], [worker("a", 5, pid=1), worker("b", 0, pid=1)])]) == []
    )
