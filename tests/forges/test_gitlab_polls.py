"""What GitLab's webhooks missed is found by asking: pipelines, open jobs, deliveries that failed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.core.model import Job, JobState, Run
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Missed, Pace
from app.forges.gitlab import GitLabForge
from app.forges.gitlab_polls import next_query
from tests.fakes.gitlab_state import FakeJob
from tests.forges.conftest import GitLabSide
from tests.forges.test_gitlab_jobs import runner_values

PATH = "acme/research/train"
OURS = "https://ci.acme.example/hooks/gitlab"
HOUR = timedelta(hours=1)


def run_of(side: GitLabSide, job: FakeJob) -> Run | None:
    key = str(job.id)
    asked = Job(f"gitlab-{key}", "gitlab", key, PATH, JobState.QUEUED, run_id=str(job.pipeline_id), attempt=2)
    return side.forge().fetch_run(asked)


@pytest.mark.parametrize(
    ("source", "ref", "fork", "head"),
    [
        ("push", "main", False, PATH),
        ("schedule", "main", False, PATH),
        ("parent_pipeline", "v1.2", False, PATH),
        ("external_pull_request_event", "main", None, ""),
        ("external", "main", None, ""),
        ("merge_request_event", "topic", None, ""),
        ("parent_pipeline", "refs/merge-requests/77/head", None, ""),
    ],
)
def test_whose_code_a_pipeline_runs(any_gitlab: GitLabSide, source: str, ref: str, fork: bool | None, head: str) -> None:
    """Of a merge request nobody can say if it is gone, or not ours to see."""
    project = any_gitlab.server.add_project(PATH)
    run = run_of(any_gitlab, any_gitlab.server.queue_job(project, ["gpu"], source=source, ref=ref, user="bob"))
    assert run is not None
    assert (run.event, run.fork, run.head_repository, run.actor) == (source, fork, head, "bob")
    assert (run.repository, run.attempt) == (PATH, 2)


def test_a_merge_request_says_where_its_code_comes_from(gitlab: GitLabSide) -> None:
    project, strange = gitlab.server.add_project(PATH), gitlab.server.add_project("mallory/train")
    own = run_of(gitlab, gitlab.server.queue_job(project, ["gpu"], merges=project))
    theirs = run_of(gitlab, gitlab.server.queue_job(project, ["gpu"], merges=strange, user="mallory"))
    assert own is not None and theirs is not None
    assert (own.event, own.fork, own.head_repository) == ("merge_request_event", False, PATH)
    assert (theirs.fork, theirs.head_repository, theirs.actor) == (True, "", "mallory")


def test_a_pipeline_that_is_gone_is_none_and_trouble_is_no_answer(gitlab: GitLabSide) -> None:
    project = gitlab.server.add_project(PATH)
    job = gitlab.server.queue_job(project, ["gpu"], merges=project)
    gitlab.server.fault("/merge_requests/", "500")
    with pytest.raises(ForgeDown):
        run_of(gitlab, job)
    gitlab.server.fault("/merge_requests/", "403", retry_after=60)
    with pytest.raises(ForgeDown):
        run_of(gitlab, job)
    gitlab.server.pipelines.clear()
    assert run_of(gitlab, job) is None


def test_every_job_that_is_queued_or_runs_is_found_with_its_tags(any_gitlab: GitLabSide) -> None:
    server = any_gitlab.server
    project = server.add_project(PATH)
    server.api.page_cap = 2
    queued = [server.queue_job(project, ["gpu", "Rubin"]) for _ in range(4)]
    server.queue_job(project, ["gpu"], status="created")
    server.queue_job(server.add_project("acme/other"), ["gpu"])
    server.cancel_job(queued[0])
    server.start_job(queued[1], server.create_runner(**runner_values(server)))
    found = {int(job.key): job for job in any_gitlab.forge().open_jobs(PATH)}
    assert {key: job.state for key, job in found.items()} == {
        queued[1].id: JobState.IN_PROGRESS,
        queued[2].id: JobState.QUEUED,
        queued[3].id: JobState.QUEUED,
    }
    job = found[queued[2].id]
    assert (job.labels, job.repository, job.repository_id) == (("gpu", "Rubin"), PATH, str(project))
    assert (job.id, job.run_id, job.actor) == (f"gitlab-{job.key}", str(queued[2].pipeline_id), "ann")
    assert found[queued[1].id].runner_name == "sublet-a"


def test_half_a_listing_is_none(gitlab: GitLabSide) -> None:
    project = gitlab.server.add_project(PATH)
    gitlab.server.api.page_cap = 2
    for _ in range(3):
        gitlab.server.queue_job(project, ["gpu"])
    forge = gitlab.forge()
    gitlab.server.fault("/jobs", "500")
    with pytest.raises(ForgeDown):
        forge.open_jobs(PATH)
    assert len(forge.open_jobs(PATH)) == 3
    gitlab.server.api.stale_lists = True
    forge.open_jobs(PATH)
    gitlab.server.queue_job(project, ["gpu"])
    assert len(forge.open_jobs(PATH)) == 3
    gitlab.server.api.stale_lists = False
    assert len(forge.open_jobs(PATH)) == 4
    with pytest.raises(ForgeRefused):
        forge.open_jobs("../admin")


def polled(side: GitLabSide) -> tuple[GitLabForge, int]:
    """A forge that has polled a project with a webhook of ours, and one of others."""
    project = side.server.add_project(PATH)
    side.server.hooks.add(project, OURS + "/")
    side.server.hooks.add(side.server.add_project("acme/other"), OURS)
    forge = side.forge(hook_url=OURS)
    forge.open_jobs(PATH)
    return forge, project


def test_what_failed_and_never_arrived_is_missed_and_comes_again_under_its_key(any_gitlab: GitLabSide) -> None:
    server, (forge, project) = any_gitlab.server, polled(any_gitlab)
    since = any_gitlab.clock.now() - HOUR
    for status in (0, 502, 202):
        server.queue_job(project, ["gpu"])
        (pair,) = server.take_outbox()
        server.hooks.note(pair, status)
    twice = server.deliver(server.queue_job(project, ["gpu"]))
    for status in (0, 202):
        server.hooks.note(twice, status)
    server.take_outbox()
    found = forge.missed(since)
    assert len(found) == 2
    for one in found:
        forge.redeliver(one)
    again = server.take_outbox()
    assert sorted(headers["idempotency-key"] for headers, _ in again) == sorted(one.guid for one in found)
    assert {forge.parse(*pair).guid for pair in again} == {one.guid for one in found}
    assert forge.missed(since) == []
    assert forge.missed(any_gitlab.clock.now() + HOUR) == []


def test_a_groups_webhook_is_looked_into_too(any_gitlab: GitLabSide) -> None:
    server = any_gitlab.server
    project = server.add_project(PATH)
    group = server.add_group("acme")
    server.hooks.add(group, OURS, "groups")
    forge = any_gitlab.forge(hook_url=OURS)
    forge.open_jobs(PATH)
    server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0, group)
    (found,) = forge.missed(any_gitlab.clock.now() - HOUR)
    forge.redeliver(found)
    assert forge.parse(*server.take_outbox()[-1]).guid == found.guid
    asked = len(server.requests)
    forge.missed(any_gitlab.clock.now() - HOUR)
    assert len(server.requests) == asked + 1  # the log; where the webhooks are is asked twice an hour


def test_what_got_lost_before_anything_was_asked_is_found_where_the_settings_name_the_project(any_gitlab: GitLabSide) -> None:
    server = any_gitlab.server
    project = server.add_project(PATH)
    server.hooks.add(project, OURS)
    server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0)
    since = any_gitlab.clock.now() - HOUR
    with pytest.raises(HeldBack):
        any_gitlab.forge(hook_url=OURS).missed(since)
    assert len(any_gitlab.forge(hook_url=OURS, named=[PATH]).missed(since)) == 1


def test_a_long_log_is_read_page_by_page(gitlab: GitLabSide) -> None:
    server, (forge, project) = gitlab.server, polled(gitlab)
    for place in range(50):
        server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0 if place == 3 else 202)
    (found,) = forge.missed(gitlab.clock.now() - HOUR)
    assert found.at == gitlab.clock.now()
    gitlab.clock.forward(2 * HOUR)
    assert forge.missed(gitlab.clock.now() - HOUR) == []


def test_five_are_sent_again_in_a_minute(gitlab: GitLabSide) -> None:
    server, (forge, project) = gitlab.server, polled(gitlab)
    for _ in range(6):
        server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0)
    found = forge.missed(gitlab.clock.now() - HOUR)
    for one in found[:5]:
        forge.redeliver(one)
    with pytest.raises(HeldBack) as caught:
        forge.redeliver(found[5])
    gitlab.clock.forward(caught.value.wait)
    forge.redeliver(found[5])
    assert next(hook.resent for hook in server.hooks.all.values()) == [gitlab.clock.now()]


def test_a_delivery_that_is_gone_is_no_error_and_an_id_of_a_stranger_is_refused(gitlab: GitLabSide) -> None:
    (forge, project), now = polled(gitlab), gitlab.clock.now()
    forge.redeliver(Missed(f"/projects/{project}/hooks/70001/events/5", "g", now))
    for strange in ("/projects/1/hooks/2/events/x", "/admin", "/projects/1/hooks/2/events/3/../../../../users"):
        with pytest.raises(ForgeRefused):
            forge.redeliver(Missed(strange, "g", now))


def test_before_anything_was_asked_nobody_says_that_all_arrived(gitlab: GitLabSide) -> None:
    """After a start no project is known yet; the next round looks as far back."""
    server, forge = gitlab.server, gitlab.forge(hook_url=OURS)
    with pytest.raises(HeldBack):
        forge.missed(gitlab.clock.now())
    project = server.add_project(PATH)
    server.hooks.add(project, OURS)
    job = server.queue_job(project, ["gpu"])
    server.hooks.note(server.deliver(job), 0)
    forge.fetch_run(Job("gitlab-1", "gitlab", "1", PATH, JobState.QUEUED, run_id=str(job.pipeline_id)))
    assert len(forge.missed(gitlab.clock.now() - HOUR)) == 1


def test_rights_that_do_not_reach_and_an_address_that_nobody_knows_are_sentences(gitlab: GitLabSide) -> None:
    forge, _ = polled(gitlab)
    gitlab.server.hooks.visible = False
    with pytest.raises(ForgeRefused, match="403"):
        forge.missed(gitlab.clock.now())
    with pytest.raises(ForgeRefused, match="public address"):
        gitlab.forge().missed(gitlab.clock.now())


def test_polls_stop_as_the_minutes_quota_ends_and_removals_go_on(gitlab: GitLabSide) -> None:
    forge, _ = polled(gitlab)
    assert forge.pace() is Pace.FREE
    gitlab.server.api.quota_taken = 0.7
    forge.open_jobs(PATH)
    assert forge.pace() is Pace.SLOW
    gitlab.server.api.quota_taken = 0.96
    forge.open_jobs(PATH)
    assert forge.pace() is Pace.STOP
    asked = len(gitlab.server.requests)
    with pytest.raises(HeldBack) as caught:
        forge.open_jobs(PATH)
    assert timedelta(0) < caught.value.wait <= timedelta(minutes=1)
    assert len(gitlab.server.requests) == asked
    gitlab.server.api.quota_taken = 0.0
    gitlab.clock.forward(timedelta(minutes=1))
    assert forge.open_jobs(PATH) == []


def test_a_wait_that_gitlab_asks_for_is_kept_to(gitlab: GitLabSide) -> None:
    forge, _ = polled(gitlab)
    gitlab.server.fault("/jobs", "429", retry_after=90)
    with pytest.raises(ForgeDown):
        forge.open_jobs(PATH)
    asked = len(gitlab.server.requests)
    gitlab.clock.forward(timedelta(seconds=89))
    with pytest.raises(HeldBack):
        forge.check()
    assert len(gitlab.server.requests) == asked
    gitlab.clock.forward(timedelta(seconds=1))
    assert "is good" in forge.check()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ('<https://h/api/v4/projects/1/jobs?cursor=eyJ9&per_page=100>; rel="next"', {"cursor": "eyJ9"}),
        ('<https://h/x?id_before=7&order_by=id&private_token=x>; rel="next"', {"id_before": "7"}),
        ('<https://h/x?page=2>; rel="next", <https://h/x?page=9>; rel="last"', {"page": "2"}),
        ('<https://h/x?cursor=a>; rel="prev"', {}),
        ("", {}),
    ],
)
def test_the_next_page_is_asked_for_as_the_link_says(header: str, found: dict[str, str]) -> None:
    assert next_query(header) == found
