"""Hints between processes, on a real PostgreSQL: fast, few however many rings, and back by themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psycopg
import pytest

from app.store.db import Database
from app.store.herald import APART, Herald
from tests.parts.postgres import plain

PATIENCE = 10.0


class Ear:
    """Counts what a herald tells, and wakes whoever waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.heard = 0

    def __call__(self) -> None:
        with self._changed:
            self.heard += 1
            self._changed.notify_all()

    def wait(self, there: Callable[[int], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: there(self.heard), PATIENCE), f"heard {self.heard} times"


@contextmanager
def herald(database: Database, ear: Ear) -> Generator[Herald]:
    """One process's herald, listening."""
    one = Herald(database)
    one.start(ear)
    ear.wait(lambda heard: heard == 1)  # what it says of itself once it listens
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def shared(postgresql_url: str) -> Generator[Database]:
    database = Database(postgresql_url)
    yield database
    database.close()


def test_a_ring_is_heard_by_the_others_and_not_by_its_own_process(shared: Database) -> None:
    here, there, elsewhere = Ear(), Ear(), Ear()
    with herald(shared, here) as own, herald(shared, there), herald(shared, elsewhere):
        own.ring()
        there.wait(lambda heard: heard == 2)
        elsewhere.wait(lambda heard: heard == 2)
    assert here.heard == 1


def test_a_thousand_rings_are_few_hints_and_the_last_is_not_lost(shared: Database) -> None:
    here, there = Ear(), Ear()
    with herald(shared, here) as own, herald(shared, there):
        for _ in range(1000):
            own.ring()
        there.wait(lambda heard: heard >= 2)
        own.ring()
    assert 2 <= there.heard <= 5 + 1 / APART


def test_a_lost_connection_comes_back_and_counts_as_a_hint(shared: Database, postgresql_url: str) -> None:
    here, there = Ear(), Ear()
    with herald(shared, here) as own, herald(shared, there):
        with psycopg.connect(plain(postgresql_url), autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'SET synchronous_commit%'"
            )
        here.wait(lambda heard: heard == 2)
        there.wait(lambda heard: heard == 2)
        assert own.connected
        own.ring()
        there.wait(lambda heard: heard == 3)


def test_a_database_that_is_away_holds_up_nobody(shared: Database) -> None:
    away = Database("postgresql://ada:word@127.0.0.1:1/x")
    one = Herald(away)
    one.start(Ear())
    for _ in range(100_000):
        one.ring()
    assert not one.connected
    one.close()
    away.close()
