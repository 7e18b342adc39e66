"""The settings of a `kubernetes` provider: which cluster, which pods it may be asked for, and what they cost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, cast

from providers.contract import Secret

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
KEY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TOLERATION = re.compile(r"(?P<key>[^=:]+)(=(?P<value>[^=:]*))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?")
PRODUCT = "nvidia.com/gpu.product"
ARCHITECTURE = "kubernetes.io/arch"
REGION = "topology.kubernetes.io/region"

Value = str | int | float | bool | tuple[str, ...] | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of pod: an `offers` table of the settings, or made from what the nodes say of themselves."""

    name: str
    gpu: str = ""  # as the node's label names it
    gpus: int = 0
    gpu_memory_gib: int = 0
    resource: str = "nvidia.com/gpu"  # what the device plugin calls a GPU
    cpus: Decimal = Decimal(0)  # requested and limited; 0: neither
    memory_gib: int = 0  # requested and limited; 0: neither
    disk_gib: int = 0  # of the node's ephemeral storage; 0: no limit
    region: str = ""
    country: str = ""
    architecture: str = ""
    spot: bool = False
    price_per_hour: Decimal | None = None  # of the whole pod
    node_selector: Mapping[str, str] = field(default_factory=dict[str, str])
    tolerations: tuple[str, ...] = ()  # as kubectl writes taints: "key=value:NoSchedule", "key:NoSchedule", "key"
    runtime_class: str = ""
    priority_class: str = ""

    @property
    def selector(self) -> Mapping[str, str]:
        """What a node has to be labelled with."""
        return {**({ARCHITECTURE: self.architecture} if self.architecture else {}), **self.node_selector}


@dataclass(frozen=True)
class KubernetesSettings:
    kubeconfig: Path | None = None  # without it and without `server`: the service's own pod's account
    context: str = ""  # of the kubeconfig; empty: its current one
    server: str = ""  # https://HOST:PORT, instead of a kubeconfig
    token: Secret | None = None  # a service account's, for `server`
    ca: Path | None = None  # the cluster's authority, for `server`
    namespace: str = "sublet"
    offers: Mapping[str, Mapping[str, Value]] = field(default_factory=dict[str, Mapping[str, Value]])
    prices: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])  # GPU product label -> price of one GPU's hour
    sizes: tuple[int, ...] = (1,)  # GPUs of a pod, for what is offered by `prices`
    cpus_per_gpu: Decimal = Decimal(4)  # for what is offered by `prices`
    list_nodes: bool = True  # whether the key may list nodes
    autoscaled: bool = False  # nodes come when pods wait: that none is there is no reason not to ask
    own: bool = False  # the cluster is yours: nothing is rented
    currency: str = "USD"
    region: str = "cluster"  # where nodes and tables name none
    country: str = ""
    billing_granularity: timedelta = timedelta(seconds=1)
    billing_minimum: timedelta = timedelta(0)
    schedule_within: timedelta = timedelta(minutes=5)  # a pod that cannot start for longer is given up
    non_root: bool = True  # pods whose image would run as root are not started
    run_as_user: int = 0  # 0: the image's own
    capabilities: tuple[str, ...] = ()  # all others are dropped
    pull_secrets: tuple[str, ...] = ()  # of the namespace, instead of the order's login
    service_account: str = ""  # empty: the namespace's default; its token is never mounted
    shm_mib: int = 1024  # /dev/shm, which data loaders fill; it counts as memory
    grace: timedelta = timedelta(seconds=10)  # between SIGTERM and SIGKILL
    timeout: timedelta = timedelta(seconds=30)
    page_size: int = 200  # pods of one answer

    def __post_init__(self) -> None:
        rules = (
            (bool(self.server and self.kubeconfig), "server and kubeconfig exclude each other"),
            (bool(self.server) and (self.token is None or not self.token), "server needs a token"),
            (self.token is not None and not self.server, "token is for server"),
            (
                bool(self.server) and not self.server.startswith("https://") and not _loopback(self.server),
                "server is https://…",
            ),
            (NAME.fullmatch(self.namespace) is None, "namespace is a plain name"),
            (not self.offers and not self.prices, "it needs offers or prices: without a price nothing can be offered"),
            (bool(self.prices) and not self.list_nodes, "prices needs list_nodes; without it, name offers"),
            (any(price < 0 for price in self.prices.values()), "prices are not negative"),
            (not self.sizes or min(self.sizes) < 1, "sizes are 1 or more"),
            (self.page_size < 1 or self.shm_mib < 0 or self.run_as_user < 0, "page_size is 1 or more; nothing is negative"),
            (self.timeout <= timedelta(0) or self.grace < timedelta(0), "timeout is more than 0, grace not negative"),
            (self.billing_granularity <= timedelta(0) or self.billing_minimum < timedelta(0), "billing times are not negative"),
        )
        for wrong, sentence in rules:
            if wrong:
                raise ValueError(sentence)
        shapes_of(self)


def _loopback(server: str) -> bool:
    return re.match(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/|$)", server) is not None


def shapes_of(settings: KubernetesSettings) -> Mapping[str, Shape]:
    """The `offers` tables. Raises ValueError with a sentence."""
    return {name: _shape(name, {**given}, settings) for name, given in settings.offers.items()}


def _shape(name: str, given: dict[str, Any], settings: KubernetesSettings) -> Shape:
    known: dict[str, Any] = {item.name: item.type for item in fields(Shape) if item.name != "name"}
    where = f"offer {name}"
    if strange := sorted(given.keys() - known.keys()):
        raise ValueError(f"{where}: unknown {', '.join(strange)}; it knows {', '.join(sorted(known))}")
    for key, value in given.items():
        if known[key] in (Decimal, Decimal | None):
            try:
                given[key] = Decimal(str(value))
            except InvalidOperation:
                raise ValueError(f"{where}: {key} is not a number") from None
        elif key == "node_selector":
            if not isinstance(value, Mapping):
                raise ValueError(f"{where}: node_selector is a table")
        elif key == "tolerations":
            if not isinstance(value, tuple | list):
                raise ValueError(f"{where}: tolerations is a list")
            given[key] = tuple(cast("tuple[str, ...]", value))
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is int):
            raise ValueError(f"{where}: {key} is not a {known[key].__name__}")
    defaults: dict[str, Any] = {"region": settings.region, "country": settings.country}
    shape = Shape(name, **defaults | given)
    if problem := _problem(shape):
        raise ValueError(f"{where}: {problem}")
    return shape


def _problem(shape: Shape) -> str:
    """A sentence about what makes no sense; empty if all does."""
    numbers = (shape.gpus, shape.gpu_memory_gib, shape.cpus, shape.memory_gib, shape.disk_gib, shape.price_per_hour or 0)
    labels = shape.selector.items()
    rules = (
        (NAME.fullmatch(shape.name) is None, "its name is made of a-z, 0-9 and hyphens"),
        (shape.price_per_hour is None, "it has no price_per_hour"),
        (any(number < 0 for number in numbers), "nothing is negative"),
        (KEY.fullmatch(shape.resource) is None, "resource is a name such as nvidia.com/gpu"),
        (
            any(KEY.fullmatch(key) is None or (value != "" and LABEL.fullmatch(value) is None) for key, value in labels),
            "node_selector holds labels",
        ),
        (any(TOLERATION.fullmatch(text) is None for text in shape.tolerations), 'a toleration is "key=value:NoSchedule"'),
    )
    return next((sentence for wrong, sentence in rules if wrong), "")
