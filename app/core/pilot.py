"""A pilot: one machine of one provider, rented for two minutes to measure it. What marks its lease, and what it may rent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from app.core.gpus import ARCHITECTURES
from app.core.model import DemandKey, Lease, Pool, Scope, ScopeKind
from providers.contract import Need

WORD = "(pilot)"
"""What its lease has for a pool, alone or behind the name of the pool whose image it runs. No pool of the settings can be
named so, and so no demand is ever covered by a pilot."""
LASTS = timedelta(minutes=2)  # at most, from when it is usable
AT_MOST = timedelta(minutes=20)  # from its launch to its hard end, whatever happens
BOOTS_WITHIN = timedelta(minutes=15)
PLACED_WITHIN = timedelta(minutes=2)  # a person waits: an offer is there, or is not
USUAL = timedelta(minutes=5)  # what one is taken to be billed for: three minutes to boot and the two


def key_of(pool: str = "") -> DemandKey:
    """The key of a pilot's lease: of no forge, with no labels. `pool`: whose image it runs."""
    return DemandKey(f"{pool} {WORD}".strip(), "", Scope(ScopeKind.REPOSITORY, WORD), ())


def is_pilot(key: DemandKey) -> bool:
    """Whether a lease of this key is a pilot's."""
    return key.pool.endswith(WORD) and not key.forge


def base_of(key: DemandKey) -> str:
    """The pool whose image a pilot runs; empty: none."""
    return key.pool.removesuffix(WORD).strip()


def need_of(base: Pool | None, *, gpu: str | None, region: str | None, gpus: bool, most: Decimal | None) -> Need:
    """What a pilot asks for: the limits of `base`, or any machine, with a GPU where `gpus` says that there are some.

    `most` is the highest price for an hour (None: any): it can lower the pool's and never raise it. Raises ValueError, with
    a sentence, for a GPU or a region that the pool may not rent."""
    need = Need(gpus=int(gpus)) if base is None else base.need
    if base is not None and gpu and need.gpu is not None and gpu.casefold() != need.gpu.casefold():
        raise ValueError(f"The pool {base.name} rents {need.gpu}, and no {gpu}.")
    if base is not None and region and need.regions and region.lower() not in need.regions:
        raise ValueError(f"The pool {base.name} rents in {', '.join(sorted(need.regions))}, and not in {region}.")
    model, caps = gpu or need.gpu, [cap for cap in (most, need.max_price_per_hour) if cap is not None]
    return replace(
        need,
        gpu=model,
        gpus=max(need.gpus, 1) if model else need.gpus,
        regions=frozenset({region.lower()}) if region else need.regions,
        max_price_per_hour=min(caps, default=None),
        gpu_architecture=need.gpu_architecture or ARCHITECTURES.get(model or ""),
    )


def pilot_pool(key: DemandKey, need: Need, provider: str, pools: Mapping[str, Pool]) -> Pool:
    """What a pilot is rented and proven by: its own need, one provider, and the image of the pool that it names, if any."""
    own = Pool(
        key.pool,
        frozenset(),
        need,
        ceiling=1,
        providers=(provider,),
        max_duration=AT_MOST,
        boot_limit=BOOTS_WITHIN,
        usual=USUAL,
        beacon=False,
    )
    base = pools.get(base_of(key))
    if base is None:
        return own
    return replace(own, image=base.image, trust=base.trust, mode=base.mode, machine_image=base.machine_image)


def pool_of(lease: Lease, pools: Mapping[str, Pool]) -> Pool:
    """The same, from a pilot's lease: its provider was written on it when it was planned."""
    return pilot_pool(lease.key, lease.need, lease.provider, pools)
