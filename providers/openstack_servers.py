"""A server of Nova, as Sublet asks for one and as Nova shows one.

Owner, tag, key and end time are metadata, which ride inside the create call; the name is the tag, and Nova does not keep names
unique. User data travels as base64, of which Nova takes 65535 bytes.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from providers.contract import Instance, NoCapacity, Order, Phase, ProviderError, Refused, Unclear, Why
from providers.http import clean, table
from providers.openstack_cloud import NO_HOST

OWNER, TAG, KEY, ENDS = "sublet-owner", "sublet-tag", "sublet-key", "sublet-ends-at"
SERVER_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
USER_DATA_LIMIT = 65535 // 4 * 3  # bytes before base64 (nova: api-ref, "User data must be ... Maximum size ... 65535 bytes")

PHASES: Mapping[str, Phase] = {
    "BUILD": Phase.STARTING,
    "ACTIVE": Phase.RUNNING,
    "REBOOT": Phase.RUNNING,
    "HARD_REBOOT": Phase.RUNNING,
    "MIGRATING": Phase.RUNNING,
    "PASSWORD": Phase.RUNNING,
    "ERROR": Phase.FAILED,
    "SHUTOFF": Phase.STOPPED,  # most clouds bill it on: its place is kept
    "SUSPENDED": Phase.STOPPED,
    "PAUSED": Phase.STOPPED,
    "SHELVED": Phase.STOPPED,
    "SHELVED_OFFLOADED": Phase.STOPPED,
    "RESCUE": Phase.STOPPED,  # it runs, but not what we started
    "SOFT_DELETED": Phase.DESTROYING,  # kept back for a while by the cloud; destroying it once more ends it
    "DELETED": Phase.ENDED,
    "REBUILD": Phase.UNKNOWN,  # nobody of ours does these
    "RESIZE": Phase.UNKNOWN,
    "VERIFY_RESIZE": Phase.UNKNOWN,
    "REVERT_RESIZE": Phase.UNKNOWN,
    "UNKNOWN": Phase.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Build:
    """What every server of one provider has in common, in one region."""

    image: str
    network: str
    security_groups: tuple[str, ...]
    zone: str
    config_drive: bool
    volume_gib: int
    volume_type: str


def recipe(order: Order, flavor: str, build: Build, *, tags: bool) -> dict[str, Any]:
    """The body of the create call; `tags` where Nova takes them with it (2.52)."""
    server: dict[str, Any] = {
        "name": order.tag,
        "flavorRef": flavor,
        "networks": [{"uuid": build.network}],
        "user_data": base64.b64encode(order.user_data.encode()).decode(),
        "metadata": {
            OWNER: order.owner,
            TAG: order.tag,
            KEY: order.key,
            ENDS: order.ends_at.astimezone(UTC).isoformat(),
        },
        "min_count": 1,
        "max_count": 1,
    }
    if build.security_groups:
        server["security_groups"] = [{"name": name} for name in build.security_groups]
    if build.zone:
        server["availability_zone"] = build.zone
    if build.config_drive:
        server["config_drive"] = True
    if tags:
        server["tags"] = ["sublet"]
    if build.volume_gib:
        disk: dict[str, Any] = {
            "boot_index": 0,
            "uuid": build.image,
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": build.volume_gib,
            "delete_on_termination": True,  # or the volume stays, and is billed
        }
        if build.volume_type:
            disk["volume_type"] = build.volume_type
        server["block_device_mapping_v2"] = [disk]
    else:
        server["imageRef"] = build.image
    return {"server": server}


def shown(server: Mapping[str, Any], region: str) -> Instance:
    """Raises TypeError or ValueError for what is no server."""
    server_id = server["id"]
    if not isinstance(server_id, str) or not SERVER_ID.fullmatch(server_id):
        raise ValueError("a server has an id of another shape")
    status = str(server.get("status", ""))
    labels = table(server.get("metadata") or {})
    phase = PHASES.get(status, Phase.UNKNOWN)
    doing = str(server.get("OS-EXT-STS:task_state") or "")
    if doing in ("deleting", "force-deleting") and phase is not Phase.ENDED:
        phase = Phase.DESTROYING  # Nova shows the old status until it is done
    said = fault(server)
    return Instance(
        id=f"{region}/{server_id}",
        tag=str(labels.get(TAG) or server.get("name") or ""),
        phase=phase,
        created_at=_moment(server.get("created")),
        region=region,
        detail=f"{status}: {said}" if said else status,
        key=str(labels.get(KEY) or ""),
        ended_at=_moment(server.get("OS-SRV-USG:terminated_at")) if phase is Phase.ENDED else None,
    )


def owner_of(server: Mapping[str, Any]) -> str:
    return str(table(server.get("metadata") or {}).get(OWNER) or "")


def fault(server: Mapping[str, Any]) -> str:
    """Why Nova gave it up, in its own words."""
    found: object = server.get("fault")
    said = str(table(found).get("message") or "") if found else ""
    return clean(said, most=200)


def refusal(server: Mapping[str, Any]) -> ProviderError:
    """What a create came to whose server is in ERROR, once that server is proven gone."""
    said = fault(server)
    text = f"openstack: the server went into ERROR: {said or 'without a word'}"
    words = said.lower()
    if any(one in words for one in NO_HOST):
        return NoCapacity(text)
    if "quota" in words:
        return Refused(text, why=Why.QUOTA)
    return Unclear(text, maybe_created=False)


def _moment(value: object) -> datetime | None:
    """Nova's times are UTC, with a Z or without any zone."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
