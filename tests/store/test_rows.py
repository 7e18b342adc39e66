"""Values survive the way into a row and back, exactly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import StatementError

from app.core.model import Ask, Lease, NodeFacts
from app.store.db import Database
from app.store.rows import PROTECTED, ask_of, clean, facts_of, lease_changes, need_of, plain, whole
from app.store.tables import audit, lease
from providers.contract import Need, Secret
from tests.store.nouns import NOW

text = st.text(max_size=20)
needs = st.builds(
    Need,
    gpu=st.none() | text,
    gpus=st.integers(0, 16),
    regions=st.frozensets(text, max_size=3),
    spot=st.none() | st.booleans(),
    max_price_per_hour=st.none() | st.decimals(0, 1000, places=6),
)


@given(needs)
def test_a_need_comes_back(need: Need) -> None:
    stored = json.loads(json.dumps(plain(need)))
    assert need_of(stored) == need_of(json.loads(json.dumps(plain(need_of(stored)))))
    assert need_of(stored).max_price_per_hour == need.max_price_per_hour


def test_an_ask_comes_back_and_keys_of_other_releases_are_passed_over() -> None:
    ask = Ask(spot=True, gpu="rubin", gpus=4, regions=frozenset({"sg"}))
    assert ask_of(plain(ask)) == ask
    assert ask_of({"spot": True, "colour": "red"}) == Ask(spot=True)
    assert need_of({"gpu": "rubin", "colour": "red"}) == Need(gpu="rubin")


def test_facts_come_back() -> None:
    facts = NodeFacts(gpus=({"name": "R100", "memory_mib": 288_000, "mig": None, "score": 1.5},), driver="600.1", cpus=8)
    assert facts_of(json.loads(json.dumps(plain(facts)))) == facts


def test_values_become_plain_json() -> None:
    @dataclass
    class Thing:
        amount: Decimal

    value = {
        "m": Decimal("0.0042"),
        "t": NOW,
        "d": timedelta(seconds=1.5),
        "s": {"b", "a"},
        "x": (1, None, True),
        "o": Thing(Decimal(1)),
    }
    assert plain(value) == {
        "m": "0.0042",
        "t": "2026-03-01T12:00:00Z",
        "d": 1.5,
        "s": ["a", "b"],
        "x": [1, None, True],
        "o": {"amount": "1"},
    }
    assert plain([math.nan, math.inf, 1.5]) == [None, None, 1.5]


@pytest.mark.parametrize("value", [Secret("word"), b"bytes", object(), {"deep": [Secret("word")]}])
def test_what_has_no_place_in_a_row_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        plain(value)


@given(st.text(st.characters(), max_size=50))
def test_clean_text_fits_every_database(value: str) -> None:
    kept = clean(value + "\x00\ud800", 40)
    assert "\x00" not in kept
    assert len(kept) <= 40
    kept.encode()


@pytest.mark.parametrize(
    ("value", "kept"), [(5, 5), (10**30, 2**31 - 1), (-(10**30), 1 - 2**31), (1.9, 1), (math.nan, 0), ("5", 0), (None, 0)]
)
def test_numbers_from_outside_fit_their_column(value: object, kept: int) -> None:
    assert whole(value) == kept


def test_every_field_of_a_lease_has_its_column() -> None:
    elsewhere = {"key", "granularity", "minimum", "credential_ready"}
    assert {part.name for part in fields(Lease)} - elsewhere <= {column.name for column in lease.c}
    assert {column.name for column in lease.c} >= PROTECTED


def test_a_station_writes_columns_by_their_own_names_or_by_the_fields() -> None:
    assert lease_changes({"granularity": timedelta(minutes=1), "minimum_s": 5.0}) == {"granularity_s": 60.0, "minimum_s": 5.0}
    assert lease_changes({"credential": b"x"}) == {"credential": b"x", "credential_ticket": "", "credential_taken_at": None}
    assert lease_changes({"credential": None}) == {"credential": None}


def test_times_are_kept_in_utc_and_never_without_a_zone(database: Database) -> None:
    plus = datetime(2026, 3, 1, 14, 0, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    with database.write() as conn:
        conn.execute(sa.insert(audit).values(at=plus, detail=None))
        found = conn.execute(sa.select(audit.c.at)).scalar_one()
        assert (found, found.tzinfo) == (plus, UTC)
        assert conn.execute(sa.select(audit.c.seq).where(audit.c.detail.is_(None))).all(), "None is NULL, not the JSON word"
        with pytest.raises(StatementError, match="without a zone"):
            conn.execute(sa.insert(audit).values(at=plus.replace(tzinfo=None)))
