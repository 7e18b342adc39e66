"""The history of prices: the cheapest at every moment, the drawing's lines, and the file for spreadsheets."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.store.market import Price
from app.web.offers_chart import HEIGHT, MOST_LINES, WIDTH, as_csv, chart, lines
from tests.web.story import NOW

MINUTE = timedelta(minutes=1)


def price(offer: str, amount: str, since: int, until: int, **values: Any) -> Price:
    given: dict[str, Any] = {
        "provider": "cloud-a", "region": "sg", "gpu": "h100", "gpus": 1, "spot": False, "currency": "USD",
        "availability": "available",
    }  # fmt: skip
    return Price(
        offer=offer, price_per_hour=Decimal(amount), since=NOW + since * MINUTE, until=NOW + until * MINUTE, **given | values
    )


@pytest.mark.parametrize(
    ("rows", "steps"),
    [
        ([price("a", "2", 0, 100)], [(0, 100, "2")]),
        ([price("a", "2", 0, 100), price("b", "1.5", 20, 40)], [(0, 20, "2"), (20, 40, "1.5"), (40, 100, "2")]),
        ([price("a", "2", 0, 0)], [(0, 0, "2")]),
        ([price("a", "2", 0, 10), price("a", "3", 12, 30)], [(0, 12, "2"), (12, 30, "3")]),
        ([price("a", "2", 0, 10), price("a", "2", 12, 30)], [(0, 30, "2")]),
        ([price("a", "2", 0, 10), price("a", "2", 60, 90)], [(0, 10, "2"), (60, 90, "2")]),
        ([price("a", "16", 0, 50, gpus=8), price("b", "3", 0, 50)], [(0, 50, "2")]),
        ([price("a", "2", 0, 50), price("b", "1", 0, 50, availability="none")], [(0, 50, "2")]),
    ],
    ids=["one", "a cheaper one comes and goes", "a moment", "a turn", "seen twice", "a gap", "per GPU", "not to be had"],
)
def test_the_cheapest_at_every_moment(rows: list[Price], steps: list[tuple[int, int, str]]) -> None:
    (line,) = lines(rows)
    found = [((step.since - NOW) // MINUTE, (step.until - NOW) // MINUTE, Decimal(step.price.amount)) for step in line.steps]
    assert found == [(since, until, Decimal(amount)) for since, until, amount in steps]


def test_spot_and_on_demand_and_each_gpu_have_lines_of_their_own() -> None:
    rows = [
        price("a", "2", 0, 9), price("a", "1", 0, 9, spot=True), price("c", "0.2", 0, 9, gpu="", gpus=0),
        price("a", "4", 0, 9, provider="cloud-b"), price("a", "2", 0, 9, currency="EUR"),
    ]  # fmt: skip
    named = [(line.gpu, line.spot, line.per, line.currency) for line in lines(rows)]
    assert named == [
        ("", False, "machine", "USD"), ("h100", True, "gpu", "USD"), ("h100", False, "gpu", "USD"),
        ("h100", False, "gpu", "EUR"),
    ]  # fmt: skip
    assert [line.provider for line in lines(rows, by_provider=True)].count("cloud-b") == 1
    assert lines([]) == []


def test_the_drawing_stays_in_its_frame() -> None:
    rows = [price("a", "2", 0, 10), price("a", "3", 60, 60), price("b", "0.0001", 20, 30, spot=True)]
    drawn = chart(lines(rows), NOW + 100 * MINUTE)
    assert drawn is not None and (drawn.since, drawn.top.amount, drawn.middle.amount) == (NOW, "4.0000", "2.0000")
    path = next(stroke.path for stroke in drawn.strokes if stroke.name == "h100 on demand")
    assert path == "M0.0 80.0H100.0M600.0 41.0H603.0", "two pieces, and the moment can be seen"
    for stroke in drawn.strokes:
        numbers = [float(word) for word in stroke.path.replace("M", " ").replace("H", " ").replace("V", " ").split()]
        assert all(0 <= number <= max(WIDTH, HEIGHT) for number in numbers)


def test_the_drawing_has_room_for_some_and_says_how_many_it_hides() -> None:
    found = lines([price("a", str(place + 1), 0, 9, gpu=f"g{place}") for place in range(MOST_LINES + 3)])
    drawn = chart(found, NOW + 9 * MINUTE)
    assert drawn is not None and (len(drawn.strokes), drawn.hidden) == (MOST_LINES, 3)
    mixed = lines([price("a", "1", 0, 9, currency="EUR"), price("a", "2", 0, 9), price("b", "2", 0, 9, spot=True)])
    drawn = chart(mixed, NOW + 9 * MINUTE)
    assert drawn is not None and {stroke.now.currency for stroke in drawn.strokes} == {"USD"} and drawn.hidden == 1
    assert chart([], NOW) is None


def test_free_machines_can_be_drawn() -> None:
    drawn = chart(lines([price("a", "0", 0, 9)]), NOW + 9 * MINUTE)
    assert drawn is not None and drawn.top.amount == "1.0000"


def test_a_spreadsheet_takes_no_offer_for_a_formula() -> None:
    text = as_csv([price('=cmd|"calc"', "2", 0, 9), price("-1+1", "0.5000", 0, 9, spot=True)])
    header, first, second = list(csv.reader(io.StringIO(text)))
    assert header[:3] == ["provider", "offer", "region"] and len(header) == len(first)
    assert (first[1], second[1], second[5], second[6]) == ('\'=cmd|"calc"', "'-1+1", "true", "0.5000")
    assert first[9] == "2026-11-21T12:16:05Z"
