"""Every process says that it lives; whoever is silent for long is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from app.store import replicas
from app.store.db import Database
from app.store.replicas import FORGOTTEN, Replica
from tests.store.nouns import NOW

ENGINE = Replica("engine-a", "engine", "1", NOW, NOW, NOW)
WEB = Replica("web-b", "web", "1", NOW, NOW)


def test_each_says_of_itself_what_it_likes_and_leaves(database: Database) -> None:
    replicas.tell(database, ENGINE)
    replicas.tell(database, WEB)
    later = replace(WEB, seen_at=NOW + timedelta(seconds=5), note="Its clock is wrong.\x00")
    replicas.tell(database, later)
    assert replicas.listing(database) == [ENGINE, replace(later, note="Its clock is wrong.\ufffd")]
    replicas.leave(database, "web-b")
    replicas.leave(database, "web-b")
    assert replicas.listing(database) == [ENGINE]
    assert ENGINE.moves_leases and not WEB.moves_leases


def test_whoever_was_silent_for_long_is_forgotten(database: Database) -> None:
    replicas.tell(database, ENGINE)
    replicas.tell(database, replace(WEB, seen_at=NOW + FORGOTTEN))
    assert len(replicas.listing(database)) == 2
    replicas.tell(database, replace(WEB, seen_at=NOW + FORGOTTEN + timedelta(seconds=1)))
    assert [one.name for one in replicas.listing(database)] == ["web-b"]


def test_the_database_s_own_time_is_in_utc(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    first = database.time()
    assert first.utcoffset() == timedelta(0)
    assert database.time() > first
    database.close()
