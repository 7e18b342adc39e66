"""A small Nebius on loopback: a gRPC server on the SDK's own messages, with state, pages, operations and faults."""

import itertools
import os
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import jwt

from providers.conformance import Fault
from providers.sdk import sdk

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core would tell of every goodbye of this server
grpc: Any = sdk("grpc", "nebius")
compute: Any = sdk("nebius.api.nebius.compute.v1", "nebius")
common: Any = sdk("nebius.api.nebius.common.v1", "nebius")
vpc: Any = sdk("nebius.api.nebius.vpc.v1", "nebius")
billing: Any = sdk("nebius.api.nebius.billing.v1", "nebius")
capacity: Any = sdk("nebius.api.nebius.capacity.v1", "nebius")
iam: Any = sdk("nebius.api.nebius.iam.v1", "nebius")
RpcStatus: Any = compute.REGISTRY.message_class("google.rpc.Status")
Packed: Any = compute.REGISTRY.message_class("google.protobuf.Any")
Code = grpc.StatusCode
RetryType = common.ServiceError.RetryType
State = compute.InstanceStatus.InstanceState

PROJECT, TENANT, SUBNET = "project-e00main", "tenant-e00acme", "vpcsubnet-e00one"
TOKEN = "ne1-token-of-the-account-which-nobody-may-see"
KEY = re.compile(r"[A-Za-z0-9-]{16,64}")
PER_GPU = {"gpu-b200-sxm-a": Decimal("5.50"), "gpu-h200-sxm": Decimal("3.50"), "gpu-gb300-nvl": Decimal("9.00")}
RETRY_ONE_SECOND = b"\x0a\x02\x08\x01"  # RetryInfo(retry_delay=Duration(seconds=1))


@dataclass
class Trouble:
    """Hits the next call of a method: first its effect if it `reaches`, then the error, or a changed answer."""

    method: str
    code: Any = None
    message: str = ""
    error: dict[str, Any] = field(default_factory=dict[str, Any])  # of a ServiceError
    reaches: bool = False
    times: int = 1
    retry_info: bytes = b""
    spoil: Callable[[Any], Any] | None = None  # what becomes of a good answer


@dataclass
class Looked:
    """A machine that changes with every look at it."""

    row: Any
    looks: int
    pinned: bool = False


