"""Images in the store: verdicts come back whole, a revocation counts at once, and `signed = false` is written down once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from app.core.images import Evidence, ImageVerdict, to_json, verdict_of
from app.core.model import NodeImage
from app.core.states import State
from app.store import audit, images, lease_views, leases
from app.store.db import Database
from app.store.images import MOST_ASKED
from app.store.rows import facts_of, kept, plain
from tests.core.test_verdicts import BAD, GOOD, INDEX
from tests.store.nouns import HOLD, NOW, SECOND, a_lease, planned

LONG = replace(
    GOOD, evidence=(Evidence("provenance", True, "ci", NOW, None, "", b"{" + b"x" * 40_000 + b"}", b"s", "PEM", INDEX),)
)


def test_a_verdict_on_a_lease_comes_back_whole_however_long(database: Database) -> None:
    planned(database, a_lease(mode="contained", signed=True))
    (held,) = leases.claim(database, "engine", NOW, 10, HOLD)
    assert (held.mode, held.signed, held.image_verdict) == ("contained", True, None)
    values = {"image_digest": INDEX, "image_verdict": to_json(LONG), "image": LONG.reference}
    moved = leases.move(database, held, State.LAUNCHING, reason=None, text="", values=values, now=NOW, deadline=None, hold=HOLD)
    assert moved is not None and moved.image_verdict is not None and verdict_of(moved.image_verdict) == LONG
    found = lease_views.get(database, held.id)
    assert found is not None and found.image_verdict == moved.image_verdict
    assert lease_views.listing(database)[0].image_verdict is None, "lists do without"
    assert lease_views.listing(database)[0].image_digest == INDEX


def test_what_no_database_keeps_is_taken_out_of_a_verdict_and_a_secret_never_goes_in() -> None:
    assert kept({"why": "a\x00b\ud800", "list": ("x", 1, None, True)}) == {
        "why": "a\ufffdb\ufffd",
        "list": ["x", 1, None, True],
    }
    with pytest.raises(TypeError, match="no place in a row"):
        kept({"payload": b"bytes"})


def test_a_digest_is_revoked_once_and_by_whom_and_why_is_known(database: Database) -> None:
    assert images.revoke(database, INDEX, "CVE-2026-1234", "ada", NOW)
    assert not images.revoke(database, INDEX, "again", "bob", NOW + SECOND)
    (told,) = images.revoked(database)
    assert (told.digest, told.why, told.actor, told.at) == (INDEX, "CVE-2026-1234", "ada", NOW)
    assert images.revoked_digests(database) == {INDEX}
    assert images.revoked_among(database, {INDEX, "sha256:other"}) == {INDEX: "CVE-2026-1234"}
    assert images.revoked_among(database, ()) == {}
    assert images.unrevoke(database, INDEX, "it was another one", "ada", NOW + SECOND)
    assert not images.unrevoke(database, INDEX, "again", "ada", NOW + SECOND)
    assert images.revoked_digests(database) == frozenset()
    told = [(entry.actor, entry.action, entry.text) for entry in audit.listing(database, f"image:{INDEX}")]
    assert told == [("ada", "image.unrevoked", "it was another one"), ("ada", "image.revoked", "CVE-2026-1234")]


def test_the_images_of_a_jobs_containers_are_kept_and_the_first_digest_that_passed_stays(database: Database) -> None:
    (lease,) = planned(database, a_lease())
    assert images.remember(database, lease.id, "node:22", BAD, NOW) == BAD
    assert images.remember(database, lease.id, "node:22", GOOD, NOW + SECOND) == GOOD, "a refusal may turn into a yes"
    moved = replace(GOOD, digest="sha256:moved")
    assert images.remember(database, lease.id, "node:22", moved, NOW + 2 * SECOND) == GOOD, (
        "two that asked at once get one answer"
    )
    assert images.remember(database, lease.id, "node:22", BAD, NOW + 2 * SECOND) == BAD, "it may have been revoked since"
    (asked,) = images.asked_of(database, lease.id)
    assert (asked.asked, asked.verdict, asked.at) == ("node:22", GOOD, NOW + SECOND)
    told = [entry.action for entry in audit.listing(database, f"lease:{lease.id}")]
    assert told[:2] == ["image.allowed", "image.refused"]


def test_a_lease_asks_for_so_many_images_and_no_more(database: Database) -> None:
    lease, other = planned(database, a_lease(1), a_lease(2))
    for number in range(MOST_ASKED):
        assert images.remember(database, lease.id, f"image-{number}", BAD, NOW)
    assert not images.remember(database, lease.id, "one more", GOOD, NOW)
    assert images.remember(database, lease.id, "image-0", GOOD, NOW), "one that is known may be asked for again"
    assert images.remember(database, other.id, "one more", GOOD, NOW)
    assert len(images.asked_of(database, lease.id)) == MOST_ASKED


def test_a_pool_that_asks_for_no_signature_is_written_down_when_that_is_new_or_changes(database: Database) -> None:
    def note(minutes: int, **unsigned: str) -> list[str]:
        return images.note_pools(database, unsigned, ["demo", "gpu"], NOW + timedelta(minutes=minutes))

    assert note(0) == []
    assert note(1, demo="bare") == ["demo"]
    assert note(2, demo="bare") == [], "not at every start"
    assert note(3, demo="contained, only pinned") == ["demo"]
    assert note(4) == []
    assert note(5, demo="contained, only pinned") == ["demo"]
    told = [(entry.at.minute, entry.actor, entry.action) for entry in reversed(audit.listing(database, "pool:demo"))]
    assert told == [
        (1, "settings", "pool.unsigned"),
        (3, "settings", "pool.unsigned"),
        (4, "settings", "pool.signed"),
        (5, "settings", "pool.unsigned"),
    ]
    assert audit.listing(database, "pool:gpu") == []


def test_what_a_node_says_of_its_image_is_cut_to_what_it_may_be() -> None:
    told = {"digest": INDEX, "mode": "contained", "checked": True, "openssl": "3.5", "keys": ["SHA256:x", 7], "problem": None}
    for image, expected in (
        (told, NodeImage(INDEX, "contained", True, "3.5", ("SHA256:x",), "")),
        ({"checked": "yes", "keys": "SHA256:x", "digest": 1}, NodeImage()),
        ("a text", None),
        (None, None),
    ):
        found = facts_of({"image": image})
        assert found.image == expected
        assert facts_of(plain(found)) == found


def test_a_verdict_that_cannot_be_read_is_an_error_and_no_yes() -> None:
    assert isinstance(verdict_of(to_json(GOOD)), ImageVerdict)
    with pytest.raises(KeyError):
        verdict_of({"allowed": True})
