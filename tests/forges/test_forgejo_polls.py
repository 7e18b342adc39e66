"""Forgejo's queue by asking: of an organisation, a person or a repository, under the names that repositories have now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.core.model import JobState
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Pace
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.test_forgejo_deliveries import PATH, ForgejoSide, serve
from tests.forges.test_forgejo_jobs import take


@pytest.fixture(params=["", "/git"], ids=["own-host", "under-a-path"])
def forgejo(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[ForgejoSide]:
    yield from serve(clock, request.param)


def asked(side: ForgejoSide, piece: str) -> int:
    return len([one for one in side.server.requests if piece in one.path])


def test_one_question_lists_an_organisations_queue_with_the_names_of_its_repositories(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu", "Rubin"])
    second = server.queue_job("acme/eval", ["gpu"])
    held = server.queue_job("acme/eval", ["gpu"], needs=[second])
    over = server.queue_job(PATH, ["gpu"])
    running = server.queue_job(PATH, ["gpu"])
    server.queue_job("other/train", ["gpu"])
    server.cancel_job(over)
    take(forgejo, running)
    found = {job.key: job for job in forge.open_jobs("acme")}
    assert {key: (job.state, job.repository) for key, job in found.items()} == {
        first.handle: (JobState.QUEUED, PATH),
        second.handle: (JobState.QUEUED, "acme/eval"),
        running.handle: (JobState.IN_PROGRESS, PATH),
    }
    assert held.handle not in found
    job = found[first.handle]
    assert (job.id, job.run_id, job.labels) == (f"forgejo-{first.handle}", str(first.run.id), ("gpu", "Rubin"))
    assert (job.repository_id, job.attempt, job.queued_at) == (str(first.run.repository.id), 1, None)
    assert asked(forgejo, "/actions/runners/jobs") == 1


def test_an_empty_queue_is_null_and_labels_are_never_asked_for(forgejo: ForgejoSide) -> None:
    forgejo.server.add_repository(PATH)
    for place in ("acme", PATH):
        assert list(forgejo.forge().open_jobs(place)) == []
    assert all("labels" not in one.query for one in forgejo.server.requests)


def test_a_repositorys_queue_is_its_own(forgejo: ForgejoSide) -> None:
    server = forgejo.server
    mine = server.queue_job(PATH, ["gpu"])
    server.queue_job("acme/eval", ["gpu"])
    assert [job.key for job in forgejo.forge().open_jobs(PATH)] == [mine.handle]


def test_names_are_asked_for_once_and_a_renamed_repository_is_found_out(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    for _ in range(3):
        server.queue_job(PATH, ["gpu"])
    for _ in range(2):
        assert {job.repository for job in forge.open_jobs("acme")} == {PATH}
    assert asked(forgejo, "/repositories/") == 1
    server.rename_repository(PATH, "acme/trainer")
    forgejo.clock.forward(timedelta(minutes=15))
    assert {job.repository for job in forge.open_jobs("acme")} == {"acme/trainer"}
    server.rename_repository("acme/trainer", "umbrella/trainer")
    assert {job.repository for job in forge.open_jobs("umbrella")} == {"umbrella/trainer"}, "its owner is another: asked anew"
    assert list(forge.open_jobs("acme")) == []
    with pytest.raises(ForgeRefused, match="sends us elsewhere"):
        forge.open_jobs(PATH)


def test_an_answer_about_another_repository_is_not_believed(forgejo: ForgejoSide) -> None:
    forgejo.server.queue_job(PATH, ["gpu"])
    for body in ({"id": 1, "full_name": PATH}, {"full_name": PATH}, {"id": forgejo.server.number(), "full_name": "../x"}):
        forgejo.server.loopback.faults.append(Fault("GET", "/repositories/", reply=Reply(200, body)))
        with pytest.raises(ForgeDown, match="unreadable"):
            forgejo.forge().open_jobs("acme")


def test_a_repository_that_was_deleted_meanwhile_takes_no_other_along(forgejo: ForgejoSide) -> None:
    server = forgejo.server
    server.queue_job("acme/gone", ["gpu"])
    kept = server.queue_job(PATH, ["gpu"])
    gone = server.repository("acme/gone")
    assert gone is not None
    del server.repositories[gone.id]
    assert [job.key for job in forgejo.forge().open_jobs("acme")] == [kept.handle]


def test_a_persons_repositories_are_asked_one_by_one(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.add_owner("ann", person=True)
    jobs = [server.queue_job(f"ann/project-{number}", ["gpu"]) for number in range(5)]
    server.add_repository("ann/notes").has_actions = False
    server.api.most = 2
    assert {job.key for job in forge.open_jobs("ann")} == {job.handle for job in jobs}
    assert asked(forgejo, "/repos/ann/notes/") == 0
    assert list(forge.repositories("ann")) == [f"ann/project-{number}" for number in range(5)]


def test_repositories_that_are_counted_and_not_shown(forgejo: ForgejoSide) -> None:
    """X-Total-Count and the links count the private ones too that our user may not see (routers/api/v1/user/repo.go)."""
    server, forge = forgejo.server, forgejo.forge()
    server.add_owner("ann", person=True)
    job = server.queue_job("ann/project", ["gpu"])
    row = server.api.repository(job.run.repository)
    headers = {"X-Total-Count": "120"}
    onward = {**headers, "Link": '<http://forgejo/?page=3>; rel="next",<http://forgejo/?page=3>; rel="last"'}
    back = {**headers, "Link": '<http://forgejo/?page=1>; rel="first",<http://forgejo/?page=2>; rel="prev"'}
    pages = [Reply(200, [], onward), Reply(200, None, onward, raw=b"null"), Reply(200, [row], back)]
    faults = server.loopback.faults
    faults += [Fault("GET", "/users/ann/repos", reply=page) for page in pages]
    assert [one.key for one in forge.open_jobs("ann")] == [job.handle]
    faults += [Fault("GET", "/users/ann/repos", reply=page) for page in pages]
    assert list(forge.repositories("ann")) == ["ann/project"]
    assert not any(fault.times for fault in faults)


def test_an_organisation_that_closes_its_queue_to_us_is_asked_by_repository_too(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    job = server.queue_job(PATH, ["gpu"])
    server.fault("/orgs/acme/actions/runners/jobs", "403")
    assert [one.key for one in forge.open_jobs("acme")] == [job.handle]
    server.api.closed.add("acme")
    for place in ("acme", PATH):
        with pytest.raises(ForgeRefused, match="owner or a collaborator"):
            forge.open_jobs(place)


@pytest.mark.parametrize("place", ["nobody", "nobody/nothing", "../admin", "acme/..", "", "a/b/c", "acme?x", "ac me"])
def test_what_is_not_there_is_a_sentence(forgejo: ForgejoSide, place: str) -> None:
    with pytest.raises(ForgeRefused):
        forgejo.forge().open_jobs(place)
    with pytest.raises(ForgeRefused):
        forgejo.forge().repositories(place)
    assert all("admin" not in one.path and ".." not in one.path for one in forgejo.server.requests)


@pytest.mark.parametrize("kind", ["500", "429", "hang up", "408"])
def test_half_a_listing_is_none(forgejo: ForgejoSide, kind: str) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.add_owner("ann", person=True)
    for number in range(3):
        server.queue_job(f"ann/project-{number}", ["gpu"])
    server.fault("/repos/ann/project-2/", kind)
    with pytest.raises(ForgeDown):
        forge.open_jobs("ann")
    forgejo.clock.forward(timedelta(minutes=2))
    assert len(forge.open_jobs("ann")) == 3


def test_a_slow_down_is_not_taken_for_a_person(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.queue_job(PATH, ["gpu"])
    server.fault("/orgs/acme/", "403", retry_after=90)
    with pytest.raises(ForgeDown) as caught:
        forge.open_jobs("acme")
    assert caught.value.wait == timedelta(seconds=90)
    assert forge.pace() is Pace.STOP
    before = len(server.requests)
    with pytest.raises(HeldBack):
        forge.open_jobs("acme")
    assert len(server.requests) == before
    forgejo.clock.forward(timedelta(seconds=90))
    assert len(forge.open_jobs("acme")) == 1


def test_an_expired_token_is_for_a_person(forgejo: ForgejoSide) -> None:
    forgejo.server.queue_job(PATH, ["gpu"])
    forgejo.server.api.expired = True
    for place in ("acme", PATH):
        with pytest.raises(ForgeRefused, match="401"):
            forgejo.forge().open_jobs(place)
    forgejo.server.api.expired, forgejo.server.api.scopes = False, {"read:user"}
    with pytest.raises(ForgeRefused, match="required scope"):
        forgejo.forge().open_jobs("acme")


def test_one_row_that_cannot_be_read_hides_no_other(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    good = server.api.job(server.queue_job(PATH, ["gpu"]))
    rows = [{**good, "handle": "other-handle-1", "status": None}, {**good, "handle": None}, good, {**good, "repo_id": None}]
    server.loopback.faults.append(Fault("GET", "/runners/jobs", reply=Reply(200, rows)))
    assert [job.key for job in forge.open_jobs("acme")] == [good["handle"]]
    server.loopback.faults.append(Fault("GET", "/runners/jobs", reply=Reply(200, rows[:1])))
    with pytest.raises(ForgeDown, match="unreadable"):
        forge.open_jobs("acme")
    server.loopback.faults.append(Fault("GET", "/runners/jobs", reply=Reply(200, rows[1:2])))
    with pytest.raises(ForgeRefused, match="Forgejo 15 or later"):
        forge.open_jobs("acme")
    strange: list[object] = [{"jobs": []}, [7], "x"]
    for body in strange:
        server.loopback.faults.append(Fault("GET", "/runners/jobs", reply=Reply(200, body)))
        with pytest.raises(ForgeDown, match="unreadable"):
            forge.open_jobs("acme")


def test_a_job_that_is_run_again_is_another_one(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    first = server.queue_job(PATH, ["gpu"])
    server.cancel_job(first)
    again = server.rerun_job(first)
    (job,) = forge.open_jobs("acme")
    assert (job.key, job.attempt) == (again.handle, 2)
    assert job.key != first.handle


def test_a_page_that_somebody_on_the_way_says_is_unchanged_is_not_sent_again(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    row = server.api.job(server.queue_job(PATH, ["gpu"]))
    server.loopback.faults += [
        Fault("GET", "/runners/jobs", reply=Reply(200, [row], {"ETag": '"one"'})),
        Fault("GET", "/runners/jobs", reply=Reply(304)),
    ]
    assert forge.open_jobs("acme") == forge.open_jobs("acme") != []
    assert server.requests[-1].headers["if-none-match"] == '"one"'


def test_what_a_poll_finds_and_what_a_delivery_says_is_one_job(forgejo: ForgejoSide) -> None:
    server, forge = forgejo.server, forgejo.forge()
    server.queue_job(PATH, ["gpu"])
    (delivery,) = server.take_outbox()
    told = forge.parse(*delivery).job
    (polled,) = forge.open_jobs("acme")
    assert told is not None
    same = ("id", "key", "repository", "repository_id", "run_id", "attempt", "labels", "state", "name")
    assert [getattr(told, name) for name in same] == [getattr(polled, name) for name in same]
