"""Who we are to GitHub: installation tokens, narrowed, kept, and renewed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from app.core.model import Job, JobState, Scope, ScopeKind
from app.forges.budget import MinuteLimits
from app.forges.contract import ForgeDown, ForgeRefused, RunnerOrder
from app.forges.github_wire import api_address, minute_limits
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitHubSide

REPOSITORY = Scope(ScopeKind.REPOSITORY, "acme/train")
ORGANIZATION = Scope(ScopeKind.ORGANIZATION, "acme")


def order(scope: Scope, name: str = "sublet-brave-owl-12-1", installation: str = "77") -> RunnerOrder:
    return RunnerOrder(name=name, scope=scope, labels=("gpu", "Rubin"), installation=installation)


def trades(side: GitHubSide) -> list[object]:
    return [one.body for one in side.server.requests if one.path.endswith("/access_tokens")]


def test_a_token_is_narrowed_to_the_repository_and_to_its_purpose(any_github: GitHubSide) -> None:
    any_github.server.add_job("acme/train", 5)
    forge = any_github.forge()
    forge.mint_runner(order(REPOSITORY))
    forge.fetch_job(Job("github-5", "github", "5", "acme/train", JobState.QUEUED, installation="77"))
    assert trades(any_github) == [
        {"permissions": {"administration": "write"}, "repositories": ["train"]},
        {"permissions": {"actions": "read"}, "repositories": ["train"]},
    ]


def test_an_organisation_token_may_do_runners_and_nothing_else(github: GitHubSide) -> None:
    github.forge().mint_runner(order(ORGANIZATION))
    assert trades(github) == [{"permissions": {"organization_self_hosted_runners": "write"}}]


def test_a_token_is_kept_until_shortly_before_its_end(github: GitHubSide) -> None:
    forge = github.forge()
    forge.runners(REPOSITORY, "sublet", "77")
    github.clock.forward(timedelta(minutes=54))
    forge.runners(REPOSITORY, "sublet", "77")
    assert len(trades(github)) == 1
    github.clock.forward(timedelta(minutes=2))
    forge.runners(REPOSITORY, "sublet", "77")
    assert len(trades(github)) == 2


def test_tokens_of_two_thousand_characters_work(github: GitHubSide) -> None:
    github.forge().mint_runner(order(REPOSITORY))
    assert min(len(token) for token in github.server.grants) > 2000


def test_many_threads_share_one_forge(github: GitHubSide) -> None:
    """PyGithub's clients are not for sharing: each thread has its own, and all have the same tokens."""
    forge = github.forge()
    forge.mint_runner(order(REPOSITORY, "first"))
    orders = [order(REPOSITORY, f"sublet-{number}") for number in range(12)]
    with ThreadPoolExecutor(4) as pool:
        minted = list(pool.map(forge.mint_runner, orders))
    assert len({one.runner_id for one in minted}) == 12
    assert len(trades(github)) == 1


def test_the_installation_is_looked_up_where_the_webhook_did_not_say(github: GitHubSide) -> None:
    forge = github.forge()
    forge.mint_runner(order(REPOSITORY, "a-1", ""))
    forge.mint_runner(order(ORGANIZATION, "a-2", ""))
    forge.mint_runner(order(REPOSITORY, "a-3", ""))
    looked = [one.path for one in github.server.requests if one.path.endswith("/installation")]
    assert looked == ["/repos/acme/train/installation", "/orgs/acme/installation"]


def test_an_app_that_was_installed_anew_is_found_again(github: GitHubSide) -> None:
    """The webhook of an old delivery names an installation that is gone."""
    github.server.installations = {88: "acme"}
    assert github.forge().mint_runner(order(REPOSITORY, installation="77")).runner_id


def test_an_app_that_is_not_installed_is_a_sentence(github: GitHubSide) -> None:
    github.server.installations = {}
    with pytest.raises(ForgeRefused, match=r"not installed on acme/train"):
        github.forge().mint_runner(order(REPOSITORY))


def test_a_token_that_was_revoked_is_replaced_once(github: GitHubSide) -> None:
    forge = github.forge()
    forge.runners(REPOSITORY, "", "77")
    github.server.grants.clear()
    assert forge.runners(REPOSITORY, "", "77") == []
    github.server.fault(Fault(path="/actions/runners", times=2, reply=Reply(401, {"message": "Bad credentials"})))
    with pytest.raises(ForgeRefused, match="Bad credentials"):
        forge.runners(REPOSITORY, "", "77")


