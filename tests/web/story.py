"""A small company's afternoon in the database: what the pages are looked at with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.billing import close
from app.core.images import Evidence, ImageCheck, ImageVerdict, to_json
from app.core.model import DemandKey, Job, JobState, Lease, Reason, Run, Scope, ScopeKind
from app.core.policy import Plan
from app.core.states import State
from app.store import jobs, lease_views, leases, ledger, nodes, runs, strays, surveys
from app.store.db import Database
from providers.contract import Need

NOW = datetime(2026, 11, 21, 12, 16, 5, tzinfo=UTC)
HOLD = timedelta(seconds=90)
LABELS = ("gpu", "rubin")
SCOPE = Scope(ScopeKind.REPOSITORY, "acme/train")
KEY = DemandKey("rubin", "github", SCOPE, LABELS)
NEED = Need(gpu="rubin", gpus=1, gpu_memory_gib=80, max_price_per_hour=Decimal("9.50"), min_driver="570.86")
INDEX, AMD64, CONFIG = (f"sha256:{letter * 64}" for letter in "9d4")
IMAGE = ImageVerdict(
    asked="registry.acme.example/ci/gpu:v3",
    allowed=True,
    reference=f"registry.acme.example/ci/gpu@{INDEX}",
    digest=INDEX,
    manifests=(("amd64", AMD64, CONFIG),),
    checks=(
        ImageCheck("registry", "registry.acme.example", "registry.acme.example", True),
        ImageCheck("tag", "v3", INDEX, True),
        ImageCheck("signature", "cosign.pub (SHA256:2Zr9Yk)", "cosign.pub (SHA256:2Zr9Yk)", True),
    ),
    evidence=(
        Evidence(
            "cosign tag", True, "cosign.pub (SHA256:2Zr9Yk)", NOW - timedelta(days=3), 7_041_992, "", b"{}", b"x", "PEM", INDEX
        ),
        Evidence("cosign tag", False, "", None, None, "none of the pool's keys made it", digest=INDEX),
    ),
    why=f"{INDEX[:19]}… is signed by cosign.pub (SHA256:2Zr9Yk).",
    at=NOW - timedelta(minutes=16),
)
UNSIGNED = replace(
    IMAGE,
    allowed=False,
    reference="",
    checks=(*IMAGE.checks[:2], ImageCheck("signature", "cosign.pub (SHA256:2Zr9Yk)", "no signature", False)),
    evidence=(),
    why=f"{INDEX[:19]}… is not signed: neither its signature tag nor what is attached to it holds a signature.",
    code="unsigned",
)
FACTS: Mapping[str, Any] = {
    "gpus": [{"name": "NVIDIA Rubin R100", "memory_mib": 294_912, "architecture": "Rubin", "uuid": "GPU-1", "mig": False}],
    "driver": "610.12",
    "cuda": "14.1",
    "architecture": "amd64",
    "memory_mib": 262_144,
    "disk_free_mib": 819_200,
    "kernel": "6.12.9",
    "cpus": 32,
    "problem": "",
    "image": {
        "digest": AMD64, "mode": "contained", "checked": True, "openssl": "OpenSSL 3.5.4", "keys": ["SHA256:2Zr9Yk"],
        "problem": "",
    },
}  # fmt: skip
OFFER: Mapping[str, Any] = {
    "id": "r100-1x", "provider": "cloud-a", "region": "eu-north-1", "price_per_hour": "2.19", "currency": "USD",
    "gpu": "rubin", "gpus": 1, "gpu_memory_gib": 288, "title": "R100 1x", "spot": True, "own": False,
}  # fmt: skip


def verdict(provider: str, title: str, region: str, price: str, rule: str = "", detail: str = "") -> dict[str, Any]:
    return {
        "provider": provider, "offer": title.lower().replace(" ", "-"), "title": title, "region": region,
        "price_per_hour": price, "passed": not rule, "rule": rule, "detail": detail,
    }  # fmt: skip


DECISION: Mapping[str, Any] = {
    "at": "2026-11-21T12:00:05+00:00",
    "seen": 9,
    "passed": 2,
    "quote_age_seconds": 12.4,
    "chosen": {"provider": "cloud-a", "offer": "r100-1x"},
    "rejected": {"region": 3, "price": 2, "gpu-memory": 1, "cooling-down": 1},
    "verdicts": [
        verdict("cloud-a", "R100 1x", "eu-north-1", "2.19"),
        verdict("cloud-b", "1xR100", "eu-west-4", "2.35"),
        verdict("cloud-c", "1R100.80S", "fi-01", "1.99", "region", "is in fi-01, allowed: eu-north-1, eu-west-4"),
        verdict("cloud-d", "host 88213", "us-ca", "1.61", "region", "is in us-ca, allowed: eu-north-1, eu-west-4"),
        verdict("cloud-a", "R100 1x west", "eu-west-4", "2.19", "cooling-down", "2 failed lately, until 12:30:00 UTC"),
        verdict("cloud-d", "host 11201", "us-va", "1.44", "region", "is in us-va, allowed: eu-north-1, eu-west-4"),
        verdict("cloud-b", "1xR100 big", "eu-west-4", "11.20", "price", "11.20 USD/h, cap 9.50"),
    ],
}
LOG = (
    ("boot", "start-up script: agent 9f2c4e1d checked, handing over"),
    ("agent", "joined as brave-otter-41"),
    ("agent", "nvidia-smi: 1 x NVIDIA Rubin R100, driver 610.12, CUDA 14.1"),
    ("agent", "credential fetched; starting the runner as sublet-job"),
    ("runner", "√ Connected to GitHub"),
    ("runner", "2026-11-21 12:02:01Z: Listening for Jobs"),
    ("runner", "2026-11-21 12:02:03Z: Running job: gpu-eval"),
)


def a_job(number: int, state: JobState = JobState.QUEUED, **values: Any) -> Job:
    """A job of acme/train."""
    given: dict[str, Any] = {
        "labels": LABELS, "name": "gpu-eval", "workflow": "evaluate", "branch": "main", "actor": "ana",
        "url": f"https://github.example/acme/train/actions/runs/9/job/{number}", "run_id": "9", "sha": "c0ffee" * 6,
    }  # fmt: skip
    return Job(f"github-{number}", "github", str(number), "acme/train", state, **{**given, **values})


def record(db: Database, job: Job, at: datetime, *, pool: str | None = "rubin", not_ours: str = "", wait: str = "") -> None:
    """A delivery came, and the engine placed it."""
    jobs.record(db, [jobs.Record("github", f"{job.id}-{job.state}", "workflow_job", str(job.state), job)], at)
    if pool or not_ours:
        scope = SCOPE if pool else None
        jobs.place(db, job.id, pool=pool, scope=scope, not_ours=not_ours)
    if pool:
        runs.tell(db, [(job, Run(job.forge, job.repository, job.run_id, job.attempt, "push"))], lambda _: "", at)
    if wait:
        leases.plan(db, lambda _: Plan(waits={job.id: wait}), at)


def a_lease(number: int, name: str, at: datetime, **values: Any) -> Lease:
    """A planned lease, not written yet."""
    identity = f"{number:04x}5eed0000beef"
    given: dict[str, Any] = {
        "id": identity, "name": name, "key": KEY, "state": State.PLANNED, "attempt": 1, "tag": f"sublet-{name}",
        "created_at": at, "entered_at": at, "deadline": at + timedelta(minutes=10), "due": at, "need": NEED,
        "mode": "contained", "signed": True,
    }  # fmt: skip
    return Lease(**{**given, **values})


def plan(db: Database, number: int, name: str, at: datetime, **values: Any) -> Lease:
    """A planned lease."""
    lease = a_lease(number, name, at, **values)
    leases.plan(db, lambda _: Plan((lease,)), at)
    return lease


def move(
    db: Database, lease_id: str, to: State, at: datetime, reason: Reason | None = None, text: str = "", **values: Any
) -> Lease:
    """One step of its life, as the engine takes it."""
    held = next(one for one in leases.claim(db, "engine", at, 100, HOLD) if one.id == lease_id)
    note = values.pop("note", "")
    deadline = values.pop("deadline", at + timedelta(minutes=30))
    wide = {**values, **({"note": note} if note else {})}
    assert leases.move(db, held, to, reason=reason, text=text, values=wide, now=at, deadline=deadline, due=at)
    for other in lease_views.listing(db):
        if other.claim:
            leases.rest(db, other, until=at, note=other.note, values={}, failed=False, now=at)
    found = lease_views.get(db, lease_id)
    assert found is not None
    return found


STEPS: tuple[tuple[State, int, dict[str, Any]], ...] = (
    (State.LAUNCHING, 9, {"provider": "cloud-a", "region": "eu-north-1", "offer": OFFER, "decision": DECISION,
                          "price_per_hour": Decimal("2.19"), "image_digest": INDEX, "image_verdict": to_json(IMAGE)}),
    (State.BOOTING, 14, {"instance_id": "i-0f3a99b1"}),
    (State.PROVING, 72, {}),
    (State.REGISTERING, 78, {}),
    (State.IDLE, 116, {"runner_id": "5512"}),
    (State.BUSY, 119, {}),
    (State.DRAINING, 119 + 640, {}),
    (State.DESTROYING, 119 + 642, {}),
    (State.RELEASED, 119 + 655, {}),
)  # fmt: skip


def live_to(
    db: Database, number: int, name: str, state: State, began: datetime, job: int = 0, conclusion: str = "success",
    reason: Reason | None = None, text: str = "", slow: float = 1.0, **values: Any,
) -> Lease:  # fmt: skip
    """A lease that went the usual way as far as `state`, with its job if it has one; `began` is when the job was queued."""
    at = began + timedelta(seconds=4)
    lease = plan(db, number, name, at, **values)
    if job:
        record(db, a_job(job, queued_at=began), began + timedelta(seconds=1), wait=f"Lease {name} is planned for it.")
    for step, seconds, written in STEPS:
        if state is State.PLANNED:
            break
        at = began + timedelta(seconds=seconds * slow)
        changes: dict[str, Any] = {key: value for key, value in written.items() if lease.signed or not key.startswith("image_")}
        if step is State.LAUNCHING:
            changes |= {"decision": values.get("decision", DECISION)}
            changes |= {"asked_at": at, "hard_end": began + timedelta(minutes=60), "runner_name": f"sublet-{name}"}
        if step is State.PROVING:
            changes |= {"facts": FACTS, "facts_at": at, "joined_at": at, "heartbeat_at": at}
        if step is State.BUSY:
            changes["heartbeat_at"] = max(at, NOW - timedelta(seconds=3))
        if step is State.BUSY and job:
            started = a_job(job, JobState.IN_PROGRESS, started_at=at, runner_name=f"sublet-{name}", queued_at=began)
            record(db, started, at)
        if step is State.DRAINING and job:
            over = a_job(
                job, JobState.COMPLETED, started_at=began + timedelta(seconds=119), completed_at=at, conclusion=conclusion,
                runner_name=f"sublet-{name}", queued_at=began,
            )  # fmt: skip
            record(db, over, at)
        why = (reason or Reason.JOB_DONE) if step is State.DRAINING else None
        if step is State.RELEASED:
            changes["gone_at"] = at
        lease = move(db, lease.id, step, at, why, text if why else "", **changes)
        if step is state:
            break
    if state is State.RELEASED:
        ledger.book(db, lease.id, close(lease, lease_views.spans(db, lease.id)), at + timedelta(seconds=1))
        lease = replace(lease, booked_at=at)
    return lease


def failed(db: Database, number: int, name: str, began: datetime) -> Lease:
    """A lease whose machine never booted."""
    lease = plan(db, number, name, began)
    start: dict[str, Any] = {**STEPS[0][2], "asked_at": began, "hard_end": began + timedelta(hours=1)}
    move(db, lease.id, State.LAUNCHING, began + timedelta(seconds=2), **start)
    move(db, lease.id, State.BOOTING, began + timedelta(seconds=9), instance_id="i-0dead")
    late = began + timedelta(minutes=20)
    text = "The node said nothing for 20 min."
    move(db, lease.id, State.DESTROYING, late, Reason.BOOT_TIMEOUT, text)
    gone = late + timedelta(seconds=30)
    lease = move(db, lease.id, State.RELEASED, gone, gone_at=gone)
    ledger.book(db, lease.id, close(lease, lease_views.spans(db, lease.id)), gone)
    return lease


def refused(db: Database, number: int, name: str, at: datetime) -> Lease:
    """A lease whose image was signed by nobody: nothing was rented."""
    lease = plan(db, number, name, at)
    values = {"image_verdict": to_json(UNSIGNED), "image_digest": INDEX}
    return move(db, lease.id, State.RELEASED, at + timedelta(seconds=2), Reason.IMAGE_REFUSED, UNSIGNED.why, **values)


def bare(db: Database, number: int, name: str, began: datetime, **values: Any) -> Lease:
    """A lease of a pool that asks for no signature."""
    nothing: dict[str, Any] = {"mode": "bare", "signed": False}
    return live_to(db, number, name, State.BOOTING, began, **{**nothing, **values})


def afternoon(db: Database) -> dict[str, Lease]:
    """Everything at once: leases in every kind of state, jobs that wait, run, ended and are not ours."""
    minute = timedelta(minutes=1)
    told: dict[str, Lease] = {}
    for number, (name, ago) in enumerate((("calm-heron-07", 300), ("wise-lynx-12", 250), ("red-finch-33", 180)), 1):
        told[name] = live_to(db, number, name, State.RELEASED, NOW - ago * minute, job=30_000 + number)
    told["dull-crow-90"] = failed(db, 10, "dull-crow-90", NOW - 55 * minute)
    told["keen-stoat-64"] = live_to(
        db, 11, "keen-stoat-64", State.RELEASED, NOW - 40 * minute, job=30_011, conclusion="failure"
    )
    told["brave-otter-41"] = live_to(db, 12, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=16, seconds=1), job=30_021)
    told["swift-hare-02"] = live_to(db, 13, "swift-hare-02", State.BOOTING, NOW - timedelta(seconds=48))
    told["bold-newt-55"] = plan(db, 14, "bold-newt-55", NOW - timedelta(seconds=6), note="Asking 3 providers for offers.")
    otter = told["brave-otter-41"]
    began = NOW - timedelta(minutes=14)
    nodes.append_log(
        db, otter.id, [(place, began + timedelta(seconds=place), source, line) for place, (source, line) in enumerate(LOG)]
    )
    record(db, a_job(30_022, queued_at=NOW - 1 * minute, name="gpu-tests"), NOW - 1 * minute,
           wait="Lease swift-hare-02 is booting. The provider says: starting.")  # fmt: skip
    record(db, a_job(30_023, queued_at=NOW - 18 * minute, name="nightly", branch="release/2.4"), NOW - 18 * minute,
           wait="The pool rubin is at its ceiling of 3 machines; the next free place is this job's.")  # fmt: skip
    record(db, a_job(30_024, JobState.WAITING, name="deploy-model", queued_at=NOW - 2 * minute), NOW - 2 * minute)
    record(db, a_job(30_025, name="lint", labels=("self-hosted", "windows")), NOW - 9 * minute, pool=None,
           not_ours="No pool serves the label windows.")  # fmt: skip
    return told


def stuck(db: Database, since: timedelta = timedelta(minutes=20)) -> Lease:
    """grim-boar-13 costs 2.19 an hour and does not go."""
    at = NOW - since - timedelta(minutes=1)
    lease = plan(db, 77, "grim-boar-13", at)
    move(db, lease.id, State.LAUNCHING, at, **STEPS[0][2], asked_at=at)
    move(db, lease.id, State.BOOTING, at, instance_id="i-0ld")
    return move(db, lease.id, State.DESTROYING, NOW - since, Reason.BOOT_TIMEOUT, "Overdue.", note="cloud-a still shows it.")


def strangers(db: Database, count: int, *, listed: int = 20) -> list[str]:
    """So many strays at cloud-a, the first of them under the tag of grim-boar-13."""
    names = [f"i-{number}" for number in range(count)]
    made = NOW - timedelta(minutes=30)
    tags = {name: ("sublet-grim-boar-13" if name == "i-0" else f"sublet-nobody-{name}", made) for name in names}
    strays.find(db, "cloud-a", tags, NOW - timedelta(minutes=2))
    held = count if count > 3 else 0
    surveys.note(db, "cloud-a", listed=listed, owned=listed - count, held=held, now=NOW - timedelta(seconds=20))
    return names


def bad_day(db: Database) -> None:
    """The afternoon, a destroy that is stuck, and a sweep that waits for a person."""
    afternoon(db)
    stuck(db)
    strangers(db, 5)
