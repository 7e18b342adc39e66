"""Rows of the store -> the JSON that the API, the pages and the CLI all speak. Pure: times in, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from app.core.billing import Charge, accrued
from app.core.listening import Listening
from app.core.model import SERVED, Job, JobState, Lease, NodeFacts
from app.core.proof import prove
from app.core.states import ORDER, State
from app.core.verdicts import verdict_on, wanted
from app.store.audit import Entry
from app.store.board import LeaseRow, LeaseSheet, Overview, Queue
from app.store.leaks import Leaks
from app.web.hearing import TITLES, told_of
from app.web.image_views import image_view
from app.web.schema import (
    Attention,
    AuditView,
    Billing,
    ChargeView,
    CheckView,
    Cost,
    JobView,
    LeaseDetail,
    LeaseView,
    Money,
    NodeView,
    PhaseView,
    QueueItem,
    RunnerView,
    StartTimes,
    TriedView,
)
from app.web.words import LOOKS, because, plain

NONE: Mapping[str, str] = MappingProxyType({})
UNKNOWN: Mapping[str, Listening] = MappingProxyType({})


def money(amount: Decimal, currency: str) -> Money:
    return Money(amount=plain(amount), currency=currency)


def cost(lease: Lease, charges: Sequence[Charge], now: datetime) -> Cost:
    """What the books say once they are closed; before that what has accrued, marked as an estimate."""
    booked = sum((charge.amount for charge in charges), Decimal(0))
    amount = accrued(lease, now) if lease.booked_at is None else booked
    return Cost(amount=plain(amount), currency=lease.currency, estimate=lease.booked_at is None and lease.asked_at is not None)


def job_values(job: Job, listening: Mapping[str, Listening]) -> dict[str, Any]:
    labels = None if job.labels is None else list(job.labels)
    names = ("id", "key", "url", "name", "repository", "workflow", "branch", "actor", "conclusion", "queued_at", "started_at")
    told = told_of(job, listening)
    return {name: getattr(job, name) for name in names} | {
        "url": web_url(job.url), "labels": labels, "state": str(job.state), "completed_at": job.completed_at,
        "heard_by": told.by, "heard_after_seconds": told.after, "heard": told.words,
    }  # fmt: skip


def web_url(url: str) -> str:
    """Only an http address becomes a link: the forge's word is not trusted with `javascript:`."""
    return url if url.startswith(("https://", "http://")) else ""


def phases(row: LeaseRow, listening: Mapping[str, Listening] = UNKNOWN) -> list[PhaseView]:
    """The forge's wait first, with what hearing of it cost, then each state it has been in."""
    found: list[PhaseView] = []
    job, began = row.job, row.lease.created_at
    if job is not None and job.queued_at is not None and job.queued_at < began:
        note, forge = told_of(job, listening).words, row.lease.key.forge
        found.append(PhaseView(phase="queued", started_at=job.queued_at, ended_at=began, measured_by=forge, note=note))
    for span in row.spans:
        ended = span.entered_at if span.state is State.RELEASED else span.left_at
        found.append(
            PhaseView(phase=str(span.state), started_at=span.entered_at, ended_at=ended, measured_by="sublet", note=span.note)
        )
    return found


def facts(value: NodeFacts | None) -> dict[str, Any] | None:
    if value is None:
        return None
    names = ("driver", "cuda", "architecture", "memory_mib", "disk_free_mib", "kernel", "cpus", "problem")
    image = None if value.image is None else asdict(value.image)
    return {"gpus": [dict(gpu) for gpu in value.gpus]} | {name: getattr(value, name) for name in names} | {"image": image}


