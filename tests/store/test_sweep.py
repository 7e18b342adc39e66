"""What the sweep remembers, what it clears away, and the beacons."""

from __future__ import annotations

import string
from datetime import timedelta

import sqlalchemy as sa

from app.store import beacons, jobs, people, sweep
from app.store.db import Database
from app.store.jobs import Recorded
from tests.store.nouns import NOW, SECOND, a_job, told
from tests.store.test_leases import together

APART = timedelta(seconds=60)


def test_a_stranger_counts_only_when_it_was_seen_twice_long_enough_apart(database: Database) -> None:
    assert sweep.sight(database, "provider:fake", {"a", "b"}, NOW, APART) == set()
    assert sweep.sight(database, "provider:fake", {"a", "b"}, NOW + 59 * SECOND, APART) == set()
    assert sweep.sight(database, "provider:fake", {"a", "c"}, NOW + 60 * SECOND, APART) == {"a"}
    assert sweep.sight(database, "provider:fake", {"a", "b"}, NOW + 120 * SECOND, APART) == {"a"}, "b was away between"
    assert sweep.sight(database, "provider:fake", set(), NOW + 180 * SECOND, APART) == set()
    assert sweep.sight(database, "provider:fake", {"a"}, NOW + 240 * SECOND, APART) == set(), "it was forgotten"


def test_the_same_name_at_two_places_is_two_things(database: Database) -> None:
    sweep.sight(database, "provider:one", {"a"}, NOW, APART)
    assert sweep.sight(database, "provider:two", {"a"}, NOW + APART, APART) == set()


def test_a_very_long_name_is_remembered_too(database: Database) -> None:
    names = {"x" * 900, "x" * 901, "bad\x00name"}
    sweep.sight(database, "provider:fake", names, NOW, APART)
    assert sweep.sight(database, "provider:fake", names, NOW + APART, APART) == names


def test_an_installation_has_one_unguessable_tag_for_ever(database: Database) -> None:
    tags = set(together(6, lambda _: sweep.installation(database, NOW)))
    assert tags == {sweep.installation(database, NOW + APART)}
    (tag,) = tags
    assert len(str(tag)) == 16
    assert set(str(tag)) <= set(string.ascii_lowercase + string.digits)


def test_what_nobody_asks_for_any_more_is_cleared_away(database: Database) -> None:
    people.ensure_person(database, "ada", "admin", NOW)
    for name in ("old", "new"):
        people.add_link(database, name, "ada", NOW)
        people.redeem_link(database, name, name, "csrf", NOW, timedelta(days=90 if name == "new" else 1))
    old, new = told(a_job()), told(a_job("2"))
    jobs.record(database, [old], NOW)
    later = NOW + timedelta(days=31)
    jobs.record(database, [new], later)
    assert sweep.tidy(database, later) == 4, "one delivery, one session, two links"
    assert sweep.tidy(database, later) == 0
    assert jobs.record(database, [new, old], later) == [Recorded.DUPLICATE, Recorded.RECORDED]
    assert people.session(database, "new", later) is not None


def test_a_beacon_is_one_row_that_is_lit_again(database: Database) -> None:
    scope, labels = "repository:acme/train", "gpu,rubin"
    assert beacons.get(database, "gitlab", scope, labels) is None
    beacons.put(database, "gitlab", scope, labels, "1", b"sealed", NOW)
    beacons.put(database, "gitlab", scope, labels, "2", None, NOW + SECOND)
    beacons.put(database, "gitlab", scope, "cpu", "3", b"secret", NOW)
    found = beacons.get(database, "gitlab", scope, labels)
    assert found == beacons.Beacon("gitlab", scope, labels, "2", None, NOW + SECOND)
    assert [one.runner_id for one in beacons.listing(database)] == ["3", "2"]
    assert "secret" not in repr(beacons.listing(database))
    assert beacons.remove(database, "gitlab", scope, labels)
    assert not beacons.remove(database, "gitlab", scope, labels)


def test_a_beacon_with_very_many_labels_is_found_again(database: Database) -> None:
    labels = ",".join(f"gpus:{number}" for number in range(200))
    beacons.put(database, "gitlab", "s" * 400, labels, "1", None, NOW)
    assert beacons.get(database, "gitlab", "s" * 400, labels) is not None
    assert beacons.get(database, "gitlab", "s" * 400, labels + "x") is None
    with database.read() as conn:
        assert conn.scalar(sa.text("SELECT count(*) FROM beacon")) == 1
