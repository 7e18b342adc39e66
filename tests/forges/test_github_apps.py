"""Several GitHub Apps: each has a quota of its own, and a call goes to whichever has most left."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from app.core.model import Job, JobState, Scope, ScopeKind
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Pace, RunnerOrder
from app.forges.github import GitHubForge
from app.forges.github_auth import AppKey
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitHubSide

REPOSITORY = Scope(ScopeKind.REPOSITORY, "acme/train")


def two(side: GitHubSide, *, installed: bool = True) -> GitHubForge:
    """A forge with a second App, whose installation at acme is number 99."""
    side.server.more_apps["4712"] = {99: "acme"} if installed else {}
    return side.forge(more_apps=[AppKey("4712", Secret(side.private_key))])


def order(name: str) -> RunnerOrder:
    return RunnerOrder(name=name, scope=REPOSITORY, labels=("gpu",), installation="77")


def askers(side: GitHubSide, piece: str) -> Counter[int]:
    """How often each installation asked for this."""
    tokens = [one.headers["authorization"].partition(" ")[2] for one in side.server.requests if piece in one.path]
    return Counter(side.server.grants[token].installation for token in tokens if token in side.server.grants)


def test_calls_go_to_the_app_with_most_left(github: GitHubSide) -> None:
    github.server.left = {"77": 4000, "99": 4000}
    forge = two(github)
    for number in range(10):
        forge.mint_runner(order(f"fox-{number}"))
    assert askers(github, "generate-jitconfig") == {77: 5, 99: 5}
    github.server.left["77"] = 200
    for number in range(10, 20):
        forge.mint_runner(order(f"fox-{number}"))
    assert askers(github, "generate-jitconfig")[77] <= 6


def test_an_app_that_is_not_installed_is_left_out_and_not_asked_each_time(github: GitHubSide) -> None:
    forge = two(github, installed=False)
    for number in range(5):
        forge.mint_runner(order(f"fox-{number}"))
    assert askers(github, "generate-jitconfig") == {77: 5}
    assert len([one for one in github.server.requests if one.path.endswith("/installation")]) <= 1
    github.server.left = {"77": 10}
    github.server.more_apps["4712"] = {99: "acme"}
    forge.mint_runner(order("fox-5"))
    github.clock.forward(timedelta(minutes=11))
    forge.mint_runner(order("fox-6"))
    assert askers(github, "generate-jitconfig") == {77: 6, 99: 1}


def test_the_webhooks_installation_is_the_first_apps_only(github: GitHubSide) -> None:
    github.server.left = {"77": 100, "99": 4000}
    forge = two(github)
    for number in range(3):
        forge.mint_runner(order(f"fox-{number}"))
    traded = [one.path for one in github.server.requests if one.path.endswith("/access_tokens")]
    assert "/app/installations/99/access_tokens" in traded
    assert askers(github, "generate-jitconfig")[99] == 2


def test_one_that_github_slows_down_is_replaced_at_once(github: GitHubSide) -> None:
    """A refusal did nothing, so that another App may ask again, even for a runner."""
    forge = two(github)
    github.server.fault(Fault("POST", "generate-jitconfig", reply=Reply(403, {"message": "slow"}, {"Retry-After": "60"})))
    assert forge.mint_runner(order("fox-1")).runner_id
    assert forge.mint_runner(order("fox-2")).runner_id
    assert sorted(askers(github, "generate-jitconfig").values()) == [1, 2]


def test_when_all_are_held_back_the_wait_is_the_shortest(github: GitHubSide) -> None:
    forge = two(github)
    slow = [Reply(429, {"message": "slow"}, {"Retry-After": str(seconds)}) for seconds in (300, 120)]
    for reply in slow:
        github.server.fault(Fault("GET", "/actions/runners", reply=reply))
    with pytest.raises(ForgeDown):
        forge.runners(REPOSITORY, "", "77")
    assert forge.pace() is Pace.STOP
    asked = len(github.server.requests)
    with pytest.raises(HeldBack) as caught:
        forge.runners(REPOSITORY, "", "77")
    assert (caught.value.wait, len(github.server.requests)) == (timedelta(seconds=120), asked)


def test_a_lost_answer_is_not_asked_for_again_by_another_app(github: GitHubSide) -> None:
    forge = two(github)
    github.server.fault(Fault("POST", "generate-jitconfig", effect=True, hang_up=True))
    with pytest.raises(ForgeDown, match="gave no answer"):
        forge.mint_runner(order("fox-1"))
    assert len(github.server.place("repos/acme/train").runners) == 1


def test_none_installed_is_a_sentence(github: GitHubSide) -> None:
    github.server.installations = {}
    with pytest.raises(ForgeRefused, match="not installed on acme/train"):
        two(github, installed=False).mint_runner(order("fox-1"))


def test_the_check_signs_every_app_in(github: GitHubSide) -> None:
    assert two(github).check() == "github: the App sublet-ci signs in; the App sublet-ci signs in."
    with pytest.raises(ValueError, match="same id"):
        github.forge(more_apps=[AppKey("4711", Secret(github.private_key))])


def test_a_job_on_github_costs_two_calls(github: GitHubSide) -> None:
    """One look at its run and one credential; tokens, groups and installations are for many jobs."""
    forge = github.forge()
    for number in range(20):
        job = Job(f"github-{number}", "github", str(number), "acme/train", JobState.QUEUED, run_id="9", installation="77")
        github.server.fault(Fault("GET", "/actions/runs/9", reply=Reply(200, RUN)))
        forge.fetch_run(job)
        forge.mint_runner(order(f"fox-{number}"))
        forge.job_started(REPOSITORY, "1", "77")
    kinds = Counter(one.path.rpartition("/")[2] for one in github.server.requests)
    assert kinds == {"9": 20, "generate-jitconfig": 20, "access_tokens": 2}


def test_a_job_of_an_organisation_costs_two_calls_too(github: GitHubSide) -> None:
    forge, scope = github.forge(), Scope(ScopeKind.ORGANIZATION, "acme")
    for number in range(20):
        forge.mint_runner(RunnerOrder(name=f"fox-{number}", scope=scope, labels=("gpu",), group="GPU machines"))
    kinds = Counter(one.path.rpartition("/")[2] for one in github.server.requests)
    assert kinds == {"generate-jitconfig": 20, "installation": 1, "access_tokens": 1, "runner-groups": 1}


RUN = {
    "id": 9,
    "run_attempt": 1,
    "event": "push",
    "repository": {"id": 5, "full_name": "acme/train"},
    "head_repository": {"id": 5, "full_name": "acme/train"},
    "triggering_actor": {"login": "ann"},
}