def _lease_values(
    row: LeaseRow, now: datetime, notes: Mapping[str, str], demo: bool, revoked: str, listening: Mapping[str, Listening]
) -> dict[str, Any]:
    lease = row.lease
    same = ("id", "name", "reason_text", "note", "attempt", "provider", "region", "created_at", "entered_at", "deadline")
    more = ("hard_end", "gone_at", "instance_id", "runner_why")
    values: dict[str, Any] = {name: getattr(lease, name) for name in (*same, *more)}
    return values | {
        "state": str(lease.state),
        "reason": str(lease.reason) if lease.reason else None,
        "pool": lease.key.pool,
        "forge": lease.key.forge,
        "scope": str(lease.key.scope),
        "labels": list(lease.key.labels),
        "offer": None if lease.offer is None else dict(lease.offer),
        "price_per_hour": None if lease.price_per_hour is None else money(lease.price_per_hour, lease.currency),
        "cost": cost(lease, row.charges, now),
        "billing": Billing(
            since=lease.asked_at,
            granularity_seconds=lease.granularity.total_seconds(),
            minimum_seconds=lease.minimum.total_seconds(),
        ),
        "gone": lease.state is State.RELEASED,
        "runner": RunnerView(id=lease.runner_id, name=lease.runner_name),
        "job": None if row.job is None else JobView(**job_values(row.job, listening)),
        "phases": phases(row, listening),
        "node": NodeView(facts=facts(lease.facts), heartbeat_at=lease.heartbeat_at),
        "pool_note": notes.get(lease.key.pool, ""),
        "demo": demo,
        "asked_text": lease.asked_text,
        "asked": "destroy" if lease.destroy_asked_at else "drain" if lease.drain_asked_at else "",
        "mode": lease.mode,
        "signed": lease.signed,
        "image_digest": lease.image_digest,
        "revoked": revoked,
        "for_job": lease.key.job,
    }


def lease_view(
    row: LeaseRow,
    now: datetime,
    notes: Mapping[str, str],
    demo: bool,
    revoked: Mapping[str, str] = NONE,
    listening: Mapping[str, Listening] = UNKNOWN,
) -> LeaseView:
    """`notes` are the pools' own, by name; `revoked` has a sentence for each lease, by id, whose image was; `listening`
    says how each forge's news come."""
    return LeaseView(**_lease_values(row, now, notes, demo, revoked.get(row.lease.id, ""), listening))


def lease_detail(
    sheet: LeaseSheet,
    now: datetime,
    notes: Mapping[str, str],
    demo: bool,
    revoked: Mapping[str, str] = NONE,
    listening: Mapping[str, Listening] = UNKNOWN,
    pinned: Job | None = None,
) -> LeaseDetail:
    """A lease whole, as its own page and `sublet lease show` have it. `pinned`: the job that it was made for alone."""
    lease = sheet.row.lease
    verdict = verdict_on(lease)
    values = _lease_values(sheet.row, now, notes, demo, revoked.get(lease.id, ""), listening)
    if sheet.row.job is None and pinned is not None:  # its job waits for it, though no runner has it yet
        values["phases"] = phases(replace(sheet.row, job=pinned), listening)
    return LeaseDetail(
        **values,
        need=need_values(lease),
        charges=[charge_view(charge) for charge in sheet.row.charges],
        audit=[audit_view(entry) for entry in sheet.audit],
        decision=None if lease.decision is None else dict(lease.decision),
        proof=[
            CheckView(what=check.what, asked=check.asked, seen=check.seen, passed=check.passed)
            for check in (() if lease.facts is None else prove(lease.need, lease.facts, wanted(lease)))
        ],
        image=None if verdict is None else image_view(verdict),
        containers=[image_view(replace(one.verdict, asked=one.asked)) for one in sheet.asked],
        typical_seconds={str(state): seconds for state, seconds in sheet.typical.items()},
        log_lines=sheet.log_lines,
        serves=serves(lease, sheet.row.job, pinned),
    )


def serves(lease: Lease, job: Job | None, pinned: Job | None) -> str:
    """Which job it was made for, or which it may take; empty of a pilot, which takes none."""
    key, one = lease.key, pinned or job
    if not key.forge:
        return ""
    if key.job:
        name = key.job if one is None else f"{one.repository} · {one.name or one.key}"
        return f"Made for {name} alone: {TITLES.get(key.forge, key.forge)} pins a runner to its job."
    over = job is not None or ORDER[lease.state] >= ORDER[State.DRAINING]
    return f"It {'could' if over else 'may'} take any waiting job in {key.scope.path} with the labels {', '.join(key.labels)}."


