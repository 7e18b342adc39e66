"""Lambda's catalogue as offers: a type in each region that has some now."""

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from providers.contract import Availability, Offer
from providers.http import table, tables

OFFER_ID = re.compile(r"([a-z0-9][a-z0-9-]{0,62})/([a-z0-9][a-z0-9_.-]{0,98})")
"""REGION/TYPE, which is all that a launch needs."""
GPU = re.compile(r"([^()]+?)\s*\((\d+) GB\b")  # "H100 (80 GB SXM5)"
ARM = re.compile(r"(?<![a-z])(?:g[bh]\d{3}|vr\d{3}|grace|vera)(?![a-z])")  # Grace and Vera hosts; their GPUs' names say so
COUNTRIES: Mapping[str, str] = {  # the end of a region's description
    "usa": "US",
    "germany": "DE",
    "india": "IN",
    "israel": "IL",
    "japan": "JP",
    "australia": "AU",
    "canada": "CA",
    "singapore": "SG",
}


def offered(rows: Mapping[str, Any], *, provider: str, seen: datetime, regions: Collection[str]) -> list[Offer]:
    """`regions` are those that count; none: all. A row of a strange shape, or without a price, hides itself only."""
    found: dict[str, Offer] = {}
    for row in rows.values():
        try:
            found |= {offer.id: offer for offer in _of_type(table(row), provider, seen, regions)}
        except (KeyError, TypeError, ValueError):
            continue
    return list(found.values())


def _of_type(row: Mapping[str, Any], provider: str, seen: datetime, regions: Collection[str]) -> list[Offer]:
    kind, specs = table(row["instance_type"]), table(table(row["instance_type"])["specs"])
    name, says, cents, gpus = (
        str(kind["name"]),
        str(kind["gpu_description"]),
        kind["price_cents_per_hour"],
        _whole(specs["gpus"]),
    )
    memory, disk, gpu = _whole(specs["memory_gib"]), _whole(specs["storage_gib"]), GPU.match(says)
    if not _whole(cents):
        return []
    found: list[Offer] = []
    for place in tables(row["regions_with_capacity_available"]):
        region = str(place["name"])
        if not OFFER_ID.fullmatch(f"{region}/{name}") or (regions and region not in regions):
            continue
        offer = Offer(
            id=f"{region}/{name}",
            provider=provider,
            region=region,
            price_per_hour=Decimal(cents) / 100,
            currency="USD",
            seen_at=seen,
            country=_country(region, str(place.get("description", ""))),
            gpu=(gpu[1] if gpu else says) if gpus else None,
            gpus=gpus,
            gpu_memory_gib=int(gpu[2]) if gpu and gpus else 0,
            memory_gib=memory,
            disk_gib=disk,
            architecture="arm64" if ARM.search(f"{name} {says}".lower()) else "amd64",
            availability=Availability.AVAILABLE,
            title=str(kind.get("description", name))[:200],
            type=name,
        )
        found.append(offer)
    return found


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("not a whole number of 0 or more")
    return value


def _country(region: str, description: str) -> str | None:
    found = COUNTRIES.get(description.rpartition(",")[2].strip().lower())
    return found or ("US" if region.startswith("us-") else None)
