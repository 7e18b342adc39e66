"""Words for values, and the pure parts of the lease page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.core.model import Reason
from app.core.states import State
from app.web.views import percentile, web_url
from app.web.why import why as why_of
from app.web.words import LOOKS, REASONS, TimeStyle, because, duration, money, plain, rate, relative
from tests.web.story import DECISION, NOW


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (-3, "0 s"), (0, "0 s"), (1.44, "1.4 s"), (9.0, "9 s"), (9.97, "10 s"), (59.4, "59 s"), (59.6, "1 min"),
        (119, "1 min 59 s"), (842, "14 min 2 s"), (3600, "1 h"), (7_380, "2 h 3 min"), (86_400, "1 d"), (273_700, "3 d 4 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_money_and_prices() -> None:
    assert money(Decimal("0.57849"), "USD") == "$0.5785" and money(Decimal(3), "CHF", 2) == "3.00 CHF"
    assert (
        rate(Decimal("2.19"), "USD") == "$2.19/h" and rate(Decimal("0.0021"), "EUR") == "€0.0021/h" and rate(None, "USD") == "–"
    )
    assert [plain(Decimal(text)) for text in ("0", "0.1", "2.190000", "0.123456", "1E+2")] == [
        "0.0000", "0.1000", "2.1900", "0.123456", "100.0000",
    ]  # fmt: skip


def test_relative_times_are_coarse() -> None:
    spans = {
        0: "now",
        -4: "4 s ago",
        -59: "59 s ago",
        -245: "4 min ago",
        2_679: "in 44 min",
        -7_000: "1 h ago",
        200_000: "in 2 d",
    }
    for seconds, text in spans.items():
        assert relative(NOW + timedelta(seconds=seconds), NOW) == text


def test_another_day_is_named_and_the_other_ways_are_in_the_hint() -> None:
    style = TimeStyle("utc", "Asia/Singapore")
    yesterday = datetime(2026, 11, 20, 23, 59, 58, tzinfo=UTC)
    assert style.text(yesterday, NOW) == "20 Nov 23:59:58 UTC"
    assert style.hint(yesterday, NOW) == "2026-11-21 07:59:58 +08 · 12 h ago"
    assert TimeStyle("local", "Asia/Singapore").text(yesterday, NOW) == "07:59:58 +08"
    assert TimeStyle().text(yesterday.replace(year=2025), NOW) == "20 Nov 2025 23:59:58 UTC"


def test_every_state_and_reason_has_words() -> None:
    assert set(LOOKS) == set(State) and set(REASONS) == set(Reason)
    assert because("boot_timeout") == "the machine did not boot in time" and because("some_new_one") == "some new one"
    assert because(None) == ""


def test_why_ranks_explains_and_counts() -> None:
    why = why_of(DECISION)
    assert why is not None and [row.verdict for row in why.rows[:5]] == ["chosen", "passed", "rejected", "rejected", "skipped"]
    assert why.rows[1].reason == "+0.16 per hour" and why.rows[6].reason == "price: 11.20 USD/h, cap 9.50"
    assert why_of(None) is None and why_of({}) is None


@pytest.mark.parametrize(
    ("chosen", "passed", "start"),
    [
        (None, 0, "No offer was taken: 9 offers looked at, 9 rejected."),
        (None, 2, "None of the 2 offers that passed could be had."),
        ({"provider": "cloud-a", "offer": "r100-1x"}, 1, "The only offer that passed every rule."),
        ({"provider": "cloud-b", "offer": "1xr100"}, 2, "Number 2, after better ones could not be had, of 2 offers"),
    ],
)
def test_why_in_one_sentence(chosen: dict[str, str] | None, passed: int, start: str) -> None:
    why = why_of({**DECISION, "chosen": chosen, "passed": passed})
    assert why is not None and why.sentence.startswith(start)


def test_percentiles_by_nearest_rank() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.5, 0.95)] == [1.0, 3.0, 4.0]


def test_only_http_addresses_become_links() -> None:
    assert web_url("https://github.example/x") and not web_url("javascript:alert(1)") and not web_url("data:text/html,x")
