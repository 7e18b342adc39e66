"""Just-in-time runners on GitHub: minted, found, listed, removed, and everything that can go wrong."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from datetime import timedelta

import pytest

from app.core.model import Job, JobState, Scope, ScopeKind
from app.forges.contract import Forge, ForgeDown, ForgeRefused, NameTaken, RunnerBusy, RunnerOrder, RunnerView
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import HOOK_SECRET, GitHubSide

REPOSITORY = Scope(ScopeKind.REPOSITORY, "acme/train")
ORGANIZATION = Scope(ScopeKind.ORGANIZATION, "acme")
ENTERPRISE = Scope(ScopeKind.ENTERPRISE, "acme-inc")


def order(scope: Scope = REPOSITORY, name: str = "sublet-brave-owl-12-1", **changes: object) -> RunnerOrder:
    values: dict[str, object] = {"name": name, "scope": scope, "labels": ("self-hosted", "gpu", "Rubin"), "installation": "77"}
    return RunnerOrder(**{**values, **changes})  # pyright: ignore[reportArgumentType]  a test's shorthand


def queued(key: str = "5") -> Job:
    return Job(f"github-{key}", "github", key, "acme/train", JobState.QUEUED, labels=("old",), installation="77", actor="ann")


def test_it_is_a_forge(github: GitHubSide) -> None:
    forge: Forge = github.forge()
    assert (forge.name, forge.kind, forge.always_2xx) == ("github", "github", False)


@pytest.mark.parametrize(
    ("scope", "place", "group"),
    [(REPOSITORY, "repos/acme/train", 1), (ORGANIZATION, "orgs/acme", 1), (ENTERPRISE, "enterprises/acme-inc", 1)],
)
def test_a_runner_is_minted_at_every_level_with_exactly_the_labels(
    any_github: GitHubSide, scope: Scope, place: str, group: int
) -> None:
    minted = any_github.forge(token=Secret(any_github.server.personal)).mint_runner(order(scope))
    sent = next(one for one in any_github.server.requests if one.path.endswith("/generate-jitconfig"))
    assert sent.body == {
        "name": "sublet-brave-owl-12-1",
        "runner_group_id": group,
        "labels": ["self-hosted", "gpu", "Rubin"],
        "work_folder": "_work",
    }
    assert int(minted.runner_id) in any_github.server.place(place).runners


def test_the_config_reaches_the_runner_by_its_environment_only(github: GitHubSide) -> None:
    credential = github.forge().mint_runner(order()).credential
    assert credential.command == ("./run.sh",)
    assert credential.environment["ACTIONS_RUNNER_INPUT_JITCONFIG"].reveal() == github.server.minted_configs[0]
    assert credential.ready == "Listening for Jobs"
    assert not [word for word in credential.command if github.server.minted_configs[0] in word]
    assert github.server.minted_configs[0] not in repr(credential)


def test_a_runner_group_is_found_by_name_once(github: GitHubSide) -> None:
    forge = github.forge()
    forge.mint_runner(order(ORGANIZATION, "a-1", group="gpu machines"))
    forge.mint_runner(order(ORGANIZATION, "a-2", group="gpu machines"))
    groups = [one["runner_group_id"] for one in github.server.place("orgs/acme").runners.values()]
    assert groups == [7, 7]
    assert len([one for one in github.server.requests if one.path.endswith("/runner-groups")]) == 1
    with pytest.raises(ForgeRefused, match="no runner group 'Gone'"):
        forge.mint_runner(order(ORGANIZATION, "a-3", group="Gone"))


def test_a_group_that_was_replaced_is_looked_up_again(github: GitHubSide) -> None:
    forge = github.forge()
    forge.mint_runner(order(ORGANIZATION, "a-1", group="GPU machines"))
    github.server.place("orgs/acme").groups[1]["id"] = 8
    github.server.fault(Fault("POST", "generate-jitconfig", reply=Reply(404, {"message": "Not Found"})))
    with pytest.raises(ForgeRefused):
        forge.mint_runner(order(ORGANIZATION, "a-2", group="GPU machines"))
    forge.mint_runner(order(ORGANIZATION, "a-3", group="GPU machines"))
    assert [one["runner_group_id"] for one in github.server.place("orgs/acme").runners.values()] == [7, 8]


def test_a_lost_answer_then_the_same_name_is_name_taken(github: GitHubSide) -> None:
    """GitHub makes the offline record at once, so that asking again under the same name meets 409."""
    forge = github.forge()
    github.server.fault(Fault("POST", "generate-jitconfig", effect=True, hang_up=True))
    with pytest.raises(ForgeDown, match="gave no answer"):
        forge.mint_runner(order())
    (left,) = github.server.place("repos/acme/train").runners
    with pytest.raises(NameTaken) as caught:
        forge.mint_runner(order())
    assert caught.value.runner_id == str(left)
    forge.remove_runner(REPOSITORY, caught.value.runner_id, "77")
    assert forge.mint_runner(order(name="sublet-brave-owl-12-2")).runner_id


def test_a_taken_name_that_no_record_shows_is_still_name_taken(github: GitHubSide) -> None:
    """De-registration lags (actions/runner #2809); and the look itself may fail."""
    forge = github.forge()
    conflict = Reply(409, {"message": "Already exists"})
    github.server.fault(Fault("POST", "generate-jitconfig", reply=conflict))
    with pytest.raises(NameTaken) as caught:
        forge.mint_runner(order())
    assert caught.value.runner_id == ""
    github.server.fault(Fault("POST", "generate-jitconfig", reply=conflict))
    github.server.fault(Fault("GET", "/actions/runners", reply=Reply(500)))
    with pytest.raises(NameTaken):
        forge.mint_runner(order())


def test_a_post_is_never_repeated(github: GitHubSide) -> None:
    github.server.fault(Fault("POST", "generate-jitconfig", times=9, reply=Reply(502)))
    with pytest.raises(ForgeDown):
        github.forge().mint_runner(order())
    assert len([one for one in github.server.requests if one.path.endswith("/generate-jitconfig")]) == 1


FULL = {"message": "Runner group 1 has reached max limit of 10000 runners", "documentation_url": "https://docs.github.com"}
REFUSALS = [
    (Reply(422, FULL), "max limit of 10000 runners"),
    (Reply(422, {"message": "Validation failed", "errors": ["labels is bad"]}), "labels is bad"),
    (Reply(401, {"message": "Bad credentials"}), "Bad credentials"),
    (Reply(403, {"message": "Resource not accessible by integration"}), "not accessible by integration"),
    (Reply(404, {"message": "Not Found"}), "Not Found"),
    (Reply(400, raw=b"<html>not json</html>"), "HTTP 400"),
    (Reply(302, None, {"Location": "https://elsewhere.example/x"}), "sends us elsewhere"),
]
SLOW = [
    (Reply(403, {"message": "API rate limit exceeded"}, {"Retry-After": "90"}), 90),
    (Reply(429, {"message": "Too many"}, {"Retry-After": "7"}), 7),
    (Reply(429, {"message": "Too many"}, {"Retry-After": "Sat, 21 Nov 2026 12:02:00 GMT"}), 120),
    (Reply(429, {"message": "Too many"}, {"Retry-After": "soon"}), 60),
    (Reply(403, {"message": "Limit"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795262700"}), 300),
    (Reply(403, {"message": "Limit"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}), 1),
    (Reply(429, {"message": "Limit"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "999999999999"}), 3600),
    (Reply(429, {"message": "no word on when"}), 60),
    (Reply(403, {"message": "You have exceeded a secondary rate limit"}), 60),
    (Reply(503, {"message": "Unicorn"}, {"Retry-After": "30"}), 30),
    (Reply(500), 15),
    (Reply(502, raw=b"<html>bad gateway</html>"), 15),
]


@pytest.mark.parametrize(("reply", "words"), REFUSALS)
def test_a_definite_no_is_for_a_person_in_githubs_words(github: GitHubSide, reply: Reply, words: str) -> None:
    github.server.fault(Fault("POST", "generate-jitconfig", times=2, reply=reply))
    with pytest.raises(ForgeRefused) as caught:
        github.forge().mint_runner(order())
    assert words in str(caught.value)


@pytest.mark.parametrize(("reply", "seconds"), SLOW)
def test_slow_down_is_not_a_no(github: GitHubSide, reply: Reply, seconds: int) -> None:
    headers = {"X-RateLimit-Remaining": "4000", **reply.headers}
    github.server.fault(Fault("POST", "generate-jitconfig", reply=Reply(reply.status, reply.body, headers, reply.raw)))
    with pytest.raises(ForgeDown) as caught:
        github.forge().mint_runner(order())
    assert caught.value.wait == timedelta(seconds=seconds)


def test_a_forge_that_is_not_there_is_no_clear_answer(github: GitHubSide) -> None:
    """Nobody listens at a port that was just given back."""
    forge = github.forge()
    github.server.loopback.stop()
    with pytest.raises(ForgeDown, match="gave no answer when asked to"):
        forge.mint_runner(order())


def test_a_forge_that_hangs_is_left_after_the_timeout(github: GitHubSide) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        forge = github.personal(api_url=f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout=timedelta(seconds=1))
        with pytest.raises(ForgeDown, match="ReadTimeout"):
            forge.runner(REPOSITORY, "3")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"runner": {"id": "x"}, "encoded_jit_config": "abc"},
        {"runner": {"id": 4}},
        {"runner": {"id": 4}, "encoded_jit_config": ["abc"]},
        {"runner": [], "encoded_jit_config": "abc"},
    ],
)
def test_a_success_that_cannot_be_read_is_no_clear_answer(github: GitHubSide, body: object) -> None:
    github.server.fault(Fault("POST", "generate-jitconfig", reply=Reply(201, body)))
    with pytest.raises(ForgeDown, match="unreadable"):
        github.forge().mint_runner(order())


def test_a_long_answer_is_cut_and_its_tokens_are_blotted_out(github: GitHubSide) -> None:
    said = "ghs_" + "A1b2" * 20 + " and\x1b[31m\r\n" + "words " * 900
    github.server.fault(Fault("POST", "generate-jitconfig", reply=Reply(422, {"message": said})))
    with pytest.raises(ForgeRefused) as caught:
        github.forge().mint_runner(order())
    told = str(caught.value)
    assert "A1b2" not in told and "\x1b" not in told and "\n" not in told
    assert len(told) < 500


def test_a_repository_that_moved_is_followed(any_github: GitHubSide) -> None:
    """GitHub answers 301 to GET and 307 to POST for a renamed repository."""
    server = any_github.server
    server.repositories.add("acme/trained")
    for verb, status in (("POST", 307), ("GET", 301)):
        target = f"{server.url}/repos/acme/train/actions/runners" + ("/generate-jitconfig" if verb == "POST" else "/101")
        server.fault(Fault(verb, "/acme/trained/actions", reply=Reply(status, None, {"Location": target})))
    forge = any_github.personal()
    scope = Scope(ScopeKind.REPOSITORY, "acme/trained")
    runner_id = forge.mint_runner(order(scope)).runner_id
    found = forge.runner(scope, runner_id)
    assert found is not None
    assert found.name == "sublet-brave-owl-12-1"


def test_a_redirect_elsewhere_takes_no_token_along(github: GitHubSide) -> None:
    for status in (301, 307):
        github.server.fault(Fault("GET", "/actions/runners/", reply=Reply(status, None, {"Location": "http://127.0.0.2:9/x"})))
        with pytest.raises(ForgeRefused):
            github.personal().runner(REPOSITORY, "3")


def test_a_runner_is_found_and_missed(github: GitHubSide) -> None:
    forge = github.forge()
    key = github.server.add_runner("repos/acme/train", "sublet-a", status="online", busy=True)
    assert forge.runner(REPOSITORY, str(key), "77") == RunnerView(str(key), "sublet-a", True, True)
    assert forge.runner(REPOSITORY, "999", "77") is None


def test_a_listing_is_whole_whatever_the_size_of_its_pages(github: GitHubSide) -> None:
    server = github.server
    server.page_cap = 4
    for number in range(10):
        server.add_runner("orgs/acme", f"sublet-{number}")
    server.add_runner("orgs/acme", "somebody-else")
    names = [runner.name for runner in github.forge().runners(ORGANIZATION, "sublet-", "77")]
    assert names == [f"sublet-{number}" for number in range(10)]


def test_half_a_listing_is_none(github: GitHubSide) -> None:
    server = github.server
    server.page_cap = 1
    for number in range(3):
        server.add_runner("orgs/acme", f"sublet-{number}")
    forge = github.forge()
    forge.runners(ORGANIZATION, "", "77")
    before = len(server.requests)
    server.fault(Fault("GET", "/actions/runners", effect=True))  # the first page is well
    server.fault(Fault("GET", "/actions/runners", reply=Reply(500)))
    with pytest.raises(ForgeDown):
        forge.runners(ORGANIZATION, "", "77")
    assert len(server.requests) == before + 2


def test_removal_is_repeatable_and_a_busy_runner_stays(github: GitHubSide) -> None:
    forge = github.forge()
    key = github.server.add_runner("repos/acme/train", "sublet-a", busy=True)
    with pytest.raises(RunnerBusy, match="still running a job"):
        forge.remove_runner(REPOSITORY, str(key), "77")
    github.server.place("repos/acme/train").runners[key]["busy"] = False
    forge.remove_runner(REPOSITORY, str(key), "77")
    forge.remove_runner(REPOSITORY, str(key), "77")
    assert github.server.place("repos/acme/train").runners == {}
    github.server.fault(Fault("DELETE", "", reply=Reply(403, {"message": "No"})))
    with pytest.raises(ForgeRefused):
        forge.remove_runner(REPOSITORY, str(key), "77")


@pytest.mark.parametrize("runner_id", ["", "..", "1/../2", "x", "١"])
def test_what_is_no_id_never_reaches_a_url(github: GitHubSide, runner_id: str) -> None:
    with pytest.raises(ForgeRefused):
        github.forge().remove_runner(REPOSITORY, runner_id, "77")
    assert github.server.requests == []


@pytest.mark.parametrize("path", ["acme", "acme/../../orgs/acme", "../x", "acme/..", "acme/tr ain", "acme/train?x=1", ""])
def test_what_is_no_path_never_reaches_a_url(github: GitHubSide, path: str) -> None:
    with pytest.raises(ForgeRefused):
        github.personal().mint_runner(order(Scope(ScopeKind.REPOSITORY, path)))
    assert github.server.requests == []


def test_a_runner_without_labels_is_not_asked_for(github: GitHubSide) -> None:
    with pytest.raises(ForgeRefused, match="1 to 100 labels"):
        github.forge().mint_runner(order(labels=()))
    with pytest.raises(ForgeRefused, match="1 to 100 labels"):
        github.forge().mint_runner(order(labels=tuple(map(str, range(101)))))


def test_a_job_is_fetched_as_it_is_now(any_github: GitHubSide) -> None:
    any_github.server.add_job("acme/train", 5, status="in_progress", runner_id=8, runner_name="sublet-a")
    fresh = any_github.forge().fetch_job(queued())
    assert fresh is not None
    assert (fresh.state, fresh.labels, fresh.runner_name) == (JobState.IN_PROGRESS, ("gpu", "Rubin"), "sublet-a")
    assert (fresh.id, fresh.actor, fresh.installation, fresh.workflow) == ("github-5", "ann", "77", "CI")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("queued", JobState.QUEUED),
        ("waiting", JobState.WAITING),
        ("pending", JobState.WAITING),
        ("requested", JobState.WAITING),
        ("completed", JobState.COMPLETED),
    ],
)
def test_every_documented_status_has_its_state(github: GitHubSide, status: str, state: JobState) -> None:
    github.server.add_job("acme/train", 5, status=status, runner_id=3, runner_name="GitHub Actions 3")
    fresh = github.forge().fetch_job(queued())
    assert fresh is not None
    assert fresh.state == state
    assert bool(fresh.runner_name) == (state is JobState.COMPLETED)


