"""An offer as JSON and back: as a lease keeps the one it chose, and as the store keeps those that were seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from providers.contract import Availability, Offer

KNOWN = frozenset(field.name for field in fields(Offer))


def offer_json(offer: Offer) -> dict[str, Any]:
    """JSON values: money as text, times as RFC 3339, durations in seconds."""
    return {key: _plain(value) for key, value in asdict(offer).items()}


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value


def offer_of(values: Mapping[str, Any]) -> Offer:
    """The inverse of `offer_json`, for rows of older releases too."""
    given = {key: value for key, value in values.items() if key in KNOWN}
    given["price_per_hour"] = Decimal(given["price_per_hour"])
    given["seen_at"] = datetime.fromisoformat(given["seen_at"])
    given["availability"] = Availability(given["availability"])
    notice = given.get("notice")
    given["notice"] = None if notice is None else timedelta(seconds=notice)
    return Offer(**given)
