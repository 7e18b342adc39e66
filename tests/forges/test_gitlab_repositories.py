"""The projects of one owner on GitLab, and what a poll of GitLab's costs where nothing changed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.forges.contract import ForgeDown, ForgeRefused, HeldBack
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitLabSide

OURS = "https://ci.acme.example/hooks/gitlab"
ACME = ["acme/eval", "acme/research/deep/net", "acme/research/train"]


def filled(side: GitLabSide) -> None:
    server = side.server
    server.people.add("ann")
    for path in (*reversed(ACME), "acme-labs/other", "ann/notes", "acme/old"):
        server.add_project(path)
    acme = server.add_group("acme")
    for project in server.projects.values():
        project.archived = project.path == "acme/old"
        project.shared_with = (acme,) if project.path == "acme-labs/other" else ()


def statuses(side: GitLabSide, since: int) -> list[int]:
    return [reply.status for reply in side.server.loopback.replies[since:]]


@pytest.mark.parametrize("cap", [100, 2, 1])
def test_every_project_of_a_group_and_its_subgroups_is_told(any_gitlab: GitLabSide, cap: int) -> None:
    filled(any_gitlab)
    any_gitlab.server.api.page_cap = cap
    forge = any_gitlab.forge()
    assert forge.repositories("acme") == ACME
    assert forge.repositories("acme/research") == ACME[1:]
    assert forge.repositories("ann") == ["ann/notes"]


def test_an_unchanged_listing_is_a_304_and_a_changed_one_is_read_anew(any_gitlab: GitLabSide) -> None:
    filled(any_gitlab)
    server, forge = any_gitlab.server, any_gitlab.forge()
    server.api.page_cap = 2
    job = server.queue_job(next(key for key, one in server.projects.items() if one.path == ACME[0]), ["gpu"])
    known, jobs = forge.repositories("acme"), forge.open_jobs(ACME[0])
    before = len(server.loopback.replies)
    assert (forge.repositories("acme"), forge.open_jobs(ACME[0])) == (known, jobs)
    assert statuses(any_gitlab, before) == [304, 304, 304]
    server.add_project("acme/new")
    second = server.queue_job(job.project_id, ["gpu"])
    before = len(server.loopback.replies)
    assert forge.repositories("acme") == sorted([*known, "acme/new"])
    assert len(forge.open_jobs(ACME[0])) == 2
    assert statuses(any_gitlab, before) == [304, 200, 200]
    server.cancel_job(job)
    assert [one.key for one in forge.open_jobs(ACME[0])] == [str(second.id)]


@pytest.mark.parametrize("bare", [False, True])
def test_a_page_that_others_follow_by_now_is_not_taken_for_the_last(
    gitlab: GitLabSide, monkeypatch: pytest.MonkeyPatch, bare: bool
) -> None:
    """The ETag stands for the body: an old job that is played comes after a full page without changing it.

    A page is full by what we ask for, or by what this server gives at most; of the latter only a 304's own link tells."""
    gitlab.server.api.bare_304 = bare
    gitlab.server.api.page_cap = 2
    if bare:
        monkeypatch.setattr("app.forges.gitlab_polls.PAGE", 2)
    server, forge = gitlab.server, gitlab.forge()
    project = server.add_project("acme/train")
    old = server.queue_job(project, ["gpu"], status="manual")
    for _ in range(2):
        server.queue_job(project, ["gpu"])
    assert len(forge.open_jobs("acme/train")) == 2
    server.enqueue(old)
    assert len(forge.open_jobs("acme/train")) == 3
    before = len(server.loopback.replies)
    assert len(forge.open_jobs("acme/train")) == 3
    assert statuses(gitlab, before) == [304, 304]


def test_the_logs_of_webhooks_are_asked_for_in_the_same_way(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge(hook_url=OURS)
    project, hour = server.add_project("acme/train"), timedelta(hours=1)
    server.hooks.add(project, OURS)
    forge.open_jobs("acme/train")
    server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0)
    found = forge.missed(gitlab.clock.now() - hour)
    before = len(server.loopback.replies)
    assert forge.missed(gitlab.clock.now() - hour) == found != []
    assert statuses(gitlab, before) == [304]
    server.hooks.note(server.deliver(server.queue_job(project, ["gpu"])), 0)
    assert len(forge.missed(gitlab.clock.now() - hour)) == 2


def test_a_server_without_etags_is_read_each_time(gitlab: GitLabSide) -> None:
    filled(gitlab)
    gitlab.server.api.etags = False
    forge = gitlab.forge()
    assert forge.repositories("acme") == forge.repositories("acme") == ACME
    assert not [one for one in gitlab.server.requests if "if-none-match" in one.headers]
    gitlab.server.loopback.faults.append(Fault("GET", "/projects", reply=Reply(304)))
    with pytest.raises(ForgeRefused):  # an answer to a question that was not asked
        forge.repositories("acme")


def test_an_owner_that_is_not_there_is_a_refusal_and_half_a_listing_is_none(gitlab: GitLabSide) -> None:
    filled(gitlab)
    forge = gitlab.forge()
    with pytest.raises(ForgeRefused, match="no group or person nobody"):
        forge.repositories("nobody")
    asked = len(gitlab.server.requests)
    for strange in ("", "..", "acme/../x", "acme?x=1", "/acme"):
        with pytest.raises(ForgeRefused):
            forge.repositories(strange)
    assert len(gitlab.server.requests) == asked
    gitlab.server.api.page_cap = 1
    fewer = Reply(200, [{"id": 5, "path_with_namespace": ACME[0]}], {"X-Total": "2"})  # one was removed, and others moved up
    for second in (Reply(500), Reply(200, [{"id": 5}]), Reply(200, {"message": "?"}), fewer):
        gitlab.server.loopback.faults += [Fault("GET", "/projects", effect=True), Fault("GET", "/projects", reply=second)]
        with pytest.raises(ForgeDown):
            forge.repositories("acme")


def test_it_is_a_poll(gitlab: GitLabSide) -> None:
    filled(gitlab)
    forge = gitlab.forge()
    gitlab.server.api.quota_taken = 0.96
    forge.repositories("acme")
    with pytest.raises(HeldBack):
        forge.repositories("acme")
