"""The bench of `oci`: a fake of Oracle's compute API on loopback behind the vendor's own SDK."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from decimal import Decimal
from typing import Any

from providers.conformance import Fault
from providers.contract import Offer, Order, Phase, Provider, Secret
from providers.oci import OciProvider, OciSettings
from tests.providers.benches import Orders
from tests.providers.oci_cloud import (
    A10,
    COMPARTMENT,
    DOMAINS,
    FINGERPRINT,
    GB200,
    H100,
    LAUNCH,
    LIST,
    OF_TOMORROW,
    REGIONS,
    TENANCY,
    USER,
    Cloud,
    Region,
    Trip,
    cloud,
    error,
)
from tests.providers.stands import Stand, closing

HOME, AWAY = REGIONS  # one availability domain, and three
SUBNETS = {region: f"ocid1.subnet.oc1.{region}.aaaaaaaasubnet7example" for region in REGIONS}
IMAGES = {region: f"ocid1.image.oc1.{region}.aaaaaaaaimage7example" for region in REGIONS}
ARM_IMAGE = {f"{AWAY}/arm64": f"ocid1.image.oc1.{AWAY}.aaaaaaaaarm64image7"}
REFUSALS: Mapping[Fault, tuple[int, str]] = {
    Fault.QUOTA: (400, "LimitExceeded"),
    Fault.CREDENTIALS: (401, "NotAuthenticated"),
    Fault.THROTTLED: (429, "TooManyRequests"),
    Fault.SERVER_ERROR: (500, "InternalServerError"),
}


class OciBench(Stand[OciProvider]):
    name = "oci"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "PROVISIONING": Phase.STARTING,
        "STARTING": Phase.STARTING,
        "RUNNING": Phase.RUNNING,
        "MOVING": Phase.RUNNING,
        "CREATING_IMAGE": Phase.STOPPED,
        "STOPPING": Phase.STOPPED,
        "STOPPED": Phase.STOPPED,
        "TERMINATING": Phase.DESTROYING,
        "TERMINATED": Phase.ENDED,
        "UNKNOWN_ENUM_VALUE": Phase.UNKNOWN,  # the SDK's word for a state that it does not know
    }
    crowd = 7  # a page holds three

    def __init__(self, cloud: Cloud, **settings: Any) -> None:
        super().__init__()
        self.cloud = cloud
        self.secrets: Sequence[str] = (cloud.pem, *cloud.pem.splitlines()[1:3])
        given: dict[str, Any] = {
            "tenancy": TENANCY,
            "user": USER,
            "fingerprint": FINGERPRINT,
            "private_key": Secret(cloud.pem),
            "compartment": COMPARTMENT,
            "subnets": SUBNETS,
            "images": IMAGES | ARM_IMAGE,
            "prices": {H100: Decimal(80), A10: Decimal(2), f"{AWAY}/{GB200}": Decimal(64)},
        }
        self.settings = OciSettings(**(given | settings))
        offer = Offer(f"{AWAY}/{H100}", self.name, AWAY, Decimal(80), "USD", self.clock.now(), type=H100)
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> Provider:
        return self.oci()

    def oci(self) -> OciProvider:
        return self.kept(OciProvider(self.name, self.settings, clock=self.clock, endpoints=self.cloud.endpoints, page=3))

    @property
    def away(self) -> Region:
        return self.cloud.regions[AWAY]

    def trip(self, operation: str, status: int | None, body: bytes = b"", *, reaches: bool = False, times: int = 1) -> None:
        self.away.trips.append(Trip(operation, status, body, reaches, times))

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.LOST_REPLY:
                self.trip(LAUNCH, None, reaches=True)
            case Fault.HALF_CREATED:
                self.trip(LAUNCH, 500, error("InternalServerError"), reaches=True)
            case Fault.MALFORMED:
                self.trip(LAUNCH, 200, b'{"id": "ocid1.inst', reaches=True)
            case Fault.NO_CAPACITY:
                self.away.short |= {(H100, domain) for domain in DOMAINS[AWAY]}
            case Fault.BROKEN_LIST:
                self.trip(LIST, 500, error("InternalServerError"), times=3)
            case Fault.PREEMPTED:
                for row in self.away.instances.values():
                    row["lifecycleState"] = "TERMINATED"
            case _:
                status, code = REFUSALS[fault]
                self.trip(LAUNCH, status, error(code, "You have reached a limit, or may not do it."))

    async def put(self, instance_id: str, state: str) -> None:
        name = instance_id.partition("/")[2]
        self.away.held.add(name)
        self.away.instances[name]["lifecycleState"] = OF_TOMORROW if state == "UNKNOWN_ENUM_VALUE" else state

    def another(self, region: str = AWAY, kind: str = H100, *, preemptible: bool = False, image: str | None = None) -> Order:
        """A new order of another offer."""
        name = f"{region}/{kind}/preemptible" if preemptible else f"{region}/{kind}"
        offer = Offer(name, self.name, region, Decimal(1), "USD", self.clock.now(), type=kind, spot=preemptible)
        return replace(self.order(), offer=offer, image=image)

    async def aclose(self) -> None:
        await super().aclose()
        self.cloud.reset()


def bench(**settings: Any) -> AbstractAsyncContextManager[OciBench]:
    return closing(OciBench(cloud(), **settings))
