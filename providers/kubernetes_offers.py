"""What a cluster could run now: the settings' own offers, and those that its nodes' labels and capacity make."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from providers.contract import Availability
from providers.http import table, tables
from providers.kubernetes_settings import ARCHITECTURE, LABEL, PRODUCT, REGION, TOLERATION, KubernetesSettings, Shape

GPU = "nvidia.com/gpu"
MEMORY = "nvidia.com/gpu.memory"  # MiB of one, by NVIDIA's feature discovery
UNITS: Mapping[str, int] = {
    **{unit: 1024**power for power, unit in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi"))},
    **{unit: 1000**power for power, unit in enumerate(("", "k", "M", "G", "T", "P"))},
}
GIB = 1024**3
KEPT = 9  # tenths of a node's memory and disk that its pods are offered: the rest is for its own


@dataclass(frozen=True, slots=True)
class Node:
    """What a node says of itself, and how much of its GPUs our own pods have."""

    labels: Mapping[str, str]
    taints: tuple[Mapping[str, Any], ...]
    allocatable: Mapping[str, str]
    ready: bool
    used: Mapping[str, int]

    def count(self, resource: str) -> int:
        return int(quantity(self.allocatable.get(resource, "0")))

    def carries(self, shape: Shape) -> bool:
        """Whether a pod of this shape could ever be put there."""
        fits = all(self.labels.get(key) == value for key, value in shape.selector.items())
        return (
            self.ready and fits and self.count(shape.resource) >= shape.gpus and not any(map(self._repels(shape), self.taints))
        )

    def has_room(self, shape: Shape) -> bool:
        """As far as our own pods tell; those of others are not ours to see."""
        return self.carries(shape) and self.count(shape.resource) - self.used.get(shape.resource, 0) >= shape.gpus

    @staticmethod
    def _repels(shape: Shape) -> Any:
        def repels(taint: Mapping[str, Any]) -> bool:
            return taint.get("effect") in ("NoSchedule", "NoExecute") and not _tolerated(shape.tolerations, taint)

        return repels


def _tolerated(tolerations: Iterable[str], taint: Mapping[str, Any]) -> bool:
    for text in tolerations:
        match = TOLERATION.fullmatch(text)
        if match is None or match["key"] != taint.get("key") or match["effect"] not in (None, taint.get("effect")):
            continue
        if match["value"] is None or match["value"] == (taint.get("value") or ""):
            return True
    return False


def quantity(text: str) -> Decimal:
    """A number as Kubernetes writes it: "128", "500m", "64Gi"."""
    if text.endswith("m"):
        return Decimal(text[:-1]) / 1000
    number = text.rstrip("KMGTPik")
    return Decimal(number) * UNITS[text[len(number) :]]


def nodes_of(rows: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The nodes, with what our own living pods have of each."""
    used: dict[str, dict[str, int]] = {}
    for pod in pods:
        spec, status = table(pod["spec"]), table(pod.get("status") or {})
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            continue
        theirs = used.setdefault(str(spec["nodeName"]), {})
        for container in tables(spec["containers"]):
            for name, amount in table(table(container.get("resources") or {}).get("limits") or {}).items():
                theirs[name] = theirs.get(name, 0) + int(quantity(str(amount)))
    return [_node(row, used) for row in rows]


def _node(row: Mapping[str, Any], used: Mapping[str, Mapping[str, int]]) -> Node:
    metadata, spec, status = table(row["metadata"]), table(row.get("spec") or {}), table(row.get("status") or {})
    conditions = tables(status.get("conditions") or [])
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return Node(
        labels={str(key): str(value) for key, value in table(metadata.get("labels") or {}).items()},
        taints=tuple(tables(spec.get("taints") or [])),
        allocatable={str(key): str(value) for key, value in table(status.get("allocatable") or {}).items()},
        ready=ready and not spec.get("unschedulable"),
        used=used.get(str(metadata["name"]), {}),
    )


def availability(shape: Shape, nodes: Sequence[Node] | None, *, autoscaled: bool) -> Availability:
    """From the nodes where they may be seen. A cluster that makes nodes when pods wait is never NONE."""
    if nodes is None:
        return Availability.UNKNOWN
    if any(node.has_room(shape) for node in nodes):
        return Availability.AVAILABLE
    return Availability.UNKNOWN if autoscaled else Availability.NONE


def told_by(shape: Shape, nodes: Sequence[Node] | None) -> Shape:
    """The settings' offer, with what it does not say taken from the first node that could carry it."""
    node = next((node for node in nodes or () if node.carries(shape)), None)
    if node is None:
        return shape
    gpu = shape.gpu or (node.labels.get(PRODUCT, "") if shape.gpus else "")
    return replace(shape, gpu=gpu, gpu_memory_gib=shape.gpu_memory_gib or (gpu_memory(node) if shape.gpus else 0))


def gpu_memory(node: Node) -> int:
    megabytes = node.labels.get(MEMORY, "")
    return round(int(megabytes) / 1024) if megabytes.isdigit() else 0


def discovered(nodes: Sequence[Node], settings: KubernetesSettings) -> list[Shape]:
    """A shape for each product, size, architecture and region that a node could carry and that has a price."""
    shapes: dict[str, Shape] = {}
    for node in nodes:
        product, gpus = node.labels.get(PRODUCT, ""), node.count(GPU)
        for size in settings.sizes:
            if product in settings.prices and 0 < size <= gpus and LABEL.fullmatch(product):
                region, architecture = node.labels.get(REGION, ""), node.labels.get(ARCHITECTURE, "amd64")
                shape = made(product, size, architecture, region, settings, node)
                shapes.setdefault(shape.name, shape)
    return list(shapes.values())


def made(
    product: str, size: int, architecture: str, region: str, settings: KubernetesSettings, node: Node | None = None
) -> Shape:
    """The shape of a discovered offer, from its name's own parts; `node` fills in what offers say."""
    share = Decimal(size) / max(1, node.count(GPU)) if node is not None else Decimal(0)
    memory = int(share * quantity(node.allocatable.get("memory", "0")) * KEPT / 10 / GIB) if node is not None else 0
    disk = int(share * quantity(node.allocatable.get("ephemeral-storage", "0")) * KEPT / 10 / GIB) if node is not None else 0
    return Shape(
        name=f"{product}/x{size}/{architecture}/{region or '-'}",
        gpu=product,
        gpus=size,
        gpu_memory_gib=gpu_memory(node) if node is not None else 0,
        cpus=settings.cpus_per_gpu * size,
        memory_gib=memory,
        disk_gib=disk,
        region=region or settings.region,
        country=settings.country,
        architecture=architecture,
        price_per_hour=settings.prices[product] * size,
        node_selector={PRODUCT: product, **({REGION: region} if region else {})},
        tolerations=(f"{GPU}:NoSchedule",),  # what GPU nodes are usually tainted with
    )