def test_a_job_that_is_gone_is_none_and_one_that_is_forbidden_is_not(github: GitHubSide) -> None:
    forge = github.forge()
    assert forge.fetch_job(queued("6")) is None
    github.server.fault(Fault("GET", "/actions/jobs", reply=Reply(403, {"message": "Must have admin rights"})))
    with pytest.raises(ForgeRefused, match="admin rights"):
        forge.fetch_job(queued("6"))
    github.server.add_job("acme/train", 7, id=8)
    with pytest.raises(ForgeDown, match="another job"):
        forge.fetch_job(queued("7"))


def test_what_a_just_in_time_runner_does_not_need_costs_no_request(github: GitHubSide) -> None:
    forge = github.forge()
    forge.job_started(REPOSITORY, "5")
    assert forge.light_beacon(REPOSITORY, ("gpu",), None, "") is None
    assert github.server.requests == []


def test_every_answer_tells_how_many_calls_are_left(github: GitHubSide) -> None:
    github.forge().mint_runner(order())
    assert github.rates == [("github", 4999), ("github", 4999)]


def test_no_secret_shows_anywhere(github: GitHubSide, all_logs: Callable[[], str]) -> None:
    """Not in logs, not in reprs, not in errors with their whole chain of causes."""
    forge = github.forge(token=Secret(github.server.personal))
    minted = forge.mint_runner(order())
    forge.mint_runner(order(ENTERPRISE))
    told = [repr(forge), repr(vars(forge)), repr(minted)]
    github.server.fault(Fault("GET", "/actions/runners", times=2, hang_up=True))
    for token in ("good", "bad\ntoken-of-a-careless-person"):
        careless = github.forge(app_id="", private_key=None, token=Secret(token))
        with pytest.raises((ForgeDown, ForgeRefused)) as caught:
            careless.runners(REPOSITORY, "")
        told.append("".join(traceback.format_exception(caught.value)))
    told.append(all_logs())
    secrets = [*github.server.grants, *github.server.minted_configs, github.server.personal, github.private_key, HOOK_SECRET]
    for secret in [*secrets, "token-of-a-careless-person", "eyJ"]:
        assert not [text for text in told if secret in text]