def need_values(lease: Lease) -> dict[str, Any]:
    """What was asked for, without what was left open."""
    need = lease.need
    price = need.max_price_per_hour
    values = {
        "gpu": need.gpu,
        "gpus": need.gpus,
        "gpu_memory_gib": need.gpu_memory_gib,
        "memory_gib": need.memory_gib,
        "disk_gib": need.disk_gib,
        "architecture": need.architecture,
        "regions": sorted(need.regions),
        "spot": need.spot,
        "max_price_per_hour": None if price is None else plain(price, 2),
        "min_driver": need.min_driver,
        "min_cuda": need.min_cuda,
        "gpu_architecture": need.gpu_architecture,
    }
    return {name: value for name, value in values.items() if value not in (None, 0, [])}


def charge_view(charge: Charge) -> ChargeView:
    return ChargeView(
        kind=str(charge.kind),
        since=charge.since,
        until=charge.until,
        price_per_hour=money(charge.price_per_hour, charge.currency),
        amount=money(charge.amount, charge.currency),
    )


def audit_view(entry: Entry) -> AuditView:
    return AuditView(seq=entry.seq, at=entry.at, actor=entry.actor, action=entry.action, text=entry.text)


def queue_items(
    queue: Queue,
    now: datetime,
    demo: bool,
    tried: Mapping[str, Sequence[TriedView]] = MappingProxyType({}),
    listening: Mapping[str, Listening] = UNKNOWN,
) -> list[QueueItem]:
    """Each job with its wait as a sentence, since when, and what to do about it; `tried` is what said no, by job id."""
    items: list[QueueItem] = []
    for row in queue.rows:
        job = row.job
        since = job.queued_at or job.seen_at if job.state in (JobState.WAITING, JobState.QUEUED) else None
        items.append(
            QueueItem(
                **job_values(job, listening),
                pool=job.pool,
                wait=wait_sentence(job),
                not_ours=job.not_ours,
                waiting_since=since,
                waiting_seconds=None if since is None else max((now - since).total_seconds(), 0.0),
                next_step=next_step(job, row.lease),
                lease=None if row.lease is None else RunnerView(id=row.lease.id, name=row.lease.name),
                demo=demo,
                provider="" if row.lease is None else row.lease.provider,
                tried=list(tried.get(job.id, ())),
            )
        )
    return items


def wait_sentence(job: Job) -> str:
    """Why it waits; never empty for a job that does."""
    if job.not_ours:
        return job.not_ours
    if job.state is JobState.WAITING:
        return "The forge holds it back: an approval or another job comes first."
    if job.state is not JobState.QUEUED:
        return ""
    if job.wait:
        return job.wait
    if job.pool is None:
        return "It was recorded and is matched to a pool next."
    if job.cleared_at is None:
        return "Its forge is asked where its code comes from and who set it going; nothing is rented before the answer."
    return f"The pool {job.pool} takes it up next."


def next_step(job: Job, lease: Lease | None) -> str:
    """One line that says what happens next, or what a person could do."""
    if job.not_ours:
        if "[[repository]]" in job.not_ours:
            return "Run it elsewhere, or change that rule and restart: then it is looked at again."
        return "Run it elsewhere, or add a [[pool]] that serves these labels."
    if job.state is JobState.COMPLETED:
        return ""
    if lease is not None:
        return f"Lease {lease.name} {LOOKS[lease.state].doing}."
    if job.state is JobState.WAITING:
        return "Approve it at the forge; Sublet rents nothing until then."
    if job.state is JobState.IN_PROGRESS:
        return "Another runner has it."
    if "ceiling" in job.wait:
        return f"Wait for a place, or raise `ceiling` of the pool {job.pool}."
    if "may not run" in job.wait or "cannot be verified" in job.wait:
        return f"Sign it, or change what the pool asks: `sublet image verify IMAGE --pool {job.pool}` shows every check."
    if "failed" in job.wait or "offer" in job.wait:
        return "Nothing to do now; `sublet doctor` checks the providers and the forge."
    return "Nothing to do: it goes on by itself."


