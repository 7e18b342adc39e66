"""Runner records on GitLab: made, paused, removed; jobs with their tags; the beacon; everything that can go wrong."""

from __future__ import annotations

import http.client
import json
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.core.model import Scope, ScopeKind
from app.forges.contract import Forge, ForgeDown, ForgeRefused, Minted, RunnerBusy, RunnerOrder
from providers.contract import Secret
from tests.fakes.gitlab import TOKEN, FakeGitLab
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import HOOK_SECRET, GitLabSide

PROJECT = Scope(ScopeKind.REPOSITORY, "acme/research/train")
GROUP = Scope(ScopeKind.ORGANIZATION, "acme/research")
INSTANCE = Scope(ScopeKind.ENTERPRISE, "gitlab")


def order(scope: Scope = PROJECT, name: str = "sublet-brave-owl-12-1", **changes: object) -> RunnerOrder:
    values: dict[str, object] = {"name": name, "scope": scope, "labels": ("gpu", "Rubin"), "idle_limit": timedelta(minutes=3)}
    return RunnerOrder(**{**values, **changes})  # pyright: ignore[reportArgumentType]  a test's shorthand


def ask_for_job(server: FakeGitLab, token: str) -> tuple[int, Any]:
    """What gitlab-runner does every few seconds."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=5)
    try:
        connection.request("POST", f"{url.path}/api/v4/jobs/request", json.dumps({"token": token}))
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw else None
    finally:
        connection.close()


def token_of(minted: Minted) -> str:
    return minted.credential.environment["CI_SERVER_TOKEN"].reveal()


def test_it_is_a_forge(gitlab: GitLabSide) -> None:
    forge: Forge = gitlab.forge()
    assert (forge.name, forge.kind, forge.always_2xx) == ("gitlab", "gitlab", True)


def test_a_record_is_made_for_a_project_a_group_and_the_whole_instance(any_gitlab: GitLabSide) -> None:
    server, forge = any_gitlab.server, any_gitlab.forge()
    project, group = server.add_project(PROJECT.path), server.add_group(GROUP.path)
    for scope, kind, owner in (
        (PROJECT, "project_type", {"project_id": project}),
        (GROUP, "group_type", {"group_id": group}),
        (INSTANCE, "instance_type", {}),
    ):
        forge.mint_runner(order(scope, max_duration=timedelta(hours=2), description="Sublet lease brave-owl"))
        assert server.requests[-1].body == {
            "runner_type": kind,
            **owner,
            "description": "sublet-brave-owl-12-1",
            "tag_list": ["gpu", "Rubin"],
            "run_untagged": False,
            "locked": True,
            "paused": False,
            "maximum_timeout": 7200,
            "maintenance_note": "Sublet lease brave-owl",
        }


def test_the_command_serves_one_job_and_the_token_is_not_in_it(gitlab: GitLabSide) -> None:
    gitlab.server.add_project(PROJECT.path)
    minted = gitlab.forge().mint_runner(order())
    credential, url = minted.credential, gitlab.server.url
    usual = "gitlab-runner run-single --url {} --executor shell --max-builds 1 --wait-timeout 180"
    assert list(credential.command) == usual.format(url).split()
    told = {name: value.reveal() for name, value in credential.environment.items()}
    assert told == {
        "CI_SERVER_TOKEN": gitlab.server.runners[int(minted.runner_id)].token,
        "CI_SERVER_URL": url,
        "RUNNER_EXECUTOR": "shell",
        "RUNNER_NAME": "sublet-brave-owl-12-1",
    }
    assert credential.ready == "Starting runner for"
    assert told["CI_SERVER_TOKEN"] not in repr(minted)


def test_a_pools_own_command_and_short_limits(gitlab: GitLabSide) -> None:
    gitlab.server.add_project(PROJECT.path)
    minted = gitlab.forge().mint_runner(order(command=("my-runner",), max_duration=timedelta(minutes=1)))
    assert minted.credential.command == ("my-runner",)
    assert gitlab.server.runners[int(minted.runner_id)].maximum_timeout == 600, "GitLab refuses less than ten minutes"


def test_a_lost_answer_leaves_a_record_that_its_name_finds(gitlab: GitLabSide) -> None:
    """Names are not unique here: asking again makes a second record, and the first is found by its description."""
    gitlab.server.add_project(PROJECT.path)
    forge = gitlab.forge()
    gitlab.server.fault("/user/runners", "lose answer")
    with pytest.raises(ForgeDown, match="gave no answer"):
        forge.mint_runner(order())
    (left,) = forge.runners(PROJECT, "sublet-brave-owl-12-1")
    assert left.name == "sublet-brave-owl-12-1"
    forge.remove_runner(PROJECT, left.runner_id)
    assert forge.mint_runner(order()).runner_id != left.runner_id


def test_nothing_is_ever_asked_twice(gitlab: GitLabSide) -> None:
    """python-gitlab would sleep and repeat on 429, ten times."""
    gitlab.server.add_project(PROJECT.path)
    for kind, wait in (("429", 60), ("500", 15), ("503", 15)):
        gitlab.server.fault("/user/runners", kind, times=9)
        before = len(gitlab.server.requests)
        with pytest.raises(ForgeDown) as caught:
            gitlab.forge().mint_runner(order())
        assert caught.value.wait == timedelta(seconds=wait)
        assert len(gitlab.server.requests) == before + 2
        gitlab.server.loopback.faults.clear()


def test_retry_after_is_honoured_as_a_wait(gitlab: GitLabSide) -> None:
    gitlab.server.fault("/projects/", "429", retry_after=42)
    with pytest.raises(ForgeDown, match="slow down") as caught:
        gitlab.forge().mint_runner(order())
    assert caught.value.wait == timedelta(seconds=42)


REFUSALS = [
    (Reply(401, {"message": "401 Unauthorized"}), "401 Unauthorized"),
    (Reply(403, {"message": "403 Forbidden - Insufficient permissions"}), "Insufficient permissions"),
    (Reply(403, {"error": "insufficient_scope", "error_description": "needs higher privileges"}), "higher privileges"),
    (Reply(400, {"message": {"tag_list": ["is bad"]}}), "is bad"),
    (Reply(422, None, {}, b"<html>"), "HTTP 422"),
    (Reply(302, None, {"Location": "http://127.0.0.2:9/sign_in"}), "sends us elsewhere"),
]


@pytest.mark.parametrize(("reply", "words"), REFUSALS)
def test_a_definite_no_is_for_a_person_in_gitlabs_words(gitlab: GitLabSide, reply: Reply, words: str) -> None:
    gitlab.server.add_project(PROJECT.path)
    gitlab.server.loopback.faults.append(Fault(path="/user/runners", reply=reply))
    with pytest.raises(ForgeRefused) as caught:
        gitlab.forge().mint_runner(order())
    assert words in str(caught.value)


def test_a_redirect_takes_no_token_along(gitlab: GitLabSide) -> None:
    """`requests` follows redirects and would carry PRIVATE-TOKEN to another host."""
    other = FakeGitLab(gitlab.clock.now)
    other.start()
    target = Reply(301, None, {"Location": f"{other.url}/api/v4/runners/7"})
    gitlab.server.loopback.faults.append(Fault("GET", "/runners/7", reply=target))
    with pytest.raises(ForgeRefused, match="sends us elsewhere"):
        gitlab.forge().runner(PROJECT, "7")
    assert other.requests == []
    other.stop()


@pytest.mark.parametrize("body", [{}, [], {"id": 5}, {"token": "glrt-xxxxxxxxxx"}, {"id": "x", "token": "glrt-xxxxxxxxxx"}])
def test_a_success_that_cannot_be_read_is_no_clear_answer(gitlab: GitLabSide, body: object) -> None:
    gitlab.server.add_project(PROJECT.path)
    gitlab.server.loopback.faults.append(Fault(path="/user/runners", reply=Reply(201, body)))
    with pytest.raises(ForgeDown, match="unreadable"):
        gitlab.forge().mint_runner(order())


def test_a_forge_that_hangs_or_is_not_there_is_no_clear_answer(gitlab: GitLabSide) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        forge = gitlab.forge(url=f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=timedelta(seconds=0.2))
        with pytest.raises(ForgeDown, match="ReadTimeout"):
            forge.runner(PROJECT, "3")
    gone = gitlab.forge()
    gitlab.server.loopback.stop()
    with pytest.raises(ForgeDown, match="gave no answer"):
        gone.runner(PROJECT, "3")


def test_a_project_or_group_that_is_not_there_is_a_sentence(gitlab: GitLabSide) -> None:
    for scope in (PROJECT, GROUP):
        with pytest.raises(ForgeRefused, match=f"GitLab has no {scope.kind} {scope.path}"):
            gitlab.forge().mint_runner(order(scope))


def test_a_path_that_now_means_another_project_is_not_served(gitlab: GitLabSide) -> None:
    moved = Reply(200, {"id": 9, "path_with_namespace": "mallory/train"})
    gitlab.server.loopback.faults.append(Fault("GET", "/projects/", reply=moved))
    with pytest.raises(ForgeDown, match="it is not acme/research/train"):
        gitlab.forge().mint_runner(order())


@pytest.mark.parametrize("path", ["acme", "acme/..", "../acme/train", "acme/tr ain", "a/b?c", ""])
def test_what_is_no_path_never_reaches_a_url(gitlab: GitLabSide, path: str) -> None:
    with pytest.raises(ForgeRefused):
        gitlab.forge().mint_runner(order(Scope(ScopeKind.REPOSITORY, path)))
    assert gitlab.server.requests == []


@pytest.mark.parametrize("labels", [(), ("gpu,admin",), ("",), tuple(map(str, range(51)))])
def test_tags_that_gitlab_would_take_apart_or_refuse_are_not_asked_for(gitlab: GitLabSide, labels: tuple[str, ...]) -> None:
    with pytest.raises(ForgeRefused, match="tags"):
        gitlab.forge().mint_runner(order(labels=labels))


def test_a_runners_whole_life(any_gitlab: GitLabSide) -> None:
    """Minted, polled, paused while its job runs so that it gets no second one, removed after."""
    server, forge = any_gitlab.server, any_gitlab.forge()
    project = server.add_project(PROJECT.path)
    first, second = server.queue_job(project, ["gpu"]), server.queue_job(project, ["gpu"])
    minted = forge.mint_runner(order())
    assert ask_for_job(server, token_of(minted))[1]["id"] == first.id
    forge.job_started(PROJECT, minted.runner_id)
    assert ask_for_job(server, token_of(minted)) == (204, None)
    view = forge.runner(PROJECT, minted.runner_id)
    assert view is not None
    assert (view.name, view.online, view.busy) == ("sublet-brave-owl-12-1", True, True)
    with pytest.raises(RunnerBusy):
        forge.remove_runner(PROJECT, minted.runner_id)
    server.finish_job(first)
    forge.remove_runner(PROJECT, minted.runner_id)
    forge.remove_runner(PROJECT, minted.runner_id)
    forge.job_started(PROJECT, minted.runner_id)
    assert forge.runner(PROJECT, minted.runner_id) is None
    assert ask_for_job(server, token_of(minted))[0] == 403
    assert second.status == "pending"


def test_removal_pauses_before_it_looks(gitlab: GitLabSide) -> None:
    """Otherwise a job could come between the look and the deletion."""
    gitlab.server.add_project(PROJECT.path)
    forge = gitlab.forge()
    minted = forge.mint_runner(order())
    forge.remove_runner(PROJECT, minted.runner_id)
    assert [one.verb for one in gitlab.server.requests][-2:] == ["PUT", "DELETE"]
    assert gitlab.server.removed[0].paused


def test_an_older_server_is_asked_for_the_runners_jobs(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge()
    server.api.tells_execution = False
    job = server.queue_job(server.add_project(PROJECT.path), ["gpu"])
    minted = forge.mint_runner(order())
    server.start_job(job, int(minted.runner_id))
    view = forge.runner(PROJECT, minted.runner_id)
    assert view is not None
    assert view.busy is None
    with pytest.raises(RunnerBusy):
        forge.remove_runner(PROJECT, minted.runner_id)
    server.fault(f"/runners/{minted.runner_id}/jobs", "500")
    with pytest.raises(ForgeDown):  # not knowing is no leave to delete
        forge.remove_runner(PROJECT, minted.runner_id)
    server.finish_job(job)
    forge.remove_runner(PROJECT, minted.runner_id)
    assert server.runners == {}


def test_a_listing_is_whole_and_leaves_beacons_out(gitlab: GitLabSide) -> None:
    server, forge = gitlab.server, gitlab.forge()
    server.add_project(PROJECT.path)
    server.api.page_cap = 2
    for number in range(5):
        forge.mint_runner(order(name=f"sublet-{number}"))
    forge.mint_runner(order(name="somebody-else"))
    forge.mint_runner(order(GROUP, name="sublet-of-the-group"))
    forge.light_beacon(PROJECT, ("gpu",), None, "")
    assert [one.name for one in forge.runners(PROJECT, "sublet-")] == [f"sublet-{number}" for number in range(5)]
    assert [one.name for one in forge.runners(GROUP, "sublet-")] == ["sublet-of-the-group"]
    assert list(forge.runners(INSTANCE, "sublet-")) == []
    server.loopback.faults += [Fault("GET", "/runners", effect=True), Fault("GET", "/runners", reply=Reply(500))]
    with pytest.raises(ForgeDown):
        forge.runners(PROJECT, "sublet-")


def test_the_check_tells_what_the_token_may(any_gitlab: GitLabSide) -> None:
    forge, api = any_gitlab.forge(), any_gitlab.server.api
    assert forge.check() == "gitlab: the token sublet is good until 2027-01-31."
    api.scopes = ["api"]
    assert "good" in forge.check()
    api.scopes = ["read_api"]
    with pytest.raises(ForgeRefused, match="lacks the scopes create_runner, manage_runner"):
        forge.check()
    with pytest.raises(ForgeRefused, match="401 Unauthorized"):
        any_gitlab.forge(token=Secret("glpat-wrong")).check()
    any_gitlab.server.fault("/personal_access_tokens/self", "404")
    assert forge.check() == "gitlab: the token is good."


def test_every_answer_tells_how_many_calls_are_left(gitlab: GitLabSide) -> None:
    gitlab.forge().check()
    assert gitlab.rates == [("gitlab", 1999), ("gitlab", 1998)]


def test_no_secret_shows_anywhere(gitlab: GitLabSide, all_logs: Callable[[], str]) -> None:
    """Not in logs, not in reprs, not in errors with their whole chain of causes."""
    gitlab.server.add_project(PROJECT.path)
    forge = gitlab.forge()
    minted = forge.mint_runner(order())
    lit = forge.light_beacon(PROJECT, ("gpu",), None, "")
    told = [repr(forge), repr(vars(forge)), repr(minted), repr(lit)]
    gitlab.server.fault("/runners", "hang up")
    careless = gitlab.forge(token=Secret("bad\ntoken-of-a-careless-person"))
    for one in (forge, careless):
        with pytest.raises((ForgeDown, ForgeRefused)) as caught:
            one.runners(PROJECT, "")
        told.append("".join(traceback.format_exception(caught.value)))
    told.append(all_logs())
    tokens = [runner.token for runner in gitlab.server.runners.values()]
    for secret in [*tokens, TOKEN, HOOK_SECRET, "token-of-a-careless-person"]:
        assert not [text for text in told if secret in text]