def test_missing_rights_come_in_githubs_own_words(github: GitHubSide) -> None:
    github.server.permissions = {"actions": "read"}
    with pytest.raises(ForgeRefused, match="permissions requested are not granted"):
        github.forge().mint_runner(order(REPOSITORY))


def test_a_repository_that_the_app_may_not_see_is_refused(github: GitHubSide) -> None:
    with pytest.raises(ForgeRefused):
        github.forge().mint_runner(order(Scope(ScopeKind.REPOSITORY, "acme/secret")))


def test_enterprise_runners_take_the_personal_token(github: GitHubSide) -> None:
    scope = Scope(ScopeKind.ENTERPRISE, "acme-inc")
    with pytest.raises(ForgeRefused, match="manage_runners:enterprise"):
        github.forge().mint_runner(order(scope))
    forge = github.forge(token=Secret(github.server.personal))
    assert forge.mint_runner(order(scope)).runner_id
    assert trades(github) == []


def test_a_personal_token_serves_where_there_is_no_app(any_github: GitHubSide) -> None:
    forge = any_github.personal()
    for place, scope in enumerate((REPOSITORY, ORGANIZATION, Scope(ScopeKind.ENTERPRISE, "acme-inc"))):
        assert forge.mint_runner(order(scope, f"b-{place}")).runner_id
    assert trades(any_github) == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(201, {"expires_at": "2026-11-21T13:00:00Z"}),
        Reply(201, {"token": 5}),
        Reply(201, {"token": "a b\nc" * 9}),
        Reply(201, []),
        Reply(201, raw=b"<html>"),
    ],
)
def test_a_token_answer_that_is_none_is_no_clear_answer(github: GitHubSide, reply: Reply) -> None:
    github.server.fault(Fault(path="/access_tokens", reply=reply))
    with pytest.raises(ForgeDown, match="unreadable"):
        github.forge().mint_runner(order(REPOSITORY))


def test_a_key_that_is_none_is_told_without_showing_it(github: GitHubSide) -> None:
    forge = github.forge(private_key=Secret("-----BEGIN NONSENSE-----"))
    with pytest.raises(ForgeRefused, match="private key cannot sign") as caught:
        forge.mint_runner(order(REPOSITORY))
    assert "NONSENSE" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_check_tells_who_we_are_and_what_is_missing(any_github: GitHubSide) -> None:
    forge = any_github.forge(token=Secret(any_github.server.personal))
    assert forge.check() == "github: the App sublet-ci signs in; the personal token is good, 4999 calls left this hour."
    any_github.server.events = []
    assert "not subscribed to workflow_job" in forge.check()
    any_github.server.permissions = {"administration": "write"}
    with pytest.raises(ForgeRefused, match="actions: read"):
        forge.check()
    any_github.server.permissions = {"actions": "read"}
    with pytest.raises(ForgeRefused, match="may register no runner"):
        forge.check()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://github.com/", "https://api.github.com"),
        ("https://acme.ghe.com", "https://api.acme.ghe.com"),
        ("https://git.acme.example", "https://git.acme.example/api/v3"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000/api/v3"),
    ],
)
def test_the_api_address_follows_from_the_web_address(url: str, expected: str) -> None:
    assert api_address(url) == expected


def test_untold_limits_are_githubs_own_and_not_those_of_a_server_of_ones_own() -> None:
    assert minute_limits("api.github.com") == minute_limits("api.acme.ghe.com") == MinuteLimits(points=900, creations=80)
    assert minute_limits("git.acme.example") == minute_limits("ghe.com.example") == MinuteLimits()


@pytest.mark.parametrize(
    "changes",
    [
        {"app_id": ""},
        {"private_key": None},
        {"app_id": "", "private_key": None},
        {"webhook_secret": Secret("")},
        {"webhook_secret": Secret("  ")},
        {"webhook_secret_previous": Secret("")},
        {"api_url": "ftp://github.com"},
        {"api_url": "https://user:hunter2@github.com"},
    ],
)
def test_half_a_configuration_is_refused_at_once(github: GitHubSide, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="GitHub") as caught:
        github.forge(**changes)
    assert "hunter2" not in str(caught.value)
