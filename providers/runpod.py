"""Each instance a pod at RunPod, through its REST API v2: a container of an image by its digest, on rented GPUs.

The API has no idempotency key, its names are not unique and its listing has no filter: tag, owner, key and end time ride
in the pod's environment (the tag is its name, too), and a create looks for its tag first. Version 2 has no field for
interruptible pods, and version 1, which has one, is to be retired: so no spot here.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import httpx

from providers.clock import SYSTEM, Clock
from providers.contract import (
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    Profile,
    ProviderError,
    Refused,
    Secret,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.http import table
from providers.runpod_account import Account
from providers.runpod_catalogue import ANYWHERE, Catalogue, Cloud, Place, Wanted
from providers.runpod_logins import Logins
from providers.runpod_refusals import Refusals
from providers.tags import Turns, there

PHASES: Mapping[str, Phase] = {
    "PROVISIONING": Phase.STARTING,
    "STARTING": Phase.STARTING,
    "RUNNING": Phase.RUNNING,
    "EXITED": Phase.STOPPED,  # the GPU costs nothing any more; the pod has to be deleted all the same
    "ERROR": Phase.FAILED,
    "TERMINATED": Phase.ENDED,
}
POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{5,63}")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")
REGIONS = frozenset({"NORTH_AMERICA", "SOUTH_AMERICA", "EUROPE", "ASIA", "MIDDLE_EAST", "AFRICA", "OCEANIA", "ANTARCTICA"})
ENTRY = 's=$SUBLET_START; unset SUBLET_START RUNPOD_API_KEY; eval "$(printf %s "$s" | base64 -d)"'
"""The script comes by environment and encoded, since RunPod itself reads `{{ }}` in values. The key that RunPod puts into
every pod can stop and change that pod: the job does not inherit it."""
PROFILE = Profile(
    hardware="whatever the live catalogue names; B200 is the freshest in the vendor's description of API v1",
    footprint="data centres in North America, Europe, Asia and Oceania; the catalogue tells which have stock",
    residency="a data centre is preferred, not promised: a pod that is placed elsewhere is deleted again",
    pricing="by the second; list price of the catalogue, with the container disk's",
    preemption="none for on-demand pods; all are stopped when the balance is nearly used up",
    proven_against="the vendor's API description and a fake of ours; never live",
    source="runpod/docs: api-reference/openapi.json, api-reference-v2/openapi.json, pods/pricing.mdx, of 2026-08",
)


class Start(StrEnum):
    """How the start-up script becomes the container's command."""

    REPLACE = "replace"  # in place of the image's entry point
    ARGUMENTS = "arguments"  # as the arguments of the image's entry point, which has to run them, or of none


@dataclass(frozen=True)
class RunPodSettings:
    api_key: Secret
    url: str = "https://api.runpod.io"
    clouds: tuple[Cloud, ...] = (Cloud.SECURE,)  # "secure", "community" or both
    counts: tuple[int, ...] = (1, 2, 4, 8)  # GPUs per pod that are offered; one call of the catalogue each
    data_centers: tuple[str, ...] = ()  # empty: any
    regions: tuple[str, ...] = ()  # RunPod's words, for example "ASIA" and "MIDDLE_EAST"; empty: any
    countries: tuple[str, ...] = ()  # ISO 3166-1 alpha-2; empty: any
    compliance: tuple[str, ...] = ()  # what a data centre must all hold, for example "SOC_2_TYPE_2"
    country_of: Mapping[str, str] = field(default_factory=dict[str, str])  # data centre -> country, where its name misleads
    disk_gib: int = 60  # container disk, gone with the pod
    disk_price: Decimal = Decimal("0.10")  # dollars per GB and month, as docs/pods/pricing says
    min_cuda: str = ""  # lowest CUDA version of the host, for example "12.8"
    start: Start = Start.REPLACE

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise ValueError("url is https://HOST")
        if not self.clouds:
            raise ValueError('clouds is "secure", "community" or both')
        if not self.counts or not all(1 <= count <= 64 for count in self.counts):
            raise ValueError("counts is a list of numbers of GPUs from 1 to 64")
        unknown = set(self.regions) - REGIONS
        if unknown:
            raise ValueError(f"regions knows {', '.join(sorted(REGIONS))}, not {min(unknown)}")
        for country in (*self.countries, *self.country_of.values()):
            if not re.fullmatch(r"[A-Z]{2}", country):
                raise ValueError(f"a country is two capital letters, for example SG, not {country}")
        if self.disk_gib < 1 or self.disk_price < 0:
            raise ValueError("disk_gib is at least 1, and disk_price is not negative")
        if self.min_cuda and not re.fullmatch(r"\d+\.\d+", self.min_cuda):
            raise ValueError('min_cuda is a version such as "12.8"')


