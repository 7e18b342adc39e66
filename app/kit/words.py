"""Durations and money as people read them: the pages and the command line say the same."""

from __future__ import annotations

from decimal import Decimal

SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}


def duration(seconds: float) -> str:
    """`1.4 s`, `9 s`, `1 min 59 s`, `2 h 3 min`, `3 d 4 h`; never bare seconds from a minute on."""
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {left} s" if left else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def money(amount: Decimal, currency: str, digits: int = 4) -> str:
    """`$0.5785`; a currency without a sign of its own follows the number."""
    text = f"{amount:.{digits}f}"
    sign = SIGNS.get(currency)
    return f"{sign}{text}" if sign else f"{text} {currency}".rstrip()
