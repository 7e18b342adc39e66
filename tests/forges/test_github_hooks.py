"""Without an App, the webhooks of repositories and organisations are looked into, where the token may."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.forges.contract import ForgeRefused, HeldBack, Missed
from app.forges.github import GitHubForge
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitHubSide

OURS = "https://ci.acme.example/hooks/github"
EMPTY = Reply(200, {"total_count": 0, "workflow_runs": []})


def polled(side: GitHubSide, *repositories: str, hook_url: str = OURS) -> GitHubForge:
    """A forge with a personal token that has polled these repositories."""
    forge = side.personal(hook_url=hook_url)
    side.server.fault(Fault("GET", "/actions/runs", times=5 * len(repositories), reply=EMPTY))
    for repository in repositories:
        forge.open_jobs(repository)
    return forge


def test_failed_deliveries_of_our_webhooks_are_found_and_sent_again(any_github: GitHubSide) -> None:
    hooks = any_github.server.hooks
    own = hooks.add("repos/acme/train", OURS.upper().replace("/HOOKS/GITHUB", "/hooks/github/"))
    others = hooks.add("repos/acme/train", "https://elsewhere.example/hooks/github")
    of_owner = hooks.add("orgs/acme", OURS)
    for hook in (own, others, of_owner):
        hooks.attempt(hook, f"lost-{hook}", "2026-11-21T11:50:00Z", ok=False)
    hooks.attempt(own, "came-later", "2026-11-21T11:51:00Z", ok=False)
    hooks.attempt(own, "came-later", "2026-11-21T11:55:00Z", ok=True)
    hooks.attempt(own, "ping", "2026-11-21T11:56:00Z", ok=False, event="ping")
    forge = polled(any_github, "acme/train")
    found = forge.missed(any_github.clock.now() - timedelta(hours=1))
    assert sorted(one.guid for one in found) == [f"lost-{own}", f"lost-{of_owner}"]
    for one in found:
        forge.redeliver(one)
    assert sorted(hooks.again) == sorted([hooks.logs[own][-1]["id"], hooks.logs[of_owner][-1]["id"]])


def test_where_the_webhooks_are_is_asked_twice_an_hour(github: GitHubSide) -> None:
    github.server.hooks.add("repos/acme/train", OURS)
    forge = polled(github, "acme/train")
    for _ in range(3):
        forge.missed(github.clock.now() - timedelta(hours=1))
    assert [one.path for one in github.server.requests if one.path.endswith("/hooks")] == [
        "/repos/acme/train/hooks",
        "/orgs/acme/hooks",
    ]


def test_rights_that_do_not_reach_are_a_sentence(github: GitHubSide) -> None:
    github.server.hooks.hidden.add("repos/acme/train")
    with pytest.raises(ForgeRefused, match="admin:repo_hook"):
        polled(github, "acme/train").missed(github.clock.now())
    github.server.hooks.add("repos/acme/eval", OURS)
    assert polled(github, "acme/train", "acme/eval").missed(github.clock.now()) == []  # what can be seen is looked into


def test_before_anything_was_asked_nobody_says_that_all_arrived(github: GitHubSide) -> None:
    with pytest.raises(HeldBack):
        polled(github).missed(github.clock.now())


def test_what_got_lost_before_anything_was_asked_is_found_where_the_settings_name_the_repository(github: GitHubSide) -> None:
    hook = github.server.hooks.add("repos/acme/train", OURS)
    github.server.hooks.attempt(hook, "lost-while-away", "2026-11-21T11:50:00Z", ok=False)
    forge = github.personal(hook_url=OURS, named=["acme/train"])
    assert [one.guid for one in forge.missed(github.clock.now() - timedelta(hours=1))] == ["lost-while-away"]


def test_without_an_address_of_our_own_no_webhook_is_ours(github: GitHubSide) -> None:
    with pytest.raises(ForgeRefused, match="public address"):
        polled(github, "acme/train", hook_url="").missed(github.clock.now())


def test_a_delivery_of_an_app_is_beyond_a_personal_token(github: GitHubSide) -> None:
    with pytest.raises(ForgeRefused, match="no longer configured"):
        polled(github).redeliver(Missed("/app/hook/deliveries/1", "g", github.clock.now()))
