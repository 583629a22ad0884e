"""What a gateway answers to those who run it, made up."""

from collections.abc import AsyncIterator

from fake_answers import FakeAnswers, failure

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as model_service_pb
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan.policy.v1 import principal_pb2 as principal_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as trace_query_pb
from caravan_rpckit.call import Call


class FakeAdministration(FakeAnswers):
    """Models, principals, keys and the gateway's own state."""

    def __init__(self) -> None:
        super().__init__()
        self.hides_numbers = False
        self.models = dict.fromkeys(("alpha", "beta", "gamma"), model_pb.MODEL_STATE_READY)
        self.principals: dict[str, principal_pb.Principal] = {}
        self.keys: dict[str, principal_pb.ApiKey] = {}

    # ModelService

    def _model(self, name: str) -> model_pb.Model:
        model = model_pb.Model(name=name, state=self.models[name], size_bytes=1_500_000)
        if name == "alpha":
            model.aliases.append("bundled")
            model.details.architecture = "llama"
            model.details.context_tokens = 2048
            model.details.cell_count = 8192
            model.details.kv_unit = model_pb.KV_UNIT_PAGES
            model.replicas.add(state=model_pb.REPLICA_STATE_READY, process_id=4242)
        return model

    async def ListModels(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(sorted(self.models), request.page_token)
        models = [self._model(name) for name in names]
        return model_service_pb.ListModelsResponse(models=models, next_page_token=token)

    async def GetModel(self, request, call: Call):
        self._admit(request, call)
        if request.model not in self.models:
            raise failure("MODEL_NOT_FOUND", "No such model.", metadata={"model": request.model})
        return model_service_pb.GetModelResponse(model=self._model(request.model))

    async def LoadModel(self, request, call: Call) -> AsyncIterator:
        self._admit(request, call)
        model = self._model(request.model)
        for phase, fraction in (("VERIFYING", 1), ("LOADING", 0.5), ("LOADING", 1), ("READY", 1)):
            yield model_service_pb.LoadModelResponse(
                phase=f"LOAD_PHASE_{phase}",
                fraction=fraction,
                model=model,
                needed_bytes=1000,
                budget_bytes=2000,
            )

    async def UnloadModel(self, request, call: Call):
        self._admit(request, call)
        self.models[request.model] = model_pb.MODEL_STATE_UNLOADED
        model = self._model(request.model)
        return model_service_pb.UnloadModelResponse(model=model, ended_request_count=2)

    # PolicyAdminService

    async def GetPrincipal(self, request, call: Call):
        self._admit(request, call)
        if request.name not in self.principals:
            raise failure("RESOURCE_NOT_FOUND", f"No principal {request.name}.")
        return policy_pb.GetPrincipalResponse(principal=self.principals[request.name])

    async def ListPrincipals(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(sorted(self.principals), request.page_token)
        principals = [self.principals[name] for name in names]
        return policy_pb.ListPrincipalsResponse(principals=principals, next_page_token=token)

    async def CreatePrincipal(self, request, call: Call):
        self._admit(request, call)
        principal = principal_pb.Principal(
            name=request.name, tenant="default", roles=request.roles, priority_cap=10
        )
        principal.create_time.FromSeconds(1_700_000_000)
        self.principals[request.name] = principal
        return policy_pb.CreatePrincipalResponse(principal=principal)

    async def ListApiKeys(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(list(self.keys), request.page_token)
        keys = [self.keys[name] for name in names]
        return policy_pb.ListApiKeysResponse(api_keys=keys, next_page_token=token)

    async def CreateApiKey(self, request, call: Call):
        self._admit(request, call)
        key = principal_pb.ApiKey(
            id=f"k{len(self.keys) + 1}",
            principal=request.principal,
            tenant="default",
            description=request.description,
            state=principal_pb.API_KEY_STATE_ACTIVE,
        )
        key.create_time.FromSeconds(1_700_000_000)
        if request.HasField("time_to_live"):
            key.expire_time.FromSeconds(1_700_000_000 + request.time_to_live.seconds)
        self.keys[key.id] = key
        return policy_pb.CreateApiKeyResponse(api_key=key, secret="crv_secret_1")

    async def RevokeApiKey(self, request, call: Call):
        self._admit(request, call)
        key = self.keys[request.id]
        key.state = principal_pb.API_KEY_STATE_REVOKED
        return policy_pb.RevokeApiKeyResponse(api_key=key)

    async def ListRoles(self, request, call: Call):
        self._admit(request, call)
        names, token = self._page(["admin", "operator", "user"], request.page_token)
        roles = [principal_pb.Role(name=name, permissions=["inference"]) for name in names]
        return policy_pb.ListRolesResponse(roles=roles, next_page_token=token)

    # GatewayAdminService

    async def DropPages(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.DropPagesResponse(dropped_page_count=12, worker_count=2)

    async def ListCheckpoints(self, request, call: Call):
        self._admit(request, call)
        waiting = checkpoints_pb.RequestCheckpoint(
            request_id="req-1",
            tenant="acme",
            principal="alice",
            state=checkpoints_pb.REQUEST_STATE_RECOVERABLE,
            output_tokens=7,
        )
        waiting.begin_time.FromSeconds(1_700_000_000)
        return gateway_pb.ListCheckpointsResponse(
            workers=[
                checkpoints_pb.WorkerCheckpoints(
                    model="alpha",
                    journal_state=checkpoints_pb.JOURNAL_STATE_WRITTEN,
                    journal_bytes=1200,
                    page_count=3,
                    page_bytes=9_000_000,
                    request_count=1,
                    requests=[waiting],
                ),
                checkpoints_pb.WorkerCheckpoints(
                    model="beta", journal_state=checkpoints_pb.JOURNAL_STATE_OFF
                ),
            ]
        )

    async def PruneCheckpoints(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.PruneCheckpointsResponse(
            dropped_request_count=1, dropped_page_count=3, worker_count=2
        )

    async def SetPageBudgets(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.SetPageBudgetsResponse(worker_count=2)

    async def DrainWorkers(self, request, call: Call):
        self._admit(request, call)
        return gateway_pb.DrainWorkersResponse(worker_count=2, unfinished_request_count=3)

    async def GetGatewayStatus(self, request, call: Call):
        self._admit(request, call)
        response = gateway_pb.GetGatewayStatusResponse(
            version="0.1.0",
            serving=True,
            models=[self._model("alpha")],
            active_call_count=1,
            spooled_record_count=5,
        )
        response.start_time.FromSeconds(1_700_000_000)
        response.dependencies.add(service="policy", address="localhost:50053", reachable=True)
        response.dependencies.add(service="telemetry", address="[::1]:50054", detail="refused")
        return response

    async def GetWorkerStats(self, request, call: Call):
        self._admit(request, call)
        if self.hides_numbers:
            raise failure("PERMISSION_DENIED", "Not for you.")
        stats = stats_pb.WorkerStats(
            model="alpha",
            replica_index=0,
            running_count=3,
            paused_count=1,
            seat_count=16,
            waiting_count=5,
            parked_count=2,
            waiting_counts=[{"priority": 10, "count": 4}, {"priority": 50, "count": 1}],
            output_tokens_per_second=12.5,
            prefix_query_tokens_total=200,
            prefix_hit_tokens_total=80,
            used_cell_count=500,
            idle_cell_count=100,
            cell_count=8192,
            highest_used_cell=700,
            kv_unit=model_pb.KV_UNIT_PAGES,
            page_token_count=256,
            cell_page_count=3,
            idle_page_count=1,
            host_page_count=7,
            host_page_bytes=2_500_000,
            disk_page_count=9,
            cell_evictions_total=2,
            host_evictions_total=3,
        )
        stats.page_moves.add(kind=stats_pb.PAGE_MOVE_KIND_RESTORE, count=11)
        return gateway_pb.GetWorkerStatsResponse(workers=[stats], missing_hosts=["far:50052"])

    async def GetTrace(self, request, call: Call):
        self._admit(request, call)
        response = trace_query_pb.GetTraceResponse()
        for name, service, parent, start_ms in (
            ("chat alpha", "gateway", "", 0),
            ("prefill", "engine-worker", "chat alpha", 40),
        ):
            span = response.spans.add(
                trace_id="ab" * 16,
                span_id=name,
                parent_span_id=parent,
                service=service,
                name=name,
                duration_ms=60,
            )
            span.start_time.FromMilliseconds(1_700_000_000_000 + start_ms)
        return response
