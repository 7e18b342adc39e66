"""Values of the API -> the words that a terminal shows; nothing that a stranger wrote can steer the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

NONE = "-"
_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}


def clean(text: object) -> str:
    """One line without control characters: job names and logs come from strangers."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def moment(text: str | None) -> datetime | None:
    """A time of the API; None for none."""
    return datetime.fromisoformat(text) if text else None


def duration(seconds: float | None) -> str:
    """`1.4 s`, `59 s`, `1 min 59 s`, `2 h 3 min`, `3 d 4 h`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for size, unit, part, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // part} {small}"
    return f"{seconds:.0f} s"


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
        amount = f"{Decimal(str(value['amount'])):.{digits}f}"
    except (InvalidOperation, KeyError):
        return NONE
    currency = clean(value.get("currency", ""))
    return _SIGNS[currency] + amount if currency in _SIGNS else f"{amount} {currency}".rstrip()
