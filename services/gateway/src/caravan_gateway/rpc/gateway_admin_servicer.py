"""Serves `caravan.gateway.v1.GatewayAdminService`."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.domain.principal import Identity
from caravan_gateway.rpc.convert import AUTHORIZATION_KEY, status_to
from caravan_gateway.runtime.access import AccessGate
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_gateway.runtime.gateway_status import GatewayStatus
from caravan_rpckit.call import Call


class Workers(Protocol):
    """What engine hosts say of models and workers."""

    def models(self) -> Sequence[model_pb.Model]:
        """The models of all hosts."""

    async def worker_stats(self) -> gateway_pb.GetWorkerStatsResponse:
        """The numbers of the workers of all hosts."""


class StoredPages(Protocol):
    """The pages that workers store."""

    async def drop(
        self, request: gateway_pb.DropPagesRequest, order: ForwardedCall
    ) -> gateway_pb.DropPagesResponse:
        """Has all workers forget a tenant's pages."""
        ...

    async def set_budgets(
        self, request: gateway_pb.SetPageBudgetsRequest, order: ForwardedCall
    ) -> gateway_pb.SetPageBudgetsResponse:
        """Changes how much each worker of a model stores."""
        ...


class WorkerDrain(Protocol):
    """The workers, which can be emptied."""

    async def drain(
        self, request: gateway_pb.DrainWorkersRequest, order: ForwardedCall
    ) -> gateway_pb.DrainWorkersResponse:
        """Drains some of them."""
        ...


class WorkerCheckpoints(Protocol):
    """What workers have on disk for the time after their death."""

    async def list_all(
        self, request: gateway_pb.ListCheckpointsRequest, order: ForwardedCall
    ) -> gateway_pb.ListCheckpointsResponse:
        """Tells what there is."""
        ...

    async def prune(
        self, request: gateway_pb.PruneCheckpointsRequest, order: ForwardedCall
    ) -> gateway_pb.PruneCheckpointsResponse:
        """Gives up what nobody needs."""
        ...


class GatewayAdminServicer:
    """Tells how gateway and workers are, and orders about these what operators want."""

    def __init__(
        self,
        gate: AccessGate,
        look: Callable[[], Awaitable[GatewayStatus]],
        workers: Workers,
        pages: StoredPages,
        drain: WorkerDrain,
        checkpoints: WorkerCheckpoints,
    ) -> None:
        self._gate = gate
        self._look = look
        self._workers = workers
        self._pages = pages
        self._drain = drain
        self._checkpoints = checkpoints

    async def GetGatewayStatus(
        self, request: gateway_pb.GetGatewayStatusRequest, call: Call
    ) -> gateway_pb.GetGatewayStatusResponse:
        """The status at this moment."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end):
            return status_to(await self._look(), self._workers.models())

    async def GetWorkerStats(
        self, request: gateway_pb.GetWorkerStatsRequest, call: Call
    ) -> gateway_pb.GetWorkerStatsResponse:
        """The numbers of the workers at this moment."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end):
            return await self._workers.worker_stats()

    async def DropPages(
        self, request: gateway_pb.DropPagesRequest, call: Call
    ) -> gateway_pb.DropPagesResponse:
        """Forgets a tenant's pages."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end) as (_, identity):
            return await self._pages.drop(request, _order(call, identity))

    async def SetPageBudgets(
        self, request: gateway_pb.SetPageBudgetsRequest, call: Call
    ) -> gateway_pb.SetPageBudgetsResponse:
        """Changes how much is stored."""
        credential, model = call.metadata.get(AUTHORIZATION_KEY), request.model
        async with self._gate.passed(call.method, credential, call.end, model) as (_, identity):
            return await self._pages.set_budgets(request, _order(call, identity, model))

    async def DrainWorkers(
        self, request: gateway_pb.DrainWorkersRequest, call: Call
    ) -> gateway_pb.DrainWorkersResponse:
        """Empties workers."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end) as (_, identity):
            return await self._drain.drain(request, _order(call, identity))

    async def ListCheckpoints(
        self, request: gateway_pb.ListCheckpointsRequest, call: Call
    ) -> gateway_pb.ListCheckpointsResponse:
        """What workers have on disk for the time after their death."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end) as (_, identity):
            return await self._checkpoints.list_all(request, _order(call, identity))

    async def PruneCheckpoints(
        self, request: gateway_pb.PruneCheckpointsRequest, call: Call
    ) -> gateway_pb.PruneCheckpointsResponse:
        """Gives up what nobody needs of that."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end) as (_, identity):
            return await self._checkpoints.prune(request, _order(call, identity))


def _order(call: Call, identity: Identity, model: str | None = None) -> ForwardedCall:
    return ForwardedCall(call.method, identity, call.request_id, call.time_remaining(), model)
