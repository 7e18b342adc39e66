"""Replies of the API as its own models write them, so that these tests cannot drift from the service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from app.web.schema import Cost, JobView, LeaseView, Money, NodeView, PhaseView, QueueItem, RunnerView

Json = dict[str, Any]
BEGAN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
ID = "01jqlease000000000000000"


def written(kind: type[BaseModel], values: Json) -> Json:
    """As the API writes it. Every key must be one of the model's; new ones of the model may be missing here."""
    assert set(values) <= set(kind.model_fields), set(values) - set(kind.model_fields)
    return kind.model_construct(**values).model_dump(mode="json", warnings=False)


def job(**changed: Any) -> JobView:
    values: Json = {
        "id": "github-30021", "key": "30021", "url": "https://github.com/acme/train/actions/runs/9/job/30021",
        "name": "gpu-eval", "repository": "acme/train", "workflow": "evaluate", "branch": "main", "actor": "ana",
        "labels": ["gpu", "rubin"], "state": "completed", "conclusion": "success",
        "queued_at": BEGAN - timedelta(seconds=9), "started_at": BEGAN, "completed_at": BEGAN,
    }  # fmt: skip
    return JobView(**(values | changed))


def lease(**changed: Any) -> Json:
    """A busy lease with its job; keys may be changed."""
    phases = ["planned", "launching", "booting", "proving", "registering", "idle", "busy"]
    ends = [BEGAN + timedelta(seconds=number) for number in range(len(phases) + 1)]
    values: Json = {
        "id": ID, "name": "brave-otter-41", "state": "busy", "reason": None, "reason_text": "", "note": "", "pool": "demo",
        "forge": "demo", "scope": "repository:acme/train", "labels": ["gpu", "rubin"], "attempt": 1, "provider": "mine",
        "region": "here", "offer": None, "price_per_hour": Money(amount="2.1900", currency="USD"),
        "cost": Cost(amount="0.0042", currency="USD", estimate=True), "created_at": BEGAN, "entered_at": BEGAN,
        "deadline": None, "hard_end": BEGAN + timedelta(hours=1), "gone": False, "gone_at": None, "instance_id": "i-1",
        "runner": RunnerView(id="7", name="sublet-brave-otter-41"), "job": job(state="in_progress", conclusion=""),
        "phases": [
            PhaseView(phase=phase, started_at=ends[number], ended_at=ends[number + 1], measured_by="sublet")
            for number, phase in enumerate(phases)
        ],
        "node": NodeView(facts=None, heartbeat_at=None), "pool_note": "asks for no GPU", "demo": True,
    }  # fmt: skip
    return written(LeaseView, values | changed)


def gone(**changed: Any) -> Json:
    """The same lease, released and proven gone, its job done."""
    ended: Json = {
        "state": "released", "reason": "job_done", "gone": True, "gone_at": BEGAN + timedelta(seconds=12), "job": job(),
        "cost": Cost(amount="0.0042", currency="USD", estimate=False),
    }  # fmt: skip
    return lease(**(ended | changed))


def waiting(**changed: Any) -> Json:
    values: Json = job(state="queued", conclusion="").model_dump() | {
        "pool": "demo", "wait": "The pool demo is at its ceiling of 1.", "not_ours": "", "waiting_since": BEGAN,
        "waiting_seconds": 250.0, "next_step": "Nothing to do.", "lease": None, "demo": True,
    }  # fmt: skip
    return written(QueueItem, values | changed)
