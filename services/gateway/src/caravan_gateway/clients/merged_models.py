"""One list of models made of what several engine hosts say. Pure."""

from collections.abc import Iterable, Sequence

from caravan.model.v1 import model_pb2 as model_pb

# Where hosts differ, the model is what it is on the host that is furthest along.
_BEST_FIRST = (
    model_pb.MODEL_STATE_READY,
    model_pb.MODEL_STATE_LOADING,
    model_pb.MODEL_STATE_DRAINING,
    model_pb.MODEL_STATE_FAILED,
    model_pb.MODEL_STATE_UNLOADED,
)


def merged(models: Iterable[model_pb.Model]) -> list[model_pb.Model]:
    """Returns one entry for each name, by name, with the aliases and replicas of all hosts.

    Replicas are numbered anew, because each host counts its own from 0.
    """
    by_name: dict[str, list[model_pb.Model]] = {}
    for model in models:
        by_name.setdefault(model.name, []).append(model)
    return [_one_of(by_name[name]) for name in sorted(by_name)]


def _one_of(same: Sequence[model_pb.Model]) -> model_pb.Model:
    model = model_pb.Model()
    model.CopyFrom(min(same, key=_rank))
    aliases = dict.fromkeys(alias for each in same for alias in each.aliases)
    del model.aliases[:]
    model.aliases.extend(aliases)
    del model.replicas[:]
    model.replicas.extend(replica for each in same for replica in each.replicas)
    for index, replica in enumerate(model.replicas):
        replica.index = index
    return model


def _rank(model: model_pb.Model) -> int:
    return _BEST_FIRST.index(model.state) if model.state in _BEST_FIRST else len(_BEST_FIRST)
