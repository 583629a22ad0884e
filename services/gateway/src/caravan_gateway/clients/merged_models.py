"""One list of models made of what several engine hosts say. Pure."""

import base64
import binascii
from collections.abc import Iterable, Sequence

from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_gateway.domain.errors import InvalidFieldsError
from caravan_rpckit.errors import FieldViolation

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000

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


def page_of(
    models: Sequence[model_pb.Model], request: service_pb.ListModelsRequest
) -> service_pb.ListModelsResponse:
    """Returns the page that is asked for of `models`, which are ordered by name.

    The token is the last name of the page, so models that come and go move no page.

    Raises:
        InvalidFieldsError: the size or the token is out of bounds.
    """
    if request.page_size > MAX_PAGE_SIZE:
        raise InvalidFieldsError([FieldViolation("page_size", f"must be at most {MAX_PAGE_SIZE}")])
    size = request.page_size or DEFAULT_PAGE_SIZE
    after = _name_of(request.page_token)
    rest = [model for model in models if after is None or model.name > after]
    page = rest[:size]
    token = _token_of(page[-1].name) if len(rest) > size else ""
    return service_pb.ListModelsResponse(models=page, next_page_token=token)


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


def _token_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _name_of(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        violation = FieldViolation("page_token", "must be a next_page_token")
        raise InvalidFieldsError([violation]) from None
