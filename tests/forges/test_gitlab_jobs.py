"""Jobs of GitLab as the REST API tells them: with the tags that deliveries leave out."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.core.model import Job, JobState
from app.forges.contract import ForgeRefused
from tests.fakes.gitlab import FakeGitLab
from tests.forges.conftest import GitLabSide
from tests.forges.test_gitlab_runners import PROJECT


def job_of(server: FakeGitLab, key: int, repository: str = PROJECT.path) -> Job:
    project = next(iter(server.projects))
    return Job(f"gitlab-{key}", "gitlab", str(key), repository, JobState.QUEUED, repository_id=str(project), actor="bob")


def test_the_tags_are_fetched_from_the_job(any_gitlab: GitLabSide) -> None:
    server, forge = any_gitlab.server, any_gitlab.forge()
    job = server.queue_job(server.add_project(PROJECT.path), ["gpu", "Rubin"])
    fresh = forge.fetch_job(job_of(server, job.id))
    assert fresh is not None
    assert (fresh.labels, fresh.state, fresh.repository) == (("gpu", "Rubin"), JobState.QUEUED, PROJECT.path)
    assert fresh.run_id == str(job.pipeline_id)
    assert fresh.actor == "ann"
    server.start_job(job, server.create_runner(**runner_values(server)))
    server.finish_job(job)
    done = forge.fetch_job(fresh)
    assert done is not None
    assert (done.state, done.conclusion, done.runner_name) == (JobState.COMPLETED, "success", "sublet-a")


def runner_values(server: FakeGitLab) -> dict[str, object]:
    return {
        "description": "sublet-a",
        "runner_type": "project_type",
        "project_id": next(iter(server.projects)),
        "group_id": None,
        "tags": ("gpu",),
        "run_untagged": False,
        "locked": True,
        "paused": False,
        "maximum_timeout": None,
        "note": "",
    }


def test_an_untagged_job_has_no_labels_rather_than_unknown_ones(gitlab: GitLabSide) -> None:
    job = gitlab.server.queue_job(gitlab.server.add_project(PROJECT.path), [])
    fresh = gitlab.forge().fetch_job(job_of(gitlab.server, job.id))
    assert fresh is not None
    assert fresh.labels == ()


def test_a_delivery_cannot_claim_another_projects_name(gitlab: GitLabSide) -> None:
    """Every maintainer may know the hook's token; the answer of the API says where the job really is."""
    job = gitlab.server.queue_job(gitlab.server.add_project("mallory/fork"), ["gpu"])
    fresh = gitlab.forge().fetch_job(job_of(gitlab.server, job.id, "acme/research/train"))
    assert fresh is not None
    assert fresh.repository == "mallory/fork"


def test_a_job_that_is_gone_is_none_and_one_that_is_forbidden_is_not(gitlab: GitLabSide) -> None:
    gitlab.server.add_project(PROJECT.path)
    forge = gitlab.forge()
    assert forge.fetch_job(job_of(gitlab.server, 999)) is None
    gitlab.server.fault("/jobs/999", "403")
    with pytest.raises(ForgeRefused):
        forge.fetch_job(job_of(gitlab.server, 999))


def test_a_job_of_a_later_stage_was_queued_when_it_became_pending_and_not_when_it_was_made(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge()
    job = server.queue_job(server.add_project(PROJECT.path), ["gpu"], status="created")
    made = job.created_at
    gitlab.clock.forward(timedelta(hours=2))
    server.enqueue(job)
    gitlab.clock.forward(timedelta(seconds=20))
    (listed,) = forge.open_jobs(PROJECT.path)
    assert listed.queued_at == made + timedelta(hours=2)
    server.start_job(job, server.create_runner(**runner_values(server)))
    gitlab.clock.forward(timedelta(minutes=5))
    fresh = forge.fetch_job(listed)
    assert fresh is not None and fresh.queued_at == made + timedelta(hours=2)
