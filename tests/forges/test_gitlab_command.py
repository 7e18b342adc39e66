"""What starts GitLab's runner: a pool's own command, the oldest runner and the oldest server that will do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.forges.contract import ForgeRefused
from app.forges.gitlab_command import least_of
from tests.forges.conftest import GitLabSide
from tests.forges.test_gitlab_runners import PROJECT, order, token_of


def test_a_pools_own_command_is_a_template_and_the_token_stays_out_of_it(any_gitlab: GitLabSide) -> None:
    any_gitlab.server.add_project(PROJECT.path)
    forge, url = any_gitlab.forge(), any_gitlab.server.url
    pinned = ("/opt/gitlab-runner-17.1.0", "run-single", "--url", "{url}", "--wait-timeout", "{idle_seconds}", "--shell", "{}")
    minted = forge.mint_runner(order(command=pinned))
    assert list(minted.credential.command) == f"{pinned[0]} run-single --url {url} --wait-timeout 180 --shell {{}}".split()
    assert minted.credential.least is not None
    assert minted.credential.least.command == ("/opt/gitlab-runner-17.1.0", "--version")
    own = forge.mint_runner(order(command=("/opt/go", "--as={name}", "{labels}"), idle_limit=timedelta(0)))
    assert own.credential.command == ("/opt/go", "--as=sublet-brave-owl-12-1", "gpu,Rubin")
    assert own.credential.least is None
    for made in (minted, own):
        assert not [word for word in made.credential.command if token_of(made) in word]
        assert made.credential.environment["CI_SERVER_URL"].reveal() == url


def test_a_place_that_nobody_fills_in_is_refused_before_a_record_is_made(gitlab: GitLabSide) -> None:
    with pytest.raises(ForgeRefused) as caught:
        gitlab.forge().mint_runner(order(command=("gitlab-runner", "run-single", "--token", "{token}")))
    assert "{token}" in str(caught.value) and "{idle_seconds}, {labels}, {name}, {url}" in str(caught.value)
    assert gitlab.server.requests == []


@pytest.mark.parametrize(
    ("program", "asked"),
    [
        ("gitlab-runner", True),
        ("/usr/bin/gitlab-runner", True),
        ("/opt/gitlab-runner-linux-amd64", True),
        ("/opt/gitlab-runner/go", False),
        ("my-gitlab-runner", False),
    ],
)
def test_the_oldest_runner_that_takes_a_token_of_its_own(program: str, asked: bool) -> None:
    least = least_of((program, "run-single"))
    assert (least is not None) == asked
    if least is not None:
        assert (least.command, least.version) == ((program, "--version"), "16.0.0")
        assert "from 16.0 on; put a newer gitlab-runner into the pool's image or `runner_command`." in least.why


def test_tags_that_no_runner_can_have_are_named(gitlab: GitLabSide) -> None:
    forge = gitlab.forge()
    assert forge.unfit(["gpu"]) == forge.unfit(["gpu"] * 50) == forge.unfit(["gpus:4"]) == ""
    for labels in ([], ["gpu"] * 51, ["gpu,big"]):
        assert "1 to 50 tags, and none with a comma" in forge.unfit(labels)


@pytest.mark.parametrize(("told", "old"), [("15.11.13-ee", True), ("16.0.0", False), ("19.4.0-pre", False), ("", False)])
def test_a_server_that_is_too_old_is_refused_with_a_sentence(any_gitlab: GitLabSide, told: str, old: bool) -> None:
    any_gitlab.server.api.version = told
    any_gitlab.server.api.scopes = ["read_api"] if old else ["api"]  # that old, it knows no other: its age is the reason
    for known in (True, False):
        if not known:
            any_gitlab.server.fault("/personal_access_tokens/self", "404")
        if old:
            with pytest.raises(ForgeRefused, match=r"GitLab 15\.11\.13 makes no runners .* that came with 16\.0\. Upgrade"):
                any_gitlab.forge().check()
        else:
            assert "is good" in any_gitlab.forge().check()


def test_a_server_that_hides_its_version_is_taken_at_its_tokens_word(gitlab: GitLabSide) -> None:
    gitlab.server.fault("/version", "403")
    assert "is good" in gitlab.forge().check()
