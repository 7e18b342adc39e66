"""Launches one instance through the availability domains of a region: the image, the request and the retry token.

The availability domain is part of the request, so each has a token of its own, and the same create in another domain is
another instance, which is what `providers.regions.Zones` is for. Most of Oracle's regions have one domain.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, cast

from providers.contract import Order, Reach, Refused, Unclear
from providers.oci_api import Tenancy
from providers.oci_errors import TokenSpent
from providers.oci_settings import IMAGE, IMAGES_ARE, OciSettings, split_offer
from providers.regions import Zones, image_for

OWNER, TAG, KEY, ENDS = "sublet-owner", "sublet-tag", "sublet-key", "sublet-ends-at"
"""Freeform tags; their keys take no period."""
METADATA = 32000  # bytes of all metadata of an instance, names and values (the SDK's model of LaunchInstanceDetails)
USER_DATA = (METADATA - 500) // 4 * 3
"""Bytes of a start-up script: base64 makes four of three, and the rest is for names and quotes."""


def token(key: str, domain: str) -> str:
    return hashlib.sha256(f"{key}|{domain}".encode()).hexdigest()


def tags_of(row: Any) -> Mapping[str, str]:
    tags: object = row.freeform_tags
    if not isinstance(tags, dict):
        return {}
    return {str(name): str(value) for name, value in cast("dict[object, object]", tags).items()}


class Launcher:
    """Belongs to one event loop."""

    def __init__(self, settings: OciSettings, tenancy: Tenancy) -> None:
        self._settings, self._tenancy = settings, tenancy
        self._zones = Zones()

    async def launch(self, order: Order, domains: Sequence[str], *, alone: bool) -> Any:
        """The SDK's `Instance`. `alone`: the region has one domain, so that Oracle's own token is enough."""
        region, shape, preemptible = split_offer(order.offer.id)
        if region not in self._settings.subnets or not shape:
            raise Refused(f"{order.offer.id[:80]!r} is no offer of this provider")
        if preemptible and not shape.startswith("VM."):
            raise Refused(f"Oracle has no preemptible bare metal such as {shape}")
        image = image_for(order, region, self._settings.images, form=IMAGE, shape=IMAGES_ARE)

        async def ask(domain: str) -> Any:
            details = self._details(order, region, domain, shape, image, preemptible=preemptible)
            retry = token(order.key, domain)
            try:
                answer = await self._tenancy.write(region, "launch_instance", details, creates=True, opc_retry_token=retry)
            except TokenSpent:
                return await self._spent(region, order)
            return answer.data

        async def look() -> Any:
            return None if alone else await self._by_key(region, order)

        reach = Reach.OFFER if preemptible else Reach.REGION
        return await self._zones.first(order.key, domains, ask, look=look, reach=reach)

    async def _by_key(self, region: str, order: Order) -> Any:
        rows = await self._tenancy.pages(region, "list_instances", self._settings.compartment, display_name=order.tag)
        ours = {OWNER: order.owner, KEY: order.key}
        found = [row for row in rows if ours.items() <= tags_of(row).items()]
        if len(found) > 1:
            raise Unclear(f"oci {region}: {len(found)} instances bear one key")
        return found[0] if found else None

    async def _spent(self, region: str, order: Order) -> Any:
        """The token's instance was made; what is left of it, or doubt: Oracle does not say what became of it."""
        found = await self._by_key(region, order)
        if found is None:
            raise Unclear(f"oci {region}: the create token was used, and nothing under it is shown")
        return found

    def _details(self, order: Order, region: str, domain: str, shape: str, image: str, *, preemptible: bool) -> Any:
        """The same for the same order and domain, or Oracle would not honour the token."""
        models, settings = self._tenancy.models, self._settings
        ends = order.ends_at.astimezone(UTC).isoformat()
        tags = {OWNER: order.owner, TAG: order.tag, KEY: order.key, ENDS: ends}
        taken: Any = None
        if preemptible:
            action = models.TerminatePreemptionAction(type="TERMINATE", preserve_boot_volume=False)
            taken = models.PreemptibleInstanceConfigDetails(preemption_action=action)
        return models.LaunchInstanceDetails(
            availability_domain=domain,
            compartment_id=settings.compartment,
            display_name=order.tag,
            shape=shape,
            freeform_tags=tags,
            source_details=models.InstanceSourceViaImageDetails(
                image_id=image, boot_volume_size_in_gbs=settings.disk_gib, kms_key_id=settings.kms_key or None
            ),
            create_vnic_details=models.CreateVnicDetails(
                subnet_id=settings.subnets[region],
                assign_public_ip=settings.public_address,  # else the subnet's own default would decide
                nsg_ids=list(settings.security_groups.get(region, ())) or None,
                freeform_tags=tags,
            ),
            metadata={"user_data": base64.b64encode(order.user_data.encode()).decode()},
            instance_options=models.InstanceOptions(are_legacy_imds_endpoints_disabled=True),  # only v2, with its header
            agent_config=models.LaunchInstanceAgentConfigDetails(is_management_disabled=True),  # no "run command" from outside
            preemptible_instance_config=taken,
        )
