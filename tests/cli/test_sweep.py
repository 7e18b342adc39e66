"""`sweep`: what people read of the last look at each provider, and their word on what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from app.web.schema import Money
from app.web.sweep_views import StrayView, SweepReply, SweepView
from tests.cli.conftest import Run, Service
from tests.cli.samples import BEGAN


def stray(number: int, **changed: Any) -> StrayView:
    values: dict[str, Any] = {
        "instance_id": f"i-{number}", "tag": f"sublet-keen-stoat-{number:02}-abc", "created_at": BEGAN, "found_at": BEGAN,
        "busy_at": None, "confirmed_at": None, "asked_at": None, "tries": 0, "waits": True,
        "cost": Money(amount="0.7500", currency="USD"),
    }  # fmt: skip
    return StrayView(**(values | changed))


@pytest.fixture
def stopped(service: Service) -> Service:
    """Five strays at cloud-a wait for a word, and one is on its way."""
    waiting = [stray(number) for number in range(5)]
    found = [*waiting, stray(9, asked_at=BEGAN, tries=3, waits=False, cost=None)]
    told = SweepView(
        provider="cloud-a", at=BEGAN, listed=12, owned=6, held=5, stopped_at=BEGAN, trouble="", strays=found
    )  # fmt: skip
    service.says("GET sweep", SweepReply(providers=[told]).model_dump(mode="json"))
    service.says("POST sweep/cloud-a/confirm", {"schema_version": 1, "provider": "cloud-a", "confirmed": 5})
    return service


def test_sweep_shows_what_each_provider_has_and_what_is_nobodys(sublet: Run, stopped: Service) -> None:
    told = sublet("sweep")
    header, row = told.out.splitlines()[:2]
    assert header.split() == ["PROVIDER", "LISTED", "OF", "LEASES", "STRAYS", "HELD", "BACK", "LAST", "LIST", "TROUBLE"]
    assert row.split()[:5] == ["cloud-a", "12", "6", "6", "5"]
    assert "being destroyed, asked 3 times" in told.out and "$0.7500" in told.out
    assert "5 of cloud-a wait for your word: sublet sweep confirm cloud-a" in told.err


def test_a_word_is_about_exactly_what_was_shown(sublet: Run, stopped: Service) -> None:
    assert sublet("sweep", "confirm", "cloud-a").code == 2, "nobody is here to say yes"
    told = sublet("sweep", "confirm", "cloud-a", "--yes", "--reason", "old backup")
    assert told.code == 0 and "5 may go" in told.out and "i-9" not in told.out
    body = {"instances": [f"i-{number}" for number in range(5)], "reason": "old backup"}
    assert stopped.asked[-1] == ("POST sweep/cloud-a/confirm", body)
    sublet("sweep", "confirm", "cloud-a", "--yes", "--instance", "i-3")
    assert stopped.asked[-1][1]["instances"] == ["i-3"]


@pytest.mark.parametrize(("words", "code"), [(("cloud-b",), 3), (("cloud-a", "--instance", "i-9"), 5)])
def test_a_word_about_nothing_is_refused(sublet: Run, stopped: Service, words: tuple[str, ...], code: int) -> None:
    assert sublet("sweep", "confirm", *words, "--yes").code == code
