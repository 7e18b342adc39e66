"""A job's labels -> the pool that serves it and what the job may ask for. A label is untrusted: it can lower, never raise.

A pool serves a job whose labels are exactly the pool's labels plus options that the pool's
`may_add` allows. `gpu:rubin` is also read as the two labels `gpu` and `rubin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from app.core.model import Ask, Pool
from providers.contract import Need

DESCRIPTIVE = frozenset({"self-hosted", "linux", "x64", "arm64"})
"""Labels that GitHub's own runners carry: they describe and cost nothing, so a job may always add them."""
LONGEST = 256  # characters; GitHub's runner refuses longer ones (actions/runner, Validators.cs)
MOST = 20
ARCHITECTURES = {"x64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True, slots=True)
class Match:
    """The pool that serves a job and what the job asks of it; or, with `pool=None`, a sentence that says why none does."""

    pool: Pool | None
    ask: Ask = field(default_factory=Ask)
    why_not: str = ""


def normalise(labels: Iterable[str]) -> tuple[str, ...]:
    """Lower case (labels are case-insensitive on every forge), without repeats, sorted."""
    return tuple(sorted({label.strip().lower() for label in labels if label.strip()}))


def match(labels: Sequence[str], pools: Sequence[Pool], forge: str) -> Match:
    """The first pool, in the order of the settings, that serves these labels on this forge."""
    asked = normalise(labels)
    if not asked:
        return Match(None, why_not="The job has no labels; Sublet serves only jobs that name a pool's labels.")
    if len(asked) > MOST or any(len(label) > LONGEST for label in asked):
        return Match(None, why_not=f"The job has more than {MOST} labels, or one longer than {LONGEST} characters.")
    nearest = ""
    for pool in pools:
        if pool.forges and forge not in pool.forges:
            continue
        found = _fits(asked, pool)
        if isinstance(found, Ask):
            return Match(pool, found)
        nearest = nearest or found
    shown = ", ".join(asked)
    return Match(None, why_not=nearest or f"No pool serves the labels {shown}.")


def _fits(asked: tuple[str, ...], pool: Pool) -> Ask | str:
    """The ask, or a sentence; an empty sentence when the job does not mean this pool at all."""
    own = set(normalise(pool.labels))
    left = set(asked)
    covered = left & own
    for label in asked:
        option, _, value = label.partition(":")
        if value and label not in own and {option, value} <= own:  # `gpu:rubin` for the pool [gpu, rubin]
            covered |= {option, value}
            left.discard(label)
    left -= own
    if covered != own:
        return ""
    ask = Ask()
    for label in sorted(left):
        grown = _add(ask, label, pool)
        if grown is None:
            return f"The label {label} is not one that a job may add to the pool {pool.name}."
        ask = grown
    return ask


def _add(ask: Ask, label: str, pool: Pool) -> Ask | None:
    """The ask with one more label, or None if the pool does not allow it."""
    allowed = frozenset(normalise(pool.may_add))
    if label in DESCRIPTIVE:
        asked_for = ARCHITECTURES.get(label)
        return ask if asked_for is None or pool.need.architecture in (None, asked_for) else None
    option, _, value = label.partition(":")
    if label in ("spot", "burst"):
        if label not in allowed or (label == "spot" and pool.need.spot is False):
            return None
        return replace(ask, spot=True) if label == "spot" else replace(ask, burst=True)
    if option == "region" and value and label in allowed:
        if pool.need.regions and value not in pool.need.regions:
            return None
        return replace(ask, regions=ask.regions | {value})
    if option == "gpu" and value and label in allowed and ask.gpu is None:
        return replace(ask, gpu=value)
    if option == "gpus" and value.isascii() and value.isdigit() and ask.gpus is None:
        limits = [int(a.removeprefix("gpus:")) for a in allowed if a.startswith("gpus:") and a[5:].isdigit()]
        if limits and 1 <= int(value) <= max(limits):
            return replace(ask, gpus=int(value))
    return None


def sharpen(need: Need, ask: Ask, labels: Iterable[str] = ()) -> Need:
    """The pool's need with the job's ask laid over it. The price cap stays the pool's own."""
    architectures = {ARCHITECTURES[label] for label in normalise(labels) if label in ARCHITECTURES}
    return replace(
        need,
        gpu=ask.gpu or need.gpu,
        gpus=ask.gpus or need.gpus,
        regions=ask.regions or need.regions,
        spot=True if ask.spot else need.spot,
        architecture=need.architecture or (architectures.pop() if len(architectures) == 1 else None),
    )
