"""Every open job of a place, as Gitea lists them; the pace; and what a token may not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from app.core.model import JobState
from app.forges.contract import ForgeDown, ForgeError, ForgeRefused, HeldBack, Missed, Pace
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.gitea_side import REPOSITORY, GiteaSide, changed, serve


@pytest.fixture
def gitea(clock: ManualClock) -> Iterator[GiteaSide]:
    yield from serve(clock)


@pytest.fixture(params=["1.24.0", "1.26.1", "1.27.0"])
def any_gitea(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[GiteaSide]:
    yield from serve(clock, version=request.param)


# Every open job of a place


def keys(jobs: object) -> list[tuple[str, str, JobState]]:
    return sorted((job.key, job.repository, job.state) for job in jobs)  # pyright: ignore  a test's shorthand


def test_an_organisations_jobs_in_one_listing(any_gitea: GiteaSide) -> None:
    server, forge = any_gitea.server, any_gitea.forge()
    first = server.queue_job("acme/train", ["gpu"])
    second = server.queue_job("acme/eval", ["gpu", "rubin"])
    server.start_job(second, 77)
    third = server.queue_job("acme/eval", ["gpu"], needs=second)
    server.cancel_job(server.queue_job("acme/eval", ["gpu"]))
    server.queue_job("other/train", ["gpu"])
    before = len(server.requests)
    found = forge.open_jobs("acme")
    assert keys(found) == [
        (str(first.id), "acme/train", JobState.QUEUED),
        (str(second.id), "acme/eval", JobState.IN_PROGRESS),
        (str(third.id), "acme/eval", JobState.WAITING),
    ]
    assert [job.labels for job in found] == [("gpu",), ("gpu", "rubin"), ("gpu",)]
    (asked,) = server.requests[before:]
    assert (asked.path, asked.query["status"]) == ("/api/v1/orgs/acme/actions/jobs", "queued,in_progress,waiting")


def test_one_repositorys_jobs(any_gitea: GiteaSide) -> None:
    job = any_gitea.server.queue_job("acme/train", ["gpu"])
    any_gitea.server.queue_job("acme/eval", ["gpu"])
    assert keys(any_gitea.forge().open_jobs("acme/train")) == [(str(job.id), "acme/train", JobState.QUEUED)]


def test_a_persons_jobs_are_listed_repository_by_repository(gitea: GiteaSide) -> None:
    server = gitea.server
    for path in ("ann/train", "ann/eval", "ann/docs"):
        server.add_repository(path, person=True)
    next(one for one in server.repositories.values() if one.path == "ann/docs").has_actions = False
    jobs = [server.queue_job(path, ["gpu"]) for path in ("ann/train", "ann/eval")]
    server.organizations.clear()
    assert sorted(job.key for job in gitea.forge().open_jobs("ann")) == [str(job.id) for job in jobs]
    assert gitea.forge().repositories("ann") == ["ann/docs", "ann/eval", "ann/train"]


def test_an_organisations_listing_that_a_first_1_24_cannot_give(clock: ManualClock) -> None:
    for gitea in serve(clock, version="1.24.0"):
        gitea.server.api.broken_owner_lists = True
        jobs = [gitea.server.queue_job(path, ["gpu"]) for path in ("acme/train", "acme/eval")]
        assert sorted(job.key for job in gitea.forge().open_jobs("acme")) == [str(job.id) for job in jobs]


def test_places_that_are_not_there(gitea: GiteaSide) -> None:
    for place in ("nobody", "acme/none"):
        with pytest.raises(ForgeRefused, match="shows it not to our token"):
            gitea.forge().open_jobs(place)
    with pytest.raises(ForgeRefused, match="of the name"):
        gitea.forge().open_jobs("a b")
    with pytest.raises(ForgeRefused, match="of the name"):
        gitea.forge().repositories("..")


@pytest.mark.parametrize("cap", [50, 7])
def test_every_page_is_read_even_of_a_server_that_gives_fewer_than_asked(any_gitea: GiteaSide, cap: int) -> None:
    any_gitea.server.api.page_cap = cap
    jobs = [any_gitea.server.queue_job("acme/train", ["gpu"]) for _ in range(55)]
    any_gitea.server.take_outbox()
    expected = [str(job.id) for job in jobs]
    assert [job.key for job in any_gitea.forge().open_jobs("acme")] == expected
    assert [job.key for job in any_gitea.forge().open_jobs("acme/train")] == expected
    for number in range(60):
        any_gitea.server.add_repository(f"acme/repository-{number}")
    assert len(any_gitea.forge().repositories("acme")) == 61


@pytest.mark.parametrize("kind", ["500", "403", "404", "429", "hang up"])
def test_half_a_listing_is_none(gitea: GiteaSide, kind: str) -> None:
    gitea.server.api.page_cap = 7
    for _ in range(20):
        gitea.server.queue_job("acme/train", ["gpu"])
    faults = gitea.server.loopback.faults
    gitea.server.fault("/repos/acme/train/actions/jobs", kind)
    second = faults.pop()
    forge = gitea.forge()
    assert len(forge.open_jobs("acme/train")) == 20
    page = Fault("GET", "/actions/jobs", times=1, effect=True)  # the first page comes through
    faults += [page, second]
    with pytest.raises(ForgeError):
        forge.open_jobs("acme/train")


def test_a_listing_that_shrinks_while_it_is_read_is_read_again(gitea: GiteaSide) -> None:
    """What moves to a page that was read already would be missed."""
    server = gitea.server
    server.api.page_cap = 7
    jobs = [server.queue_job("acme/train", ["gpu"]) for _ in range(10)]
    seen: list[str] = []
    true = server.api.answer

    def answer(request: Any) -> Reply:
        reply = true(request)
        seen.append(request.query.get("page", ""))
        if len(seen) == 1:
            server.cancel_job(jobs[0])
        return reply

    server.api.answer = answer
    assert [job.key for job in gitea.forge().open_jobs("acme/train")] == [str(job.id) for job in jobs[1:]]
    assert seen == ["1", "2", "1", "2"]


def test_a_queue_that_drains_while_it_is_read_still_brings_its_new_jobs(any_gitea: GiteaSide) -> None:
    """One of more than a page of jobs ends between any two pages: no reading is ever steady."""
    server = any_gitea.server
    jobs = [server.queue_job("acme/train", ["gpu"]) for _ in range(160)]
    ending, true = iter(jobs), server.api.answer

    def answer(request: Any) -> Reply:
        reply = true(request)
        if "/actions/jobs" in request.path:
            server.cancel_job(next(ending))
        return reply

    server.api.answer = answer
    for place in ("acme", "acme/train"):
        newest = server.queue_job("acme/train", ["gpu"])
        told = [job.key for job in any_gitea.forge().open_jobs(place)]
        assert str(newest.id) in told
        assert len(told) == len(set(told)) > 100


def test_repositories_that_grow_fewer_while_they_are_listed_are_listed_again(gitea: GiteaSide) -> None:
    server = gitea.server
    server.api.page_cap = 7
    made = [server.add_repository(f"ann/project-{number}", person=True) for number in range(10)]
    true = server.api.answer

    def answer(request: Any) -> Reply:
        reply = true(request)
        if request.path.endswith("/ann/repos") and reply.status == 200:
            server.repositories.pop(made[0], None)
        return reply

    server.api.answer = answer
    assert gitea.forge().repositories("ann") == [f"ann/project-{number}" for number in range(1, 10)]


@pytest.mark.parametrize("links", [True, False])
def test_repositories_that_are_counted_and_not_shown(gitea: GiteaSide, links: bool) -> None:
    """X-Total-Count and the links count the private ones too that our user may not see (routers/api/v1/user/repo.go)."""
    server = gitea.server
    job = server.queue_job("acme/train", ["gpu"])
    server.api.broken_owner_lists = True  # so that its repositories are asked one by one
    row, headers = {"id": 1, "full_name": "acme/train"}, {"X-Total-Count": "60"}
    onward = {"Link": '<http://gitea/?page=2>; rel="next",<http://gitea/?page=2>; rel="last"'} if links else {}
    pages = [Reply(200, [] if links else [row], {**headers, **onward}), Reply(200, [row] if links else [], headers)]
    for ask, expected in (("repositories", ["acme/train"]), ("open_jobs", [str(job.id)])):
        server.loopback.faults += [Fault("GET", "/orgs/acme/repos", reply=page) for page in pages]
        assert [getattr(one, "key", one) for one in getattr(gitea.forge(), ask)("acme")] == expected
        assert not any(fault.times for fault in server.loopback.faults)


@pytest.mark.parametrize(
    "change",
    [
        {"url": None, "run_url": None},
        {"url": "https://elsewhere.test/api/v1/repos/acme/train/actions/jobs/{id}"},
        {"url": "{base}/api/v1/repos/acme/train/actions/jobs/1"},
        {"url": "{base}/api/v1/repos/acme/train/../x/actions/jobs/{id}"},
        {"url": "{base}.elsewhere.test/api/v1/repos/acme/train/actions/jobs/{id}"},
        {"url": "{base}/api/v1/repos/acme/other/actions/jobs/{id}"},
        {"run_url": "{base}/api/v1/repos/acme/other/actions/runs/{run_id}"},
        {"labels": None},
        {"status": "resting"},
        {"status": None},
        {"id": None},
        {"id": "x"},
    ],
)
def test_a_job_that_cannot_be_read_makes_the_listing_an_error(gitea: GiteaSide, change: dict[str, Any]) -> None:
    job = gitea.server.queue_job("acme/train", ["gpu"])

    def apply(told: dict[str, Any]) -> None:
        for name, value in change.items():
            filled = isinstance(value, str) and value.format(base=gitea.server.url, id=job.id, run_id=job.run_id)
            told[name] = filled or value

    changed(gitea, "/orgs/acme/actions/jobs", apply, job=job)
    with pytest.raises(ForgeDown, match="unreadable"):
        gitea.forge().open_jobs("acme")


def test_a_repositorys_own_listing_needs_no_address(gitea: GiteaSide) -> None:
    job = gitea.server.queue_job("acme/train", ["gpu"])
    changed(gitea, "/repos/acme/train/actions/jobs", lambda told: told.update(url="http://gitea:3000/x"), job=job)
    assert [one.repository for one in gitea.forge().open_jobs("acme/train")] == ["acme/train"]


def test_gitea_under_a_path(clock: ManualClock) -> None:
    for gitea in serve(clock, prefix="/git"):
        job = gitea.server.queue_job("acme/train", ["gpu"])
        assert [one.key for one in gitea.forge(url=gitea.server.url + "/").open_jobs("acme")] == [str(job.id)]
        run = gitea.forge().fetch_run(gitea.known(job))
        assert run is not None
        assert run.fork is False


# Deliveries that were missed, and the pace


def test_gitea_shows_no_list_of_deliveries(gitea: GiteaSide) -> None:
    forge = gitea.forge()
    assert forge.missed(gitea.clock.now()) is None
    with pytest.raises(ForgeRefused, match="cannot send a delivery again"):
        forge.redeliver(Missed("1", "", gitea.clock.now()))
    assert gitea.server.requests == []


def test_the_pace_is_free_until_a_proxy_asks_us_to_slow_down(gitea: GiteaSide) -> None:
    forge = gitea.forge()
    assert forge.pace() is Pace.FREE
    gitea.server.fault("/actions/jobs", "429", retry_after=90)
    with pytest.raises(ForgeDown) as caught:
        forge.open_jobs("acme")
    assert caught.value.wait == timedelta(seconds=90)
    assert forge.pace() is Pace.STOP
    asked = len(gitea.server.requests)
    with pytest.raises(HeldBack):
        forge.open_jobs("acme")
    assert len(gitea.server.requests) == asked, "not asked at all"
    gitea.clock.forward(timedelta(seconds=91))
    gitea.server.add_repository("acme/train")
    assert list(forge.open_jobs("acme")) == []


# Tokens and rights


def test_a_token_that_is_no_more_and_one_that_lacks_a_scope(gitea: GiteaSide) -> None:
    job = gitea.known(gitea.server.queue_job(REPOSITORY, ["gpu"]))
    stale = gitea.forge(token=Secret("expired"))
    for ask in (lambda: stale.fetch_job(job), lambda: stale.open_jobs("acme"), stale.check):
        with pytest.raises(ForgeRefused, match="HTTP 401"):
            ask()
    gitea.server.api.scopes = ["read:organization"]
    with pytest.raises(ForgeRefused, match=r"required=\[read:repository\]"):
        gitea.forge().fetch_job(job)


def test_the_check_says_which_server_and_whose_token(gitea: GiteaSide) -> None:
    assert gitea.forge().check().startswith("gitea: Gitea 1.26.1; the token of sublet-bot is good.")
    gitea.server.api.scopes = ["write:repository"]
    assert "lacks read:user" in gitea.forge().check()


def test_the_check_refuses_a_server_that_is_too_old(clock: ManualClock) -> None:
    for gitea in serve(clock, version="1.23.8"):
        with pytest.raises(ForgeRefused, match=r"is 1\.23\.8.*Update it to 1\.24"):
            gitea.forge().check()


def test_a_server_that_is_down(gitea: GiteaSide) -> None:
    job = gitea.known(gitea.server.queue_job(REPOSITORY, ["gpu"]))
    unreachable = gitea.forge()
    gitea.server.loopback.stop()
    for ask in (lambda: unreachable.fetch_job(job), lambda: unreachable.open_jobs("acme"), unreachable.check):
        with pytest.raises(ForgeDown, match="no answer"):
            ask()
