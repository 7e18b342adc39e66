"""Machines, sizes and measurements as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from app.web.words import rate

if TYPE_CHECKING:
    from app.web.offers_views import OfferView
    from app.web.providers_views import BriefOffer

MEASURED = (
    ("gpu", "memory_gbs", "GB/s"), ("gpu", "fp32_tflops", "TFLOPS"), ("network", "download_mbps", "Mbit/s"),
    ("network", "connect_ms", "ms"),
)  # fmt: skip


def card(gpu: str, gpus: int, memory_gib: int) -> str:
    """`2×H100 80 GB`."""
    gpu = gpu.upper() if any(char.isdigit() for char in gpu) else gpu.capitalize()
    memory = f" {memory_gib}\u00a0GB" if memory_gib else ""
    return f"{gpus}×{gpu}{memory}"[:100]


def gpu_card(offer: OfferView) -> str:
    return card(offer.gpu, offer.gpus or 1, offer.gpu_memory_gib) if offer.gpu else "no GPU"


def brief_price(offer: BriefOffer) -> str:
    return rate(Decimal(offer.price_per_hour), offer.currency)


def measured(report: Mapping[str, Any] | None) -> str:
    """What a pilot's machine says of itself, in a line; the whole report is in the JSON. Its word is not trusted to be one."""
    told: Mapping[str, Any] = report or {}
    parts = [
        f"{value:g} {unit}"
        for place, key, unit in MEASURED
        if isinstance(part := told.get(place), Mapping)
        if isinstance(value := cast("Mapping[str, Any]", part).get(key), int | float)
    ]
    return " · ".join(parts) or "–"


def gib(amount: int | None) -> str:
    """`256 GB`, `1.5 TB`; `–` for what nobody says."""
    if amount is None:
        return "–"
    return f"{amount}\u00a0GB" if amount < 1024 else f"{amount / 1024:.1f}".removesuffix(".0") + "\u00a0TB"
