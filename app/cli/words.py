"""Values of the API -> the words that a terminal shows; nothing that a stranger wrote can steer the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from app.kit import words

NONE = "-"


def clean(text: object) -> str:
    """One line without control characters: job names and logs come from strangers."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def moment(text: str | None) -> datetime | None:
    """A time of the API; None for none."""
    return datetime.fromisoformat(text) if text else None


def duration(seconds: float | None) -> str:
    """`1.4 s`, `59 s`, `1 min 59 s`, `2 h 3 min`, `3 d 4 h`."""
    return NONE if seconds is None else words.duration(seconds)


def between(start: str | None, end: str | None, now: datetime) -> str:
    """How long from one time of the API to another, or to now."""
    since, until = moment(start), moment(end) or now
    return NONE if since is None else duration((until - since).total_seconds())


def clock(text: str | None) -> str:
    """`12:00:04`, UTC."""
    at = moment(text)
    return NONE if at is None else f"{at.astimezone(UTC):%H:%M:%S}"


def day(text: str | None) -> str:
    """`2026-03-01`, UTC."""
    at = moment(text)
    return NONE if at is None else f"{at.astimezone(UTC):%Y-%m-%d}"


def money(value: dict[str, Any] | None, *, digits: int = 4) -> str:
    """`$0.0042` from {"amount", "currency"}."""
    if not value:
        return NONE
    try:
        return words.money(Decimal(str(value["amount"])), clean(value.get("currency", "")), digits)
    except (InvalidOperation, KeyError):
        return NONE