class RunPodProvider:
    """See the module. An instance's id is the pod's."""

    Settings = RunPodSettings

    def __init__(
        self,
        name: str,
        settings: RunPodSettings,
        *,
        clock: Clock = SYSTEM,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.settings, self._clock = name, settings, clock
        self.traits = Traits(
            boots_from=BootsFrom.CONTAINER_IMAGE,
            unknown_window=timedelta(minutes=3),  # a minute for the create itself; how late the listing is, nobody says
            user_data_limit=64 * 1024,  # encoded below the 128 KiB that Linux gives one environment string; RunPod says none
            tag_limit=63,
            offers_every=timedelta(minutes=2),  # one call per cloud and number of GPUs, out of 60 in a minute for everything
            profile=PROFILE,
            notes={
                "spot": "REST v2 has no field for interruptible pods",
                "place": "a data centre is a preference: a pod that is placed elsewhere is deleted again",
                "balance": "at nearly no balance RunPod stops every pod of the account",
            },
        )
        self._account = Account(f"RunPod {name}", settings.url, settings.api_key, clock=clock, transport=transport)
        self._turns = Turns(f"runpod|{settings.url}|{settings.api_key.reveal()}")
        wanted = Wanted(
            settings.clouds,
            settings.counts,
            settings.data_centers,
            settings.regions,
            settings.countries,
            settings.compliance,
            settings.country_of,
            settings.min_cuda,
            settings.disk_gib,
            settings.disk_price,
        )
        self._catalogue = Catalogue(name, self._account, wanted, clock)
        self._logins = Logins(self._account, clock)
        self._refusals = Refusals(self._catalogue, clock)

    async def offers(self, need: Need) -> Sequence[Offer]:
        with guarded("RunPod offers"):
            return await self._catalogue.offers(need, self._refusals.barred())

    async def create(self, order: Order) -> Instance:
        """One POST at most, and none if the tag is there already."""
        with guarded("RunPod create", maybe_created=True):
            vet(order, self.traits)
            place = Place.of(order.offer.id)
            if not IMAGE.fullmatch(order.image or ""):
                raise Refused("RunPod is given images as REGISTRY/REPOSITORY@sha256:DIGEST only")
            async with self._turns.of(order):
                pods = [pod for pod in await self._account.pods() if _mark(pod, "OWNER") == order.owner]
                return there(map(_instance, pods), order) or await self._rent(order, place)

    async def get(self, instance_id: str) -> Instance | None:
        with guarded("RunPod get"):
            pod = await self._account.pod(instance_id) if POD_ID.fullmatch(instance_id) else None
            return None if pod is None else _instance(pod)

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("RunPod owned"):
            pods = [pod for pod in await self._account.pods() if _mark(pod, "OWNER") == owner]
            await self._logins.sweep(owner, {_mark(pod, "TAG") for pod in pods})
            return [_instance(pod) for pod in pods]

    async def destroy(self, instance_id: str) -> None:
        """Deletes the pod with its disk, and the login that was stored for it."""
        with guarded("RunPod destroy"):
            pod = await self._account.pod(instance_id) if POD_ID.fullmatch(instance_id) else None
            if pod is None:
                return
            if not _mark(pod, "OWNER"):
                raise Refused(f"pod {instance_id} is not one of Sublet's")
            await self._account.delete_pod(instance_id)
            if pod.get("registry"):
                await self._logins.forget(str(pod["registry"]))

    async def check(self) -> Health:
        try:
            with guarded("RunPod check"):
                pods = await self._account.pods()
                priced = await self._catalogue.priced()
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"pods": str(len(pods)), "balance": "API v2 does not show it"}
        barred = self._refusals.barred()
        if barred:
            facts["not for this account"] = ", ".join(sorted(barred))
        clouds = " and ".join(self.settings.clouds)
        if not priced:
            return Health(False, f"the key works, and no GPU type has a price in the {clouds} cloud", facts)
        return Health(True, f"the key works; {priced} GPU types have a price in the {clouds} cloud", facts)

    async def aclose(self) -> None:
        await self._account.aclose()

    async def _rent(self, order: Order, place: Place) -> Instance:
        registry = await self._logins.store(order)
        try:
            pod = await self._post(order, place, registry)
            await self._placed_right(pod, place)
        except Unclear:
            raise  # the pod may be there, with its login: destroy or the sweep takes both
        except ProviderError:
            if registry:
                await self._logins.forget(registry)
            raise
        return _instance(pod)

    async def _post(self, order: Order, place: Place, registry: str) -> Mapping[str, Any]:
        body = self._body(order, place, registry)
        hidden = [order.user_data, body["env"]["SUBLET_START"], *([order.login.password.reveal()] if order.login else [])]
        answer = await self._account.create_pod(body, hidden)
        if answer.status < 300:
            pod = table(answer.json())
            if not POD_ID.fullmatch(str(pod["id"])) or _instance(pod).tag != order.tag:
                raise Unclear("RunPod answered a create with another pod")
            self._refusals.placed()
            return pod
        said = self._account.said(answer, hidden)
        if answer.status == 422:
            raise Refused(f"RunPod refuses the request: {said}")
        if answer.status == 403:
            raise self._refusals.forbidden(place, said)
        raise await self._refusals.ambiguous(place, said)

    async def _placed_right(self, pod: Mapping[str, Any], place: Place) -> None:
        """`dataCenterIds` are "preferred data centers": what was put elsewhere is no machine of this offer."""
        got = pod.get("dataCenterId")
        if place.data_center == ANYWHERE or not got or got == place.data_center:
            return
        try:
            await self._account.delete_pod(str(pod["id"]))
        except ProviderError as error:
            raise Unclear(f"RunPod placed the pod in {str(got)[:40]}, and did not delete it: {error}") from None
        raise NoCapacity(f"RunPod placed the pod in {str(got)[:40]}, not in {place.data_center}; it is deleted")

    def _body(self, order: Order, place: Place, registry: str) -> dict[str, Any]:
        gpu: dict[str, Any] = {"id": place.gpu, "count": place.count}
        if self.settings.min_cuda:
            gpu["minCudaVersion"] = self.settings.min_cuda
        command = ["/bin/sh", "-c"]
        body: dict[str, Any] = {
            "name": order.tag,
            "image": order.image,
            "cloud": place.cloud.upper(),
            "gpu": gpu,
            "disk": self.settings.disk_gib,
            "ports": [],
            "args": (
                json.dumps({"entrypoint": command, "cmd": [ENTRY]})  # docs/pods/templates: the start command as JSON
                if self.settings.start is Start.REPLACE
                else f"{' '.join(command)} '{ENTRY}'"
            ),
            "env": {
                "SUBLET_TAG": order.tag,
                "SUBLET_OWNER": order.owner,
                "SUBLET_KEY": order.key,
                "SUBLET_ENDS_AT": order.ends_at.astimezone(UTC).isoformat(),
                "SUBLET_START": base64.b64encode(order.user_data.encode()).decode(),
            },
        }
        if place.data_center != ANYWHERE:
            body["dataCenterIds"] = [place.data_center]
            body["env"]["SUBLET_PLACE"] = place.data_center
        if registry:
            body["registry"] = registry
        return body


def _mark(pod: Mapping[str, Any], name: str) -> str:
    """What we wrote into the pod's environment."""
    env = pod.get("env")
    found = table(env).get(f"SUBLET_{name}") if env else None
    return found if isinstance(found, str) else ""


def _instance(pod: Mapping[str, Any]) -> Instance:
    """A pod whose place RunPod tells only later, and which is not the one that was asked for, is of no use: FAILED."""
    status, place, wanted = str(pod["status"])[:40], str(pod.get("dataCenterId") or "")[:40], _mark(pod, "PLACE")
    phase = PHASES.get(status, Phase.UNKNOWN)
    elsewhere = bool(place and wanted and place != wanted) and phase is not Phase.ENDED
    return Instance(
        id=str(pod["id"]),
        tag=_mark(pod, "TAG") or str(pod["name"]),
        phase=Phase.FAILED if elsewhere else phase,
        created_at=_moment(pod.get("createdAt")),
        region=place,
        detail=f"{status}, in {place} and not in {wanted[:40]}" if elsewhere else status,
        key=_mark(pod, "KEY"),
    )


def _moment(value: object) -> datetime | None:
    with contextlib.suppress(ValueError, TypeError):
        found = datetime.fromisoformat(str(value))
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