class NebiusCloud:
    token, project = TOKEN, PROJECT

    def __init__(self, *, page: int = 5) -> None:
        self.page = page
        self.machines: dict[str, Looked] = {}
        self.disks: set[str] = set()
        self.operations: dict[str, Any] = {}
        self.by_key: dict[str, str] = {}
        self.troubles: list[Trouble] = []
        self.seen: list[tuple[str, Any, dict[str, str]]] = []
        self.late_failure: tuple[Any, str, dict[str, Any]] | None = None  # what the next create's operation ends in
        self.leaves_wreck = True  # whether such a create leaves an instance in ERROR
        self.slow_delete = 1  # looks until a deleted machine is gone
        self.unpriceable: set[str] = set()
        self.subnets = [SUBNET]
        self.advice: list[Any] = []
        self.platforms = [
            platform("gpu-b200-sxm-a", "NVIDIA® B200 NVLink", 180, [("1gpu-20vcpu-224gb", 1), ("8gpu-160vcpu-1792gb", 8)]),
            platform("gpu-h200-sxm", "NVIDIA® H200 NVLink", 141, [("1gpu-16vcpu-200gb", 1)], spot=False),
            platform("gpu-gb300-nvl", "NVIDIA® GB300 NVL72", 279, [("4gpu-144vcpu-960gb", 4)]),
            platform("cpu-d3", "Non-GPU AMD EPYC Genoa", 0, [("4vcpu-16gb", 0)]),
        ]
        self.public_key: Any = None  # of the service account, where one may log in
        self.endless = False
        self._numbers = itertools.count(1)
        self._server: Any = None
        self.endpoint = ""

    async def start(self) -> None:
        self._server = grpc.aio.server()
        table: dict[str, dict[str, tuple[Any, Callable[[Any], Any]]]] = {
            "nebius.compute.v1.InstanceService": {
                "Create": (compute.CreateInstanceRequest, self._create),
                "Get": (compute.GetInstanceRequest, self._get),
                "List": (compute.ListInstancesRequest, self._list),
                "Delete": (compute.DeleteInstanceRequest, self._delete),
            },
            "nebius.common.v1.OperationService": {"Get": (common.GetOperationRequest, self._operation)},
            "nebius.compute.v1.PlatformService": {"List": (compute.ListPlatformsRequest, self._platforms)},
            "nebius.vpc.v1.SubnetService": {"List": (vpc.ListSubnetsRequest, self._subnets)},
            "nebius.billing.v1.CalculatorService": {"EstimateBatch": (billing.EstimateBatchRequest, self._estimate)},
            "nebius.capacity.v1.ResourceAdviceService": {"List": (capacity.ListResourceAdviceRequest, self._advice)},
            "nebius.iam.v1.TokenExchangeService": {"Exchange": (iam.ExchangeTokenRequest, self._exchange)},
        }
        for service, methods in table.items():
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(
                    self._served(service, name, answer),
                    request_deserializer=request.FromString,
                    response_serializer=written,
                )
                for name, (request, answer) in methods.items()
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def calls(self, method: str) -> list[tuple[str, Any, dict[str, str]]]:
        return [call for call in self.seen if call[0].endswith(f"/{method}")]

    def put(self, instance_id: str, state: Any) -> None:
        """Bring a machine into a state, and keep it there until it is deleted."""
        self.machines[instance_id].row.status.state = state
        self.machines[instance_id].pinned = True

    def put_named(self, instance_id: str, state: str) -> None:
        if state != "RUNNING":
            self.put(instance_id, State[state])
        if state == "DELETING":  # which goes on by itself
            self.machines[instance_id].pinned, self.machines[instance_id].looks = False, 6

    def cause(self, fault: Fault) -> None:
        create = "InstanceService/Create"

        def add(method: str, code: Any, **more: Any) -> None:
            self.troubles.append(Trouble(method, code, f"said of {code.name}", **more))

        match fault:
            case Fault.LOST_REPLY:
                add(create, Code.UNAVAILABLE, reaches=True)
            case Fault.HALF_CREATED:
                add(create, Code.DEADLINE_EXCEEDED, reaches=True)
            case Fault.NO_CAPACITY:
                error = {"not_enough_resources": common.NotEnoughResources(), "retry_type": RetryType.UNIT_OF_WORK}
                add(create, Code.RESOURCE_EXHAUSTED, error=error)
            case Fault.QUOTA:
                add(create, Code.RESOURCE_EXHAUSTED, error={"quota_failure": common.QuotaFailure()})
            case Fault.CREDENTIALS:
                add(create, Code.PERMISSION_DENIED, error={"permission_denied": common.PermissionDenied()})
            case Fault.THROTTLED:
                error = {"too_many_requests": common.TooManyRequests(), "retry_type": RetryType.CALL}
                add(create, Code.RESOURCE_EXHAUSTED, error=error, retry_info=RETRY_ONE_SECOND)
            case Fault.SERVER_ERROR:
                add(create, Code.INTERNAL, error={"internal_error": common.InternalError(), "retry_type": RetryType.CALL})
            case Fault.MALFORMED:
                self.troubles.append(Trouble(create, spoil=lambda operation: common.Operation(id=operation.id)))
            case Fault.BROKEN_LIST:
                add("InstanceService/List", Code.INTERNAL, times=3)  # as often as a read is repeated
            case Fault.PREEMPTED:
                for instance_id in self.machines:
                    self.put(instance_id, State.STOPPED)

    def _served(self, service: str, name: str, answer: Callable[[Any], Any]) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
        async def serve(request: Any, context: Any) -> Any:
            headers = {str(key): str(value) for key, value in context.invocation_metadata()}
            self.seen.append((f"{service}/{name}", request, headers))
            try:
                if name != "Exchange" and headers.get("authorization") != f"Bearer {TOKEN}":
                    raise Refusal(Code.UNAUTHENTICATED, "the token is not valid")
                trouble = self._trouble(f"{service.rpartition('.')[2]}/{name}")
                if trouble is None:
                    return answer(request if name != "Create" else (request, headers))
                if trouble.reaches or trouble.spoil:
                    result = answer(request if name != "Create" else (request, headers))
                    if trouble.spoil:
                        return trouble.spoil(result)
                raise Refusal(trouble.code, trouble.message, trouble.error, trouble.retry_info)
            except Refusal as refusal:
                await context.abort(refusal.code, refusal.message, (("grpc-status-details-bin", refusal.details()),))

        return serve

    def _trouble(self, method: str) -> Trouble | None:
        for trouble in self.troubles:
            if trouble.method == method and trouble.times > 0:
                trouble.times -= 1
                return trouble
        return None

    def _create(self, sent: tuple[Any, dict[str, str]]) -> Any:
        request, headers = sent
        key = headers.get("x-idempotency-key", "")
        if not KEY.fullmatch(key):
            raise Refusal(Code.INVALID_ARGUMENT, "X-Idempotency-Key is letters, digits and '-', and long")
        if key in self.by_key:
            return self.operations[self.by_key[key]]
        problem = self._invalid(request)
        if problem:
            violation = common.BadRequest.Violation(field=problem, message="is required")
            raise Refusal(Code.INVALID_ARGUMENT, problem, {"bad_request": common.BadRequest(violations=[violation])})
        if any(
            looked.row.metadata.name == request.metadata.name and looked.row.metadata.parent_id == request.metadata.parent_id
            for looked in self.machines.values()
        ):
            raise Refusal(Code.ALREADY_EXISTS, "the name is taken", {"resource_already_exists": common.ResourceAlreadyExists()})
        instance_id = f"computeinstance-e00{next(self._numbers):012d}"
        row = compute.Instance(
            metadata=common.ResourceMetadata(request.metadata, id=instance_id, created_at=datetime(2027, 3, 1, 12, tzinfo=UTC)),
            spec=request.spec,
            status=compute.InstanceStatus(state=State.CREATING, reconciling=True),
        )
        operation = common.Operation(id=f"computeoperation-e00{next(self._numbers):012d}", resource_id=instance_id)
        self.operations[operation.id], self.by_key[key] = operation, operation.id
        if self.late_failure is None or self.leaves_wreck:
            self.machines[instance_id] = Looked(row, looks=3)
            self.disks.add(request.spec.boot_disk.managed_disk.name)
        return operation

    def _invalid(self, request: Any) -> str:
        spec = request.spec
        disk = spec.boot_disk.managed_disk
        required = {
            "metadata.parent_id": request.metadata.parent_id == PROJECT,
            "metadata.name": bool(request.metadata.name),
            "spec.resources.platform": any(spec.resources.platform == row.metadata.name for row in self.platforms),
            "spec.resources.preset": bool(spec.resources.preset),
            "spec.network_interfaces": [one.subnet_id in self.subnets for one in spec.network_interfaces] == [True],
            "spec.boot_disk.attach_mode": spec.boot_disk.attach_mode != compute.AttachedDiskSpec.AttachMode.UNSPECIFIED,
            "spec.boot_disk.type": disk is not None,
            "spec.boot_disk.managed_disk.spec.type": disk is not None and bool(disk.spec.type.value),
            "spec.boot_disk.managed_disk.spec.source": disk is not None and disk.spec.source is not None,
            "spec.cloud_init_user_data": len(spec.cloud_init_user_data) <= 32768,
        }
        return next((name for name, fine in required.items() if not fine), "")

    def _get(self, request: Any) -> Any:
        self._look(request.id)
        if request.id not in self.machines:
            found = common.ResourceNotFound(resource_id=request.id)
            raise Refusal(Code.NOT_FOUND, "no such instance", {"resource_not_found": found})
        return self.machines[request.id].row

    def _list(self, request: Any) -> Any:
        if request.parent_id != PROJECT:
            raise Refusal(Code.NOT_FOUND, "no such project")
        for instance_id in list(self.machines):
            self._look(instance_id)
        rows, token = self._paged([looked.row for looked in self.machines.values()], request)
        return compute.ListInstancesResponse(items=rows, next_page_token=token)

    def _delete(self, request: Any) -> Any:
        if request.id not in self.machines:
            raise Refusal(Code.NOT_FOUND, "no such instance")
        looked = self.machines[request.id]
        looked.row.status.state, looked.pinned, looked.looks = State.DELETING, False, self.slow_delete
        return common.Operation(id=f"computeoperation-e00{next(self._numbers):012d}", resource_id=request.id)

    def _look(self, instance_id: str) -> None:
        looked = self.machines.get(instance_id)
        if looked is None or looked.pinned:
            return
        looked.looks -= 1
        if looked.looks > 0:
            return
        if looked.row.status.state is State.DELETING:
            del self.machines[instance_id]
            self.disks.discard(looked.row.spec.boot_disk.managed_disk.name)
        elif looked.row.status.state in (State.CREATING, State.STARTING):
            looked.row.status.state, looked.row.status.reconciling = State.RUNNING, False

    def _operation(self, request: Any) -> Any:
        operation = self.operations[request.id]
        if self.late_failure is not None:
            code, message, error = self.late_failure
            operation.status = Refusal(code, message, error).status()
            if operation.resource_id in self.machines:
                self.put(operation.resource_id, State.ERROR)
            self.late_failure = None
        return operation

    def _platforms(self, request: Any) -> Any:
        rows, token = self._paged(self.platforms, request)
        return compute.ListPlatformsResponse(items=rows, next_page_token=token)

    def _subnets(self, request: Any) -> Any:
        rows = [vpc.Subnet(metadata=common.ResourceMetadata(id=one, parent_id=request.parent_id)) for one in self.subnets]
        return vpc.ListSubnetsResponse(items=rows)

    def _advice(self, request: Any) -> Any:
        if request.parent_id != TENANT:
            raise Refusal(Code.PERMISSION_DENIED, "not your tenant")
        rows, token = self._paged(self.advice, request)
        return capacity.ListResourceAdviceResponse(items=rows, next_page_token=token)

    def _estimate(self, request: Any) -> Any:
        costs = list[Any]()
        for one in request.resource_specs:
            asked = billing.REGISTRY.unpack_any(one.spec)
            machine = f"{asked.spec.resources.platform}/{asked.spec.resources.preset}"
            if self._invalid(asked) or machine in self.unpriceable:
                raise Refusal(Code.INVALID_ARGUMENT, f"no price for {machine}")
            gpus = int(asked.spec.resources.preset.partition("gpu")[0])  # "8gpu-128vcpu-1600gb"
            price = PER_GPU[asked.spec.resources.platform] * gpus
            price *= Decimal("0.4") if asked.spec.HasField("preemptible") else 1
            price += Decimal(asked.spec.boot_disk.managed_disk.spec.size_gibibytes) / 10000
            costs += [cost(asked.metadata.name, "hour", price), cost(asked.metadata.name, "month", price * 730)]
        return billing.EstimateBatchResponse(resource_costs=costs, currency=request.currency)

    def _exchange(self, request: Any) -> Any:
        try:
            claims = jwt.decode(request.subject_token, self.public_key, algorithms=["RS256"], options={"verify_aud": False})
        except jwt.PyJWTError:
            raise Refusal(Code.UNAUTHENTICATED, "the signature is not the service account's") from None
        if not str(claims["sub"]).startswith("serviceaccount-"):
            raise Refusal(Code.UNAUTHENTICATED, "no service account")
        return iam.CreateTokenResponse(access_token=TOKEN, token_type="Bearer", expires_in=43200)

    def _paged(self, rows: Sequence[Any], request: Any) -> tuple[Sequence[Any], str]:
        size = min(self.page, int(request.page_size) or self.page)
        start = int(request.page_token) if request.page_token.isdigit() else 0
        if self.endless:
            return rows[:1], str(start + 1)
        return rows[start : start + size], str(start + size) if start + size < len(rows) else ""


