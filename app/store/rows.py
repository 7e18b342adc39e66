"""Rows into frozen nouns and back: the one place that knows how a Need, an offer or a length of time is kept."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import sqlalchemy as sa

from app.core.billing import Charge, ChargeKind
from app.core.model import Ask, DemandKey, Job, JobState, Lease, NodeFacts, NodeImage, Reason, Scope, Span
from app.core.states import State
from app.store.tables import charge, job, lease, span
from providers.contract import Need

LONGEST = 4_000  # characters of any text that came from outside
BIGGEST = 2**31 - 1  # of an INTEGER column
UNFIT = re.compile("[\x00\ud800-\udfff]")  # what a text column of PostgreSQL refuses, and one bad row would stop a group


def clean(text: str, limit: int = LONGEST) -> str:
    """The text without what no database keeps, and not longer than `limit` characters."""
    return UNFIT.sub("\ufffd", text[:limit])


def whole(value: object) -> int:
    """A number from outside as one that an INTEGER column holds; 0 for anything that is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return max(-BIGGEST, min(BIGGEST, int(value))) if isinstance(value, int | float) else 0


def plain(value: object) -> Any:
    """JSON-ready: Decimals as exact text, times as RFC 3339, lengths of time as seconds, sets sorted.

    Raises TypeError for what has no place in a row, a Secret above all."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {clean(str(key)): plain(inner) for key, inner in cast("Mapping[object, object]", value).items()}
    if isinstance(value, AbstractSet):
        return sorted((plain(inner) for inner in cast("AbstractSet[object]", value)), key=str)
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in cast("Sequence[object]", value)]
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    raise TypeError(f"a {type(value).__name__} has no place in a row")


def kept(value: object) -> Any:
    """JSON values whole, however long a text: what was signed is no use when it is cut. Only what no database keeps is gone."""
    if isinstance(value, str):
        return UNFIT.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {UNFIT.sub("\ufffd", str(key)): kept(inner) for key, inner in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [kept(inner) for inner in cast("Sequence[object]", value)]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in a row")


# --- jobs

_JOB_NAMES = tuple(part.name for part in fields(Job))
JOB_COLUMNS = tuple(job.c[name] for name in _JOB_NAMES)


def job_of(row: Sequence[Any]) -> Job:
    """A row of JOB_COLUMNS."""
    values: dict[str, Any] = dict(zip(_JOB_NAMES, row, strict=True))
    values["state"] = JobState(values["state"])
    if values["labels"] is not None:
        values["labels"] = tuple(values["labels"])
    if values["scope"] is not None:
        values["scope"] = Scope.parse(values["scope"])
    return Job(**values)


def job_values(job: Job) -> dict[str, Any]:
    """Every column of a job."""
    values: dict[str, Any] = {name: getattr(job, name) for name in _JOB_NAMES}
    values["state"] = str(job.state)
    values["labels"] = None if job.labels is None else list(job.labels)
    values["scope"] = None if job.scope is None else str(job.scope)
    return values


# --- leases

_ELSEWHERE = {"key", "granularity", "minimum", "credential_ready", "need", "ask", "decision", "image_verdict"}
_SAME = tuple(part.name for part in fields(Lease) if part.name not in _ELSEWHERE)
_SHARED = ("need", "ask", "labels")  # read as text: thousands of leases have the same few, and each is parsed once
SLIM_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    *(lease.c[name] for name in _SAME),
    *(sa.cast(lease.c[name], sa.Text).label(name) for name in _SHARED),
    *(lease.c[name] for name in ("pool", "forge", "scope", "for_job", "granularity_s", "minimum_s")),
    # Whether there are sealed bytes; they themselves stay where they are. Not `IS NOT NULL`: in the RETURNING of an UPDATE
    # SQLite 3.40 answers that with 1 for a column that is NULL (it reads the row through a partial index).
    (sa.func.coalesce(sa.func.length(lease.c.credential), 0) > 0).label("credential_ready"),
)
"""For lists: without `decision` and `image_verdict`, the whole records and by far the longest columns."""
LEASE_COLUMNS = (*SLIM_COLUMNS, lease.c.decision, lease.c.image_verdict)
_NAMES = tuple(column.key for column in LEASE_COLUMNS)
PROTECTED = frozenset(
    {
        *("id", "name", "pool", "forge", "scope", "labels", "for_job", "created_at"),
        *("state", "entered_at", "reason", "reason_text", "due", "claim", "claimed_until", "version"),
        *("booked_at", "drain_asked_at", "destroy_asked_at", "asked_reason", "asked_text"),
    }
)
"""Columns that have a function of their own; `values` of a station may hold every other one."""


def lease_of(row: Sequence[Any]) -> Lease:
    """A row of LEASE_COLUMNS or SLIM_COLUMNS."""
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=False))
    values["key"] = _key_of(*(values.pop(name) for name in ("pool", "forge", "scope", "labels", "for_job")))
    values["granularity"] = timedelta(seconds=values.pop("granularity_s"))
    values["minimum"] = timedelta(seconds=values.pop("minimum_s"))
    values["credential_ready"] = bool(values["credential_ready"])
    values["state"] = State(values["state"])
    values["need"] = _need_of(values["need"])
    values["ask"] = _ask_of(values["ask"])
    for name in ("reason", "asked_reason"):
        if values[name] is not None:
            values[name] = Reason(values[name])
    if values["facts"] is not None:
        values["facts"] = facts_of(values["facts"])
    return Lease(**values)


# --- what policy looks at: each plan reads every row that waits or comes, and few of their columns

_QUEUED = ("id", "forge", "key", "repository", "queued_at", "seen_at", "cleared_at", "pool", "wait")
QUEUED_COLUMNS = (*(job.c[name] for name in _QUEUED), job.c.scope, sa.cast(job.c.labels, sa.Text))
_COMING = ("id", "name", "attempt", "tag", "created_at", "entered_at", "deadline", "due", "note", "job_id")
_FACTS = ("job_started_at", "runner_exited_at", "drain_asked_at", "destroy_asked_at")
COMING_COLUMNS = (
    *(lease.c[name] for name in (*_COMING, *_FACTS, "state", "pool", "forge", "scope", "for_job")),
    sa.cast(lease.c.labels, sa.Text),
)


def queued_of(row: Sequence[Any]) -> Job:
    """A row of QUEUED_COLUMNS: a queued job, with what policy needs of it and no more."""
    *plain_ones, scope, labels = row
    known = dict(zip(_QUEUED, plain_ones, strict=True))
    return Job(state=JobState.QUEUED, scope=_scope_of(scope), labels=_labels_of(labels), **known)


def coming_of(row: Sequence[Any]) -> Lease:
    """A row of COMING_COLUMNS: a lease that may cover a job, with what policy needs of it and no more."""
    *plain_ones, state, pool, forge, scope, for_job, labels = row
    known = dict(zip((*_COMING, *_FACTS), plain_ones, strict=True))
    return Lease(state=State(state), key=_key_of(pool, forge, scope, labels, for_job), **known)


@functools.lru_cache(maxsize=1024)
def _scope_of(text: str | None) -> Scope | None:
    return None if text is None else Scope.parse(text)


@functools.lru_cache(maxsize=1024)
def _labels_of(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def lease_values(lease: Lease) -> dict[str, Any]:
    """Every column of a new lease, whole as policy drew it."""
    values: dict[str, Any] = {name: getattr(lease, name) for name in (*_SAME, "need", "ask", "decision", "image_verdict")}
    values |= {"pool": lease.key.pool, "forge": lease.key.forge, "scope": str(lease.key.scope), "for_job": lease.key.job}
    values |= {"labels": list(lease.key.labels), "state": str(lease.state), "reason": lease.reason and str(lease.reason)}
    values["asked_reason"] = lease.asked_reason and str(lease.asked_reason)
    values |= {"granularity_s": lease.granularity.total_seconds(), "minimum_s": lease.minimum.total_seconds()}
    values |= {"need": _plain_once(lease.need), "ask": _plain_once(lease.ask)}
    for name in ("facts", "offer", "decision"):
        values[name] = plain(values[name])
    values["image_verdict"] = kept(values["image_verdict"])
    return values


@functools.lru_cache(maxsize=256)
def _plain_once(value: Need | Ask) -> Any:
    """Thousands of leases have the same few."""
    return plain(value)


def lease_changes(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a station writes beside the state, as columns.

    A new credential opens the way for a new ticket. Raises ValueError for a column that is not the station's to write."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("granularity", "minimum"):
            changes[f"{name}_s"] = value.total_seconds()
        elif name in PROTECTED or name not in lease.c:
            raise ValueError(f"a station does not write the column {name!r} of a lease")
        elif isinstance(value, str):
            changes[name] = clean(value)
        elif name in ("need", "ask", "facts", "offer", "decision"):
            changes[name] = plain(value)
        elif name == "image_verdict":
            changes[name] = kept(value)
        else:
            changes[name] = value
    if changes.get("credential") is not None:
        changes = {"credential_ticket": "", "credential_taken_at": None} | changes
    return changes


@functools.lru_cache(maxsize=1024)
def _key_of(pool: str, forge: str, scope: str, labels: str, for_job: str) -> DemandKey:
    return DemandKey(pool, forge, Scope.parse(scope), tuple(json.loads(labels)), for_job)


@functools.lru_cache(maxsize=1024)
def _need_of(text: str) -> Need:
    return need_of(json.loads(text))


@functools.lru_cache(maxsize=1024)
def _ask_of(text: str) -> Ask:
    return ask_of(json.loads(text))


def need_of(values: Mapping[str, Any]) -> Need:
    known = {part.name: values[part.name] for part in fields(Need) if part.name in values}
    price = known.get("max_price_per_hour")
    known["max_price_per_hour"] = None if price is None else Decimal(price)
    known["regions"] = frozenset(known.get("regions", ()))
    return Need(**known)


def ask_of(values: Mapping[str, Any]) -> Ask:
    known = {part.name: values[part.name] for part in fields(Ask) if part.name in values}
    known["regions"] = frozenset(known.get("regions", ()))
    return Ask(**known)


def facts_of(values: Mapping[str, Any]) -> NodeFacts:
    """A node's own report as a value. It may lie and it may be nonsense: what has the wrong type is left empty."""

    def text(name: str) -> str:
        value = values.get(name)
        return clean(value, 500) if isinstance(value, str) else ""

    cards = values.get("gpus")
    listed = cast("Sequence[object]", cards)[:64] if isinstance(cards, list | tuple) else ()
    return NodeFacts(
        gpus=tuple(_card(cast("Mapping[object, object]", card)) for card in listed if isinstance(card, Mapping)),
        driver=text("driver"),
        cuda=text("cuda"),
        architecture=text("architecture"),
        memory_mib=whole(values.get("memory_mib")),
        disk_free_mib=whole(values.get("disk_free_mib")),
        kernel=text("kernel"),
        cpus=whole(values.get("cpus")),
        problem=text("problem"),
        image=_image_of(values.get("image")),
    )


