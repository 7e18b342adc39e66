"""What GitHub's webhooks missed is found by asking: runs, open jobs, deliveries that failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.core.model import JobState
from app.demo.nouns import ApiFault
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Missed, Pace
from app.forges.github_polls import cursor
from tests.forges.hub import Hub, a_hub

HOUR = timedelta(hours=1)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with a_hub() as found:
        yield found


def test_a_run_tells_event_head_and_who_set_it_going(hub: Hub) -> None:
    forge = hub.forge()
    own = forge.fetch_run(hub.job(hub.start(actor="mona")))
    assert own is not None
    assert (own.event, own.head_repository, own.fork, own.actor) == ("push", "acme/train", False, "mona")
    strange = forge.fetch_run(hub.job(hub.start(event="pull_request", fork="mallory/train", actor="mallory")))
    assert strange is not None
    assert (strange.event, strange.head_repository, strange.fork) == ("pull_request", "mallory/train", True)
    deleted = forge.fetch_run(hub.job(hub.start(event="pull_request", fork_deleted=True)))
    assert deleted is not None
    assert (deleted.head_repository, deleted.fork) == ("", True)


def test_a_run_costs_one_call_and_one_that_is_gone_is_none(hub: Hub) -> None:
    forge, run = hub.forge(), hub.start()
    job = hub.job(run)
    forge.fetch_run(job)
    before = len(hub.calls)
    forge.fetch_run(job)
    assert [call[1] for call in hub.calls[before:]] == [f"/repos/acme/train/actions/runs/{run.id}"]
    del hub.state.book.runs[run.id]
    assert forge.fetch_run(job) is None


def test_every_job_that_waits_or_runs_is_found_with_its_labels(hub: Hub) -> None:
    queued, held, done = hub.start("gpu", "Rubin", jobs=2), hub.start("gpu", approval=True), hub.start("cpu")
    hub.state.cancel(hub.jobs(done)[0], hub.clock.now())
    minted = hub.state.register("repos/acme/train", "calm-fox", ["gpu", "Rubin"], 1, hub.clock.now())
    hub.state.take(hub.state.connect(minted.token, "s" * 64, "2.336.0", hub.clock.now()), hub.clock.now())
    found = {int(job.key): job for job in hub.forge().open_jobs("acme/train")}
    running, waiting = hub.jobs(queued)
    (approval,) = hub.jobs(held)
    assert {key: job.state for key, job in found.items()} == {
        running: JobState.IN_PROGRESS,
        waiting: JobState.QUEUED,
        approval: JobState.WAITING,
    }
    assert (found[waiting].labels, found[waiting].run_id) == (("gpu", "Rubin"), str(queued.id))
    assert (found[running].runner_name, found[running].repository) == ("calm-fox", "acme/train")
    assert found[waiting].id == f"github-{waiting}"
    assert found[waiting].queued_at is not None and found[waiting].actor == "mona"


def test_the_job_of_a_rerun_is_found_and_the_old_one_is_not(hub: Hub) -> None:
    run = hub.start()
    (first,) = hub.jobs(run)
    hub.state.cancel(first, hub.clock.now())
    assert hub.forge().open_jobs("acme/train") == []
    (second,) = hub.state.rerun([first], hub.clock.now())
    (found,) = hub.forge().open_jobs("acme/train")
    assert (found.key, found.attempt) == (str(second.id), 2)


def test_a_listing_comes_whole_over_its_pages(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.forges.github_polls.PAGE", 2)
    for jobs in (1, 2, 3, 5, 1):
        hub.start(jobs=jobs)
    assert len(hub.forge().open_jobs("acme/train")) == 12


def test_an_unchanged_listing_costs_no_quota(hub: Hub) -> None:
    hub.start(jobs=2)
    forge = hub.forge()
    first = forge.open_jobs("acme/train")
    left = hub.left[-1]
    for _ in range(5):
        assert forge.open_jobs("acme/train") == first
    assert hub.left[-1] == left
    hub.start()
    assert len(forge.open_jobs("acme/train")) == 3
    assert hub.left[-1] == left - 2  # the queued runs, and the jobs of the new one


def test_a_stale_listing_is_as_old_as_the_forge_gives_it(hub: Hub) -> None:
    forge = hub.forge()
    hub.state.book.faults.stale_lists = True
    assert forge.open_jobs("acme/train") == []
    hub.start()
    assert forge.open_jobs("acme/train") == []
    hub.state.book.faults.stale_lists = False
    assert len(forge.open_jobs("acme/train")) == 1


@pytest.mark.parametrize("piece", ["actions/runs", "/jobs"])
def test_a_page_that_fails_fails_the_whole_listing(hub: Hub, piece: str) -> None:
    hub.start()
    hub.state.book.faults.api.append(ApiFault(piece, 502))
    forge = hub.forge()
    with pytest.raises(ForgeDown):
        forge.open_jobs("acme/train")
    assert len(forge.open_jobs("acme/train")) == 1


def test_no_repository_has_such_a_name(hub: Hub) -> None:
    for name in ("acme", "acme/../x", "a b/c", "acme/train/actions"):
        with pytest.raises(ForgeRefused):
            hub.forge().open_jobs(name)


def test_what_failed_and_never_arrived_is_missed_and_comes_again_under_its_guid(hub: Hub) -> None:
    forge, since = hub.forge(), hub.clock.now()
    hub.start()
    hub.deliver()
    assert forge.missed(since) == []
    hub.clock.advance(60)
    hub.start()
    (lost,) = hub.deliver(arrives=False)
    (found,) = forge.missed(since)
    assert (found.guid, found.at) == (lost, hub.clock.now().replace(microsecond=0))
    forge.redeliver(found)
    assert hub.deliver() == [lost]
    assert forge.missed(since) == []


def test_each_delivery_is_missed_once_the_oldest_first_by_its_latest_attempt(hub: Hub) -> None:
    forge, since, lost = hub.forge(), hub.clock.now(), list[str]()
    for _ in range(3):
        hub.clock.advance(60)
        hub.start()
        lost += hub.deliver(arrives=False)
    oldest, *_ = forge.missed(since)
    hub.clock.advance(60)
    forge.redeliver(oldest)
    assert hub.deliver(arrives=False) == [lost[0]]
    assert [one.guid for one in forge.missed(since)] == [lost[1], lost[2], lost[0]]
    assert [one.guid for one in forge.missed(since + timedelta(seconds=150))] == [lost[2], lost[0]]


def test_a_delivery_that_fails_again_and_again_is_given_up(hub: Hub) -> None:
    """We answered it each time: what we refuse, a further try does not mend."""
    forge, since = hub.forge(), hub.clock.now()
    hub.start()
    hub.deliver(arrives=False)
    tries = 1
    while found := forge.missed(since):
        hub.clock.advance(60)
        forge.redeliver(found[0])
        hub.deliver(arrives=False)
        tries += 1
    assert tries == 6


def test_many_failed_deliveries_are_read_page_by_page(hub: Hub) -> None:
    forge, since = hub.forge(), hub.clock.now()
    hub.start(jobs=130)
    lost = hub.deliver(arrives=False)
    hub.start(jobs=20)
    hub.deliver()
    assert sorted(one.guid for one in forge.missed(since)) == sorted(lost)


def test_no_failures_cost_one_call(hub: Hub) -> None:
    hub.start(jobs=5)
    hub.deliver()
    forge = hub.forge()
    forge.missed(hub.clock.now() - HOUR)
    assert [call[1] for call in hub.calls] == ["/app/hook/deliveries"]


def test_a_delivery_that_github_no_longer_has_is_no_error_and_an_id_of_a_stranger_is_refused(hub: Hub) -> None:
    forge, now = hub.forge(), hub.clock.now()
    forge.redeliver(Missed("/app/hook/deliveries/12345", "g", now))
    for strange in ("/app", "/app/hook/deliveries/1/../../2", "/app/hook/deliveries/x", "//evil/app/hook/deliveries/1"):
        with pytest.raises(ForgeRefused):
            forge.redeliver(Missed(strange, "g", now))


def test_polls_slow_down_and_stop_as_the_quota_ends_and_a_machine_still_gets_its_runner(hub: Hub) -> None:
    run = hub.start()
    forge = hub.forge()
    forge.open_jobs("acme/train")
    assert forge.pace() is Pace.FREE
    hub.state.book.faults.quota_taken = 0.6
    forge.open_jobs("acme/train")
    assert forge.pace() is Pace.SLOW
    hub.state.book.faults.quota_taken = 0.94
    with pytest.raises(HeldBack):  # in the middle, as soon as it is told: half a listing is none
        forge.open_jobs("acme/train")
    assert forge.pace() is Pace.STOP
    asked = len(hub.calls)
    with pytest.raises(HeldBack) as caught:
        forge.open_jobs("acme/train")
    assert timedelta(minutes=50) < caught.value.wait <= HOUR
    assert len(hub.calls) == asked
    assert forge.fetch_run(hub.job(run)) is not None
    hub.state.book.faults.quota_taken = 0.0
    hub.clock.advance(3600)
    assert forge.pace() is Pace.FREE
    assert len(forge.open_jobs("acme/train")) == 1


def test_a_wait_that_github_asks_for_is_kept_to_by_every_call(hub: Hub) -> None:
    forge, run = hub.forge(), hub.start()
    forge.open_jobs("acme/train")
    hub.state.book.faults.api.append(ApiFault("actions/runs", 403, retry_after=120))
    with pytest.raises(ForgeDown):
        forge.open_jobs("acme/train")
    asked = len(hub.calls)
    hub.clock.advance(119)
    with pytest.raises(HeldBack):
        forge.fetch_run(hub.job(run))
    assert len(hub.calls) == asked
    hub.clock.advance(1)
    assert forge.fetch_run(hub.job(run)) is not None


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('<https://h/app/hook/deliveries?per_page=3&cursor=v1_5>; rel="next"', "v1_5"),
        ('<https://h/x?cursor=a>; rel="prev", <https://h/x?cursor=b%2Fc>; rel="next"', "b/c"),
        ('<https://h/x?cursor=a>; rel="prev"', ""),
        ("", ""),
        ("<<<;;;,", ""),
        (f'<https://h/x?cursor={"a" * 501}>; rel="next"', ""),
    ],
)
def test_the_next_page_begins_where_the_link_says(header: str, found: str) -> None:
    assert cursor(header) == found
