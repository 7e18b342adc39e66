"""Leases as people and the engine look them up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.core.model import JobState, Reason
from app.core.states import State
from app.store import jobs, lease_views, leases
from app.store.db import Database
from tests.store.nouns import HOLD, KEY, NOW, SCOPE, SECOND, a_job, a_lease, claimed, led_to, planned, queued, told


def test_a_lease_is_found_by_name_id_the_start_of_its_id_and_its_jobs_address(database: Database) -> None:
    lease = led_to(database, State.IDLE, lease=a_lease(1, id="abcd1234"), runner_name="brave-1")
    planned(database, a_lease(2, id="abce9999"))
    url = "https://forge.example/acme/train/actions/runs/1/job/1"
    jobs.record(database, [told(a_job(state=JobState.IN_PROGRESS, runner_name="brave-1", url=url))], NOW)
    for ref in (lease.name, lease.id, "abcd", "abcd12", url, f" {url} "):
        found = leases.find(database, ref)
        assert found is not None, ref
        assert found.id == lease.id, ref


@pytest.mark.parametrize(
    "ref", ["", " ", "abc", "abcd", "ABCD1", "abcd%", "____", "https://forge.example/none", "nothing-here-00"]
)
def test_what_names_no_lease_or_several_finds_none(database: Database, ref: str) -> None:
    planned(database, a_lease(1, id="abcd1111"), a_lease(2, id="abcd2222"))
    assert leases.find(database, ref) is None


def test_listings_page_by_time_and_miss_none(database: Database) -> None:
    planned(database, *(a_lease(number) for number in range(1, 6)))
    led_to(database, State.RELEASED, NOW - SECOND, a_lease(9, NOW - SECOND), reason=Reason.BOOT_TIMEOUT)
    seen: list[str] = []
    before = None
    while page := leases.listing(database, which="live", limit=2, before=before):
        seen += [lease.name[-2:] for lease in page]
        before = page[-1].created_at
    assert seen == ["05", "04", "03", "02", "01"]
    assert [lease.name[-2:] for lease in leases.listing(database, which="past")] == ["09"]
    assert len(leases.listing(database, which="all")) == 6
    assert leases.live_count(database) == 5
    assert lease_views.counts(database) == {("rubin", State.PLANNED): 5}
    assert len(lease_views.live_tags(database)) == 5
    assert [lease.name[-2:] for lease in lease_views.recent(database, NOW)] == ["09"]
    assert lease_views.recent(database, NOW + timedelta(hours=1)) == []


def test_a_decision_is_kept_whole_and_read_only_where_it_is_wanted(database: Database) -> None:
    lease = led_to(database, State.LAUNCHING, decision={"rejected": {"price": 3}})
    assert lease.decision == {"rejected": {"price": 3}}
    assert leases.listing(database)[0].decision is None
    assert claimed(database).decision == {"rejected": {"price": 3}}


def test_the_next_look_is_the_earliest_due_or_the_earliest_end_of_a_claim(database: Database) -> None:
    assert leases.next_due(database) is None
    planned(database, a_lease(1, due=NOW + 30 * SECOND))
    assert leases.next_due(database) == NOW + 30 * SECOND
    planned(database, a_lease(2, due=NOW - SECOND))
    (held,) = leases.claim(database, "a", NOW, 9, HOLD)
    assert leases.next_due(database) == NOW + 30 * SECOND
    leases.claim(database, "b", NOW + 30 * SECOND, 9, HOLD)
    assert leases.next_due(database) == NOW + HOLD
    leases.rest(database, held, until=NOW + timedelta(hours=1), note="", values={}, failed=False, now=NOW)
    assert leases.next_due(database) == NOW + 30 * SECOND + HOLD


def test_books_are_open_for_what_was_asked_for_and_is_gone(database: Database) -> None:
    asked = led_to(database, State.RELEASED, lease=a_lease(1), asked_at=NOW)
    led_to(database, State.RELEASED, lease=a_lease(2))
    led_to(database, State.DESTROYING, lease=a_lease(3), asked_at=NOW)
    assert [lease.id for lease in leases.unbooked(database, 10)] == [asked.id]


def test_a_runner_is_minted_with_the_labels_as_written_and_the_jobs_installation(database: Database) -> None:
    lease = a_lease()
    assert lease_views.mint_hints(database, lease) == ("", ())
    queued(database, "1", labels=("GPU", "Rubin"), installation="77")
    queued(database, "2", labels=("gpu", "rubin", "spot"), installation="77")
    assert lease_views.mint_hints(database, lease) == ("77", ("GPU", "Rubin"))
    jobs.record(database, [told(a_job("1", JobState.COMPLETED, labels=None))], NOW)
    assert lease_views.mint_hints(database, lease) == ("77", ("GPU", "Rubin")), "also once no job of it waits any more"
    own = a_lease(job_id="github-1")
    assert lease_views.mint_hints(database, own) == ("77", ("GPU", "Rubin"))
    assert KEY.scope == SCOPE