def _image_of(told: object) -> NodeImage | None:
    if not isinstance(told, Mapping):
        return None
    values = cast("Mapping[str, object]", told)
    texts = {name: values.get(name) for name in ("digest", "mode", "openssl", "problem")}
    keys = values.get("keys")
    listed = cast("Sequence[object]", keys)[:20] if isinstance(keys, list | tuple) else ()
    return NodeImage(
        **{name: clean(text, 500) if isinstance(text, str) else "" for name, text in texts.items()},
        checked=values.get("checked") is True,
        keys=tuple(clean(key, 200) for key in listed if isinstance(key, str)),
    )


def _card(card: Mapping[object, object]) -> dict[str, Any]:
    """One GPU: flat, short, and nothing but text, numbers and yes or no."""
    kept: dict[str, Any] = {}
    for key, value in list(card.items())[:32]:
        if isinstance(value, bool) or value is None:
            kept[clean(str(key), 60)] = value
        elif isinstance(value, int | float):
            kept[clean(str(key), 60)] = whole(value) if isinstance(value, int) else plain(value)
        else:
            kept[clean(str(key), 60)] = clean(str(value), 200)
    return kept


# --- the small ones

SPAN_COLUMNS = (span.c.state, span.c.entered_at, span.c.left_at, span.c.note)
CHARGE_COLUMNS = tuple(charge.c[part.name] for part in fields(Charge))


def span_of(row: Sequence[Any]) -> Span:
    """A row of SPAN_COLUMNS."""
    state, entered_at, left_at, note = row
    return Span(State(state), entered_at, left_at, note)


def charge_of(row: Sequence[Any]) -> Charge:
    """A row of CHARGE_COLUMNS."""
    lease_id, kind, *rest = row
    return Charge(lease_id, ChargeKind(kind), *rest)