def attention(board: Overview, leaks: Leaks, now: datetime, silent_seconds: float) -> list[Attention]:
    """What a person should look at: first what costs money and should not, then late or silent leases, failures, long waits."""
    found, stuck = leaking(leaks, now), {lease.id for lease in leaks.stuck}
    for row in board.live:
        lease = row.lease
        beat = lease.heartbeat_at
        if lease.id in stuck:
            continue  # told above
        if lease.deadline is not None and lease.deadline < now:
            text = f"{lease.name} {LOOKS[lease.state].doing} for longer than it may. {lease.note}".strip()
            found.append(Attention(kind="late", text=text, lease=lease.name, since=lease.deadline))
        elif beat is not None and _at_work(lease) and (now - beat).total_seconds() > silent_seconds / 2:
            found.append(Attention(kind="silent", text=f"The node of {lease.name} is silent.", lease=lease.name, since=beat))
    for row in board.recent:
        lease = row.lease
        if failed(lease) and (now - lease.entered_at).total_seconds() < 3600:
            text = f"{lease.name} ended without its job: {because(lease.reason)}. {lease.reason_text}".strip()
            found.append(Attention(kind="failed", text=text, lease=lease.name, since=lease.entered_at))
    for job in board.waiting:
        since = job.queued_at or job.seen_at
        if since is not None and job.state is JobState.QUEUED and (now - since).total_seconds() > 900:
            found.append(
                Attention(kind="waiting", text=f"{job.repository} · {job.name}: {wait_sentence(job)}", lease="", since=since)
            )
    return found[:20]


def leaking(leaks: Leaks, now: datetime) -> list[Attention]:
    """Sweeps that wait for a person, destroys that are stuck, and strays, each with its cost and what to run."""
    found: list[Attention] = []
    stopped = {survey.provider for survey in leaks.surveys.values() if survey.stopped_at is not None}
    for survey in leaks.surveys.values():
        if survey.stopped_at is not None:
            text = f"The sweep of {survey.provider} waits for you: {survey.held} of {survey.listed} instances have no lease."
            found.append(Attention(kind="sweep", text=text, since=survey.stopped_at, urgent=True, command="sublet sweep"))
    found += [
        Attention(
            kind="destroying",
            text=f"{lease.name} is not proven gone, and may still cost money. {lease.note}".strip(),
            lease=lease.name,
            since=lease.entered_at,
            urgent=True,
            cost=money(accrued(lease, now), lease.currency),
            command=f"sublet lease show {lease.name}",
        )
        for lease in leaks.stuck
    ]
    for stray in leaks.strays:
        charge = leaks.costs.get(stray.instance_id)
        if stray.provider in stopped and stray.waits(now):
            continue  # told above, all at once
        doing = "is being destroyed" if stray.asked_at else "still runs a job" if stray.busy_at else "is to be destroyed"
        found.append(
            Attention(
                kind="stray",
                text=f"{stray.tag or stray.instance_id} of {stray.provider} has no lease and {doing}.",
                since=stray.created_at or stray.found_at,
                urgent=True,
                cost=None if charge is None else money(charge.amount, charge.currency),
                command="sublet sweep",
            )
        )
    return found


def _at_work(lease: Lease) -> bool:
    return ORDER[lease.state] < ORDER[State.DRAINING]


def failed(lease: Lease) -> bool:
    """Whether it ended for a reason that speaks against it."""
    return lease.state is State.RELEASED and lease.reason is not None and lease.reason not in SERVED


def percentile(rising: Sequence[float], share: float) -> float | None:
    """By the nearest rank, of values in rising order; None of none."""
    return rising[min(len(rising) - 1, int(share * len(rising)))] if rising else None


def start_times(rising: Sequence[float]) -> StartTimes:
    return StartTimes(count=len(rising), p50_seconds=percentile(rising, 0.5), p95_seconds=percentile(rising, 0.95))
