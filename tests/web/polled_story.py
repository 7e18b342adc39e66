"""A site with two forges: Forgejo is polled only, Gitea sends webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from app.core.listening import Listening
from app.core.model import DemandKey, Job, JobState, Lease, Reason, Run
from app.core.policy import Plan
from app.core.states import State
from app.forges.contract import Forge
from app.forges.forgejo import ForgejoForge
from app.forges.gitea import GiteaForge
from app.store import jobs, leases, runs
from app.store.db import Database
from providers.contract import Health, Secret
from tests.web.story import LABELS, NOW, SCOPE, STEPS, a_lease, move

LISTENING: Mapping[str, Listening] = {
    "forgejo": Listening(webhooks=False, poll=timedelta(seconds=15)),
    "gitea": Listening(poll=timedelta(minutes=5)),
}
HANDLE = "8c4fe2a0-6f3e-4d4e-9c1f-0a1b2c3d4e5f"
TOO_OLD = "forgejo-runner 12.1.0 is too old: Forgejo 15 pins runner and job from 12.8.0 on. Put a newer one into the image."


def forges() -> dict[str, Forge]:
    """Addresses that nobody asks."""
    forgejo = ForgejoForge(url="http://127.0.0.1:1", token=Secret("t" * 40), now=lambda: NOW)
    gitea = GiteaForge(url="http://127.0.0.1:1", token=Secret("t" * 40), now=lambda: NOW, webhook_secret=Secret("s" * 20))
    return {"forgejo": forgejo, "gitea": gitea}


async def answers() -> Health:
    return Health(True, "15.0.2, the token may read and write.")


PARTS: Mapping[str, Any] = {"forges": forges(), "listening": LISTENING, "forge_checks": {"forgejo": answers, "gitea": answers}}


def polled_job(number: int, state: JobState = JobState.QUEUED, **values: Any) -> Job:
    """A job of acme/train at Forgejo; its key is its handle."""
    key = f"{HANDLE[:-4]}{number:04x}"
    url = f"https://forgejo.example/acme/train/actions/runs/{number}/jobs/0"
    given: dict[str, Any] = {"labels": LABELS, "name": "gpu-eval", "workflow": "evaluate.yml", "url": url, "run_id": "9"}
    return Job(f"forgejo-{key}", "forgejo", key, "acme/train", state, **{**given, **values})


def heard(db: Database, job: Job, after: float, *, guid: str = "", wait: str = "") -> Job:
    """We hear of the job so long after its forge queued it; with a guid by webhook."""
    assert job.queued_at is not None
    return noticed(db, job, job.queued_at.timestamp() + after - NOW.timestamp(), guid=guid, wait=wait)


def noticed(db: Database, job: Job, since: float, *, guid: str = "", wait: str = "") -> Job:
    """We hear of the job so many seconds after NOW (mostly before it)."""
    at = NOW + timedelta(seconds=since)
    jobs.record(db, [jobs.Record(job.forge, guid, "workflow_job" if guid else "poll", str(job.state), job)], at)
    jobs.place(db, job.id, pool="rubin", scope=SCOPE, not_ours="")
    runs.tell(db, [(job, Run(job.forge, job.repository, job.run_id, job.attempt, "push"))], lambda _: "", at)
    if wait:
        leases.plan(db, lambda _: Plan(waits={job.id: wait}), at)
    found = jobs.get(db, job.id)
    assert found is not None
    return found


def pinned(db: Database, number: int, name: str, job: Job, state: State, began: float) -> Lease:
    """A lease for this one job, as far as `state`, planned so many seconds after NOW."""
    key = DemandKey("rubin", "forgejo", SCOPE, LABELS, job.id)
    start = NOW + timedelta(seconds=began)
    lease = a_lease(number, name, start, key=key)
    leases.plan(db, lambda _: Plan((lease,)), start)
    for step, seconds, written in STEPS:
        at = start + timedelta(seconds=seconds)
        more: dict[str, Any] = {
            **written,
            "asked_at": at,
            "hard_end": start + timedelta(hours=1),
            "runner_name": f"sublet-{name}",
        }
        lease = move(db, lease.id, step, at, **(more if step is State.LAUNCHING else written))
        if step is state:
            break
    return lease


def refused(db: Database, number: int, name: str, job: Job, why: str, *, own_words: bool = True) -> Lease:
    """The lease of a job whose machine has a runner that is too old."""
    lease = pinned(db, number, name, job, State.REGISTERING, -200)
    at = NOW - timedelta(seconds=90)
    text = why if own_words else "The node gave up."
    return move(db, lease.id, State.DRAINING, at, Reason.RUNNER_FAILED, text, runner_why=why, runner_exited_at=at)


def quiet_network(db: Database) -> None:
    """One job that has its machine, one that waits, one whose machine has an old runner, and one that Gitea told of."""
    first = heard(db, polled_job(1, queued_at=NOW - timedelta(seconds=170)), 9)
    lease = pinned(db, 1, "brave-otter-41", first, State.BUSY, -155)
    started = polled_job(1, JobState.IN_PROGRESS, started_at=NOW - timedelta(seconds=36), runner_name="sublet-brave-otter-41")
    noticed(db, started, -35)
    assert lease.key.job == first.id
    second = heard(db, polled_job(2, name="nightly", queued_at=NOW - timedelta(seconds=40)), 14)
    leases.plan(db, lambda _: Plan(waits={second.id: "Lease swift-hare-02 is planned for it."}), NOW - timedelta(seconds=20))
    third = heard(db, polled_job(3, name="release", queued_at=NOW - timedelta(seconds=230)), 4)
    refused(db, 3, "dull-crow-90", third, TOO_OLD)
    url = "https://gitea.example/acme/train/actions/runs/7/jobs/0"
    plain = Job("gitea-7", "gitea", "7", "acme/train", JobState.QUEUED, labels=LABELS, name="gpu-tests", run_id="7", url=url)
    heard(db, replace(plain, queued_at=NOW - timedelta(minutes=1)), 1, guid="a", wait="The pool rubin takes it up next.")
    late = replace(plain, id="gitea-8", key="8", name="lint", queued_at=NOW - timedelta(minutes=6))
    heard(db, late, 260, wait="The pool rubin takes it up next.")