class Refusal(Exception):
    def __init__(self, code: Any, message: str, error: dict[str, Any] | None = None, retry_info: bytes = b"") -> None:
        super().__init__(message)
        self.code, self.message, self._error, self._retry = code, message, error or {}, retry_info

    def status(self) -> Any:
        details = list[Any]()
        if self._error:
            said = common.ServiceError(service="compute", code="Said", **self._error)
            details.append(common.REGISTRY.pack_any(said))
        if self._retry:
            details.append(Packed(type_url="type.googleapis.com/google.rpc.RetryInfo", value=self._retry))
        return RpcStatus(code=self.code.value[0], message=self.message, details=details)

    def details(self) -> bytes:
        return bytes(self.status().SerializeToString())


def written(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def platform(name: str, title: str, memory: int, presets: Sequence[tuple[str, int]], *, spot: bool = True) -> Any:
    rows = [
        compute.Preset(
            name=preset, resources=compute.PresetResources(vcpu_count=16, memory_gibibytes=200 * max(1, gpus), gpu_count=gpus)
        )
        for preset, gpus in presets
    ]
    spec = compute.PlatformSpec(presets=rows, human_readable_name=title, gpu_memory_gigabytes=memory)
    status = compute.PlatformStatus(allowed_for_preemptibles=spot and memory > 0)
    return compute.Platform(metadata=common.ResourceMetadata(name=name), spec=spec, status=status)


def cost(name: str, unit: str, price: Decimal) -> Any:
    return billing.ResourceCost(
        metadata=common.ResourceMetadata(name=name),
        aggregation_unit=billing.AggregationUnit(unit=unit),
        general=billing.GeneralResourceCost(total=billing.CostBreakdown(cost=str(price), cost_rounded=f"{price:.2f}")),
    )
