"""Shadeform's catalogue as offers: each type of each cloud, in each of its regions."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import cast

from providers.contract import Availability, Offer
from providers.http import table, tables

OFFER_ID = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})/([A-Za-z0-9][A-Za-z0-9._-]{0,98})/([A-Za-z0-9][A-Za-z0-9._+-]{0,98})")
"""CLOUD/REGION/TYPE, which is all that a create needs."""
ARM = re.compile(r"(?<![a-z])(?:g[bh]\d{3}|vr\d{3}|grace|vera)(?![a-z])")  # Grace and Vera hosts; their GPUs' names say so
COUNTRIES = {
    "canada": "CA",
    "finland": "FI",
    "france": "FR",
    "germany": "DE",
    "iceland": "IS",
    "india": "IN",
    "israel": "IL",
    "japan": "JP",
    "norway": "NO",
    "poland": "PL",
    "singapore": "SG",
    "sweden": "SE",
    "united kingdom": "GB",
    "united states": "US",
    "usa": "US",
    "uk": "GB",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What of the catalogue counts; an empty list: all of it."""

    clouds: Collection[str]
    regions: Collection[str]
    deployments: Collection[str]
    os: str


def offered(rows: object, *, provider: str, seen: datetime, choice: Choice) -> list[Offer]:
    """A row of a strange shape, or without a price, hides itself only; a list that is none raises TypeError."""
    found: dict[str, Offer] = {}
    if not isinstance(rows, list):
        raise TypeError("the catalogue is no list")
    for row in cast("list[object]", rows):
        try:
            for offer in _of_type(row, provider, seen, choice):
                other = found.get(offer.id)
                if other is None or _worth(offer) > _worth(other):
                    found[offer.id] = offer
        except (KeyError, TypeError, ValueError):
            continue
    return list(found.values())


def _worth(offer: Offer) -> tuple[bool, Decimal]:
    """Of two rows with one name, the one that can be had; and then the dearer, so that no price cap is broken."""
    return offer.availability is Availability.AVAILABLE, offer.price_per_hour


def _of_type(found: object, provider: str, seen: datetime, choice: Choice) -> Sequence[Offer]:
    row = table(found)
    has = table(row["configuration"])
    cloud, name, cents, gpus = (
        str(row["cloud"]),
        str(row["shade_instance_type"]),
        _whole(row["hourly_price"]),
        _whole(has["num_gpus"]),
    )
    vendors = str(row.get("cloud_instance_type", ""))[:100]
    systems = cast("list[object]", has.get("os_options") or [])
    if not cents or (choice.clouds and cloud not in choice.clouds) or (choice.os and choice.os not in systems):
        return []
    if choice.deployments and row["deployment_type"] not in choice.deployments:
        return []
    gpu = str(has["gpu_type"]) if gpus else None
    offers: list[Offer] = []
    for place in tables(row["availability"]):
        region = str(place["region"])
        if not OFFER_ID.fullmatch(f"{cloud}/{region}/{name}") or (choice.regions and region not in choice.regions):
            continue
        offer = Offer(
            id=f"{cloud}/{region}/{name}",
            provider=provider,
            region=region,
            price_per_hour=Decimal(cents) / 100,
            currency="USD",
            seen_at=seen,
            country=_country(str(place.get("display_name", ""))),
            gpu=gpu,
            gpus=gpus,
            gpu_memory_gib=_whole(has["vram_per_gpu_in_gb"]) if gpus else 0,
            memory_gib=_whole(has["memory_in_gb"]),
            disk_gib=_whole(has["storage_in_gb"]),
            architecture="arm64" if ARM.search(f"{gpu} {name} {vendors}".lower()) else "amd64",
            availability=_stock(place["available"]),
            title=f"{cloud} {name} ({vendors})" if vendors else f"{cloud} {name}",
            type=f"{cloud}/{name}",
        )
        offers.append(offer)
    return offers


def _stock(available: object) -> Availability:
    if not isinstance(available, bool):
        return Availability.UNKNOWN
    return Availability.AVAILABLE if available else Availability.NONE


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a whole number of 0 or more")
    return value


def _country(place: str) -> str | None:
    """Both orders are in use: "US, Houston, TX" and "Toronto, Canada"."""
    parts = [part.strip() for part in place.split(",")]
    if re.fullmatch(r"[A-Z]{2}", parts[0]):
        return "GB" if parts[0] == "UK" else parts[0]
    return COUNTRIES.get(parts[-1].lower()) or COUNTRIES.get(parts[0].lower())
