"""An instance of Nebius, as Sublet asks for one and as Nebius shows one.

The boot disk is a managed one, which Nebius deletes with its instance: a separate disk would stay, and be billed, whenever the
service died in between (`ManagedDisk` in nebius/compute/v1/instance.proto). Owner, tag, key and end time are labels, which
ride inside the create call, and the instance's name is the tag: Nebius keeps names unique within a project.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from providers.contract import Instance, Order, Phase, Refused

OWNER, TAG, KEY, ENDS = "sublet-owner", "sublet-tag", "sublet-key", "sublet-ends-at"
LABEL = re.compile(r"[a-z0-9_-]{1,63}")  # what every label of Nebius that is known to be valid looks like
INSTANCE_ID = re.compile(r"computeinstance-[a-z0-9]{1,64}")
IMAGE_ID = re.compile(r"computeimage-[a-z0-9]{1,64}")
PART = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}", re.IGNORECASE)

PHASES: Mapping[str, Phase] = {
    "CREATING": Phase.STARTING,
    "STARTING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "UPDATING": Phase.UNKNOWN,  # nobody of ours updates an instance
    "STOPPING": Phase.STOPPED,
    "STOPPED": Phase.STOPPED,  # the machine costs nothing now, and its disk does
    "DELETING": Phase.DESTROYING,
    "ERROR": Phase.FAILED,  # "cannot be restored ... delete this VM" (docs: compute/virtual-machines/lifecycle)
}


@dataclass(frozen=True, slots=True)
class Place:
    """What an offer's id says: where, what, and how it is paid."""

    region: str
    platform: str
    preset: str
    spot: bool = False

    def __str__(self) -> str:
        return "/".join([self.region, self.platform, self.preset, *(["spot"] if self.spot else [])])

    @classmethod
    def of(cls, offer_id: str) -> "Place":
        """Raises `Refused` for what is no offer of ours."""
        parts = offer_id.split("/")
        spot = len(parts) == 4 and parts[3] == "spot"
        if (len(parts) != 3 and not spot) or not all(PART.fullmatch(part) for part in parts):
            raise Refused(f"{offer_id[:80]!r} is no offer of Nebius: REGION/PLATFORM/PRESET, and /spot for a preemptible one")
        return cls(parts[0], parts[1], parts[2], spot)


@dataclass(frozen=True, slots=True)
class Build:
    """What every machine of one provider has in common, in one region."""

    project: str
    subnet: str
    security_group: str
    public_address: bool
    disk_gib: int
    disk_type: str
    image: str  # an image's id, or the name of a family


def recipe(compute: Any, common: Any, place: Place, build: Build, *, name: str, order: Order | None = None) -> Any:
    """The create request; without an order, the same machine as something to be priced."""
    labels = {} if order is None else _labels(order)
    managed = compute.ManagedDisk(name=name, labels=labels, spec=_disk(compute, build))
    network = compute.NetworkInterfaceSpec(
        name="eth0",
        subnet_id=build.subnet,
        ip_address=compute.IPAddress(),
        public_ip_address=compute.PublicIPAddress() if build.public_address else None,
        security_groups=[compute.SecurityGroup(id=build.security_group)] if build.security_group else [],
    )
    spec = compute.InstanceSpec(
        resources=compute.ResourcesSpec(platform=place.platform, preset=place.preset),
        network_interfaces=[network],
        boot_disk=compute.AttachedDiskSpec(attach_mode=compute.AttachedDiskSpec.AttachMode.READ_WRITE, managed_disk=managed),
        cloud_init_user_data="" if order is None else order.user_data,
        # Otherwise a machine that powers itself off at its end time is started again, and billed.
        recovery_policy=compute.InstanceRecoveryPolicy.FAIL,
        preemptible=compute.PreemptibleSpec(on_preemption=compute.PreemptibleSpec.PreemptionPolicy.STOP)
        if place.spot
        else None,
    )
    metadata = common.ResourceMetadata(parent_id=build.project, name=name, labels=labels)
    return compute.CreateInstanceRequest(metadata=metadata, spec=spec)


def shown(found: Any, regions: Mapping[str, str]) -> Instance:
    """`regions` is project -> region. Raises TypeError or ValueError for what is no instance."""
    instance_id = str(found.metadata.id)
    if not INSTANCE_ID.fullmatch(instance_id):
        raise ValueError("an instance has an id of another shape")
    state = str(getattr(found.status.state, "name", found.status.state))
    phase = PHASES.get(state, Phase.UNKNOWN)
    asked_to_stop = bool(found.spec.stopped)
    if state == "STOPPED" and found.status.reconciling and not asked_to_stop:
        phase = Phase.STARTING  # a new instance is STOPPED for a moment before it is STARTING
    # Nobody asked it to stop. A preemptible machine that powered itself off looks the same: Nebius shows no cause.
    taken = phase is Phase.STOPPED and not asked_to_stop and found.spec.HasField("preemptible")
    labels = found.metadata.labels
    created = found.metadata.created_at
    return Instance(
        id=instance_id,
        tag=str(labels.get(TAG, "") or found.metadata.name),
        phase=phase,
        created_at=created if isinstance(created, datetime) and created.tzinfo is not None else None,
        region=regions.get(str(found.metadata.parent_id), ""),
        detail=state,
        key=str(labels.get(KEY, "")),
        preempted=bool(taken),
    )


def owner_of(found: Any) -> str:
    return str(found.metadata.labels.get(OWNER, ""))


def _labels(order: Order) -> dict[str, str]:
    ends = order.ends_at.astimezone(UTC).strftime("%Y%m%dt%H%M%Sz")
    labels = {OWNER: order.owner, TAG: order.tag, ENDS: ends}
    if LABEL.fullmatch(order.key):
        labels[KEY] = order.key
    return labels


def _disk(compute: Any, build: Build) -> Any:
    by_id = IMAGE_ID.fullmatch(build.image) is not None
    return compute.DiskSpec(
        type=compute.DiskSpec.DiskType[build.disk_type],
        size_gibibytes=build.disk_gib,
        source_image_id=build.image if by_id else None,
        source_image_family=None if by_id else compute.SourceImageFamily(image_family=build.image),
    )
