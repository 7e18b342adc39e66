"""Plain values that the stories about decisions start from."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.core.model import DemandKey, Job, JobState, Lease, Pool, Scope, ScopeKind
from app.core.states import State
from providers.contract import Availability, Need, Offer

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TRAIN = Scope(ScopeKind.REPOSITORY, "acme/train")
KEY = DemandKey("gpu", "github", TRAIN, ("gpu", "rubin"))


def pool(name: str = "gpu", **values: Any) -> Pool:
    given: dict[str, Any] = {"labels": frozenset({"gpu", "rubin"}), "need": Need(), "ceiling": 3}
    return Pool(name, **{**given, **values})


def job(number: int, **values: Any) -> Job:
    given: dict[str, Any] = {
        "state": JobState.QUEUED,
        "labels": ("gpu", "rubin"),
        "pool": "gpu",
        "scope": TRAIN,
        "queued_at": NOON + timedelta(seconds=number),
        "cleared_at": NOON,
    }
    return Job(f"github-{number}", "github", str(number), "acme/train", **{**given, **values})


def lease(number: int, state: State = State.BOOTING, **values: Any) -> Lease:
    given: dict[str, Any] = {
        "key": KEY,
        "state": state,
        "attempt": 1,
        "tag": f"sublet-{number}",
        "created_at": NOON + timedelta(seconds=number),
        "entered_at": NOON,
        "deadline": None,
        "due": NOON,
    }
    return Lease(f"lease-{number}", f"calm-fox-{number:02d}", **{**given, **values})


def offer(name: str, price: str = "2", **values: Any) -> Offer:
    given: dict[str, Any] = {
        "provider": "cloud",
        "region": "sg",
        "price_per_hour": Decimal(price),
        "currency": "USD",
        "seen_at": NOON,
        "availability": Availability.AVAILABLE,
    }
    return Offer(name, **{**given, **values})
