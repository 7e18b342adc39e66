"""Work that one engine does for all."""

from datetime import UTC, datetime, timedelta

from app.store import duties
from app.store.db import Database

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_of_two_engines_one_does_it_in_each_period(database: Database) -> None:
    assert duties.take(database, "survey", "one", NOW, MINUTE)
    assert not duties.take(database, "survey", "two", NOW, MINUTE)
    assert not duties.take(database, "survey", "two", NOW + MINUTE / 2, MINUTE)
    assert duties.take(database, "survey", "two", NOW + MINUTE, MINUTE), "whoever finds it due, whoever did it last"
    duties.done(database, "survey", NOW + MINUTE, "all read")
    assert [(one.holder, one.note) for one in duties.listing(database)] == [("two", "all read")]
