"""Launches one instance through the zones of a region: the image, the request and the token.

EC2 honours a create token per zone as soon as a subnet is named ("RunInstances idempotency", EC2 developer guide): the same
token in another zone is another instance, which is what `providers.regions.Zones` is for.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any

from providers.aws_api import Account
from providers.aws_errors import TokenSpent
from providers.aws_settings import IMAGE, IMAGES_ARE, AwsSettings, split_offer
from providers.contract import Offer, Order, Reach, Refused, Unclear, guarded
from providers.http import table, tables
from providers.regions import Zones, image_for

OWNER, TAG, KEY, ENDS = "sublet.owner", "sublet.tag", "sublet.key", "sublet.ends-at"
OWN_ARCHITECTURES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "arm64"}


def tags_of(row: Mapping[str, Any]) -> Mapping[str, str]:
    return {str(tag["Key"]): str(tag.get("Value", "")) for tag in tables(row.get("Tags", []))}


def token(key: str) -> str:
    """A create token is at most 64 ASCII characters (botocore's description of RunInstances)."""
    return hashlib.sha256(key.encode()).hexdigest()


class Launcher:
    """Belongs to one event loop."""

    def __init__(self, settings: AwsSettings, account: Account) -> None:
        self._settings, self._account = settings, account
        self._images: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._zones = Zones()

    async def launch(self, order: Order, subnets: Sequence[str]) -> Mapping[str, Any]:
        """EC2's description of the instance. Walks the zones of `subnets`."""
        region, kind, spot = split_offer(order.offer.id)
        if region not in self._settings.subnets or not kind:
            raise Refused(f"{order.offer.id[:80]!r} is no offer of this provider")
        image = await self._image(region, order)
        recipe = self._recipe(order, kind, image, spot=spot)

        async def ask(subnet: str) -> Mapping[str, Any]:
            request = self._request(recipe, region, subnet)
            try:
                return _only(await self._account.write(region, "run_instances", creates=True, **request))
            except TokenSpent:
                return await self._spent(region, order)

        async def look() -> Mapping[str, Any] | None:
            return await self._by_key(region, order) if len(self._settings.subnets[region]) > 1 else None

        # Spot runs dry by itself; without machines at the full price there are none for less.
        reach = Reach.OFFER if spot else Reach.REGION
        return await self._zones.first(order.key, subnets, ask, look=look, reach=reach)

    async def try_dry(self, region: str, kind: str, image: str, subnet: str) -> None:
        """Asks EC2 whether we might. It answers with an error in any case; `Passed` is the good one."""
        there = await self._told(region, image)
        request = self._request({"ImageId": image, "InstanceType": kind, **self._machine(there)}, region, subnet)
        await self._account.write(region, "run_instances", DryRun=True, **request)

    async def _by_key(self, region: str, order: Order) -> Mapping[str, Any] | None:
        filters = [{"Name": f"tag:{TAG}", "Values": [order.tag]}, {"Name": f"tag:{OWNER}", "Values": [order.owner]}]
        rows = await self._account.pages(region, "describe_instances", "Reservations", Filters=filters)
        named = [instance for row in rows for instance in tables(row["Instances"])]
        found = [instance for instance in named if tags_of(instance).get(KEY) == order.key]
        if len(found) > 1:
            raise Unclear(f"aws {region}: {len(found)} instances bear one key")
        return found[0] if found else None

    async def _spent(self, region: str, order: Order) -> Mapping[str, Any]:
        """The key's instance was created and has ended: its record, or a definite no once AWS has forgotten it."""
        found = await self._by_key(region, order)
        if found is None:
            raise Refused(f"aws {region}: the instance of this attempt has ended already")
        return found

    async def _image(self, region: str, order: Order) -> Mapping[str, Any]:
        """What EC2 knows of the image to boot. Raises `Refused` where it does not fit."""
        offer: Offer = order.offer
        name = image_for(order, region, self._settings.images, form=IMAGE, shape=IMAGES_ARE)
        there = await self._told(region, name)
        if there.get("Architecture") != OWN_ARCHITECTURES.get(offer.architecture):
            raise Refused(
                f"{name} is for {str(there.get('Architecture'))[:20]}, and {offer.type or offer.id} is {offer.architecture}"
            )
        return there

    async def _told(self, region: str, name: str) -> Mapping[str, Any]:
        if (region, name) not in self._images:
            with guarded(f"aws {region} image"):
                answer = await self._account.read(region, "describe_images", ImageIds=[name])
                rows = [row for row in tables(answer["Images"]) if row.get("ImageId") == name]
            if not rows:
                raise Refused(f"{region} has no image {name} for this account")
            self._images[region, name] = rows[0]  # what an id names never changes
        return self._images[region, name]

    def _recipe(self, order: Order, kind: str, image: Mapping[str, Any], *, spot: bool) -> Mapping[str, Any]:
        """All of the request but the zone: the same for the same order, or EC2 would not honour the token."""
        ends = order.ends_at.astimezone(UTC).isoformat()
        tags = {"Name": order.tag, OWNER: order.owner, TAG: order.tag, KEY: order.key, ENDS: ends}
        written = [{"Key": key, "Value": value} for key, value in tags.items()]
        recipe: dict[str, Any] = {
            "ImageId": image["ImageId"],
            "InstanceType": kind,
            "ClientToken": token(order.key),
            "UserData": order.user_data,  # the SDK encodes it
            "TagSpecifications": [
                {"ResourceType": resource, "Tags": written} for resource in ("instance", "volume", "network-interface")
            ],
            **self._machine(image),
        }
        if spot:  # one-time and terminated when taken: nothing is left that would rent again
            options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            recipe["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
        return recipe

    def _machine(self, image: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "MinCount": 1,
            "MaxCount": 1,
            "InstanceInitiatedShutdownBehavior": "terminate",  # a machine that powers itself off ends its own bill
            "MetadataOptions": {
                "HttpEndpoint": "enabled",
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 1,
                "InstanceMetadataTags": "disabled",
            },
            "BlockDeviceMappings": self._disks(image),
        }

    def _disks(self, image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Every disk of the image, encrypted and gone with the instance; its root as large as the settings say."""
        root, settings = str(image["RootDeviceName"]), self._settings
        key = {"KmsKeyId": settings.kms_key} if settings.kms_key else {}
        plain = {"DeleteOnTermination": True, "Encrypted": True, "VolumeType": settings.disk_type, **key}
        disks: list[Mapping[str, Any]] = [{"DeviceName": root, "Ebs": {"VolumeSize": settings.disk_gib, **plain}}]
        for mapping in tables(image.get("BlockDeviceMappings", [])):
            size = table(mapping.get("Ebs") or {}).get("VolumeSize", 0)
            if mapping["DeviceName"] == root and int(size) > settings.disk_gib:
                raise Refused(
                    f"image {image['ImageId']} needs a root disk of {int(size)} GiB, and disk_gib is {settings.disk_gib}"
                )
            if mapping["DeviceName"] != root and mapping.get("Ebs"):
                disks.append({"DeviceName": str(mapping["DeviceName"]), "Ebs": plain})
        return disks

    def _request(self, recipe: Mapping[str, Any], region: str, subnet: str) -> dict[str, Any]:
        interface: dict[str, Any] = {
            "DeviceIndex": 0,
            "SubnetId": subnet,
            "AssociatePublicIpAddress": self._settings.public_address,  # else the subnet's own default would decide
            "DeleteOnTermination": True,
        }
        groups = self._settings.security_groups.get(region)
        if groups:
            interface["Groups"] = list(groups)
        return {**recipe, "NetworkInterfaces": [interface]}


def _only(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = tables(answer["Instances"])
    if len(rows) != 1:
        raise Unclear(f"aws run_instances: {len(rows)} instances where one was asked for")
    return rows[0]
