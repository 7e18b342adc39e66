"""What starts GitHub's runner: a pool's own command, the oldest runner and the oldest server that will do."""

from __future__ import annotations

from datetime import timedelta

import pytest

from app.forges.contract import ForgeRefused
from app.forges.github_command import least_of
from app.forges.github_wire import api_address, web_address
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import GitHubSide
from tests.forges.test_github_runners import order


def test_a_pools_own_command_replaces_the_usual_one(any_github: GitHubSide) -> None:
    """It is a template; the config stays out of it."""
    forge, web = any_github.forge(), any_github.server.loopback.url
    assert forge.mint_runner(order(command=("/opt/runner-2.336.0/run.sh",))).credential.command == (
        "/opt/runner-2.336.0/run.sh",
    )
    words = ("/opt/go", "{url}", "--as={name}", "{labels}", "{idle_seconds}", "{}", "${{HOME}}")
    credential = forge.mint_runner(order(name="a-2", command=words, idle_limit=timedelta(minutes=3))).credential
    assert credential.command == ("/opt/go", web, "--as=a-2", "self-hosted,gpu,Rubin", "180", "{}", "${{HOME}}")
    assert credential.least is None


def test_a_place_that_nobody_fills_in_is_refused_before_anything_is_asked(github: GitHubSide) -> None:
    with pytest.raises(ForgeRefused) as caught:
        github.forge().mint_runner(order(command=("./run.sh", "--jitconfig", "{config}")))
    assert "{config}" in str(caught.value) and "{idle_seconds}, {labels}, {name}, {url}" in str(caught.value)
    assert github.server.requests == []


@pytest.mark.parametrize(
    ("program", "asked"),
    [
        ("./run.sh", "./bin/Runner.Listener"),
        ("/opt/runner/run.sh", "/opt/runner/bin/Runner.Listener"),
        ("github-runner", "github-runner"),  # the reference image's: it tells the runner's version
        ("/usr/local/bin/github-runner", "/usr/local/bin/github-runner"),
        ("/opt/go", None),  # another wrapper may start whatever it likes
        ("run.sh", None),  # found by PATH: where it lives is not known
    ],
)
@pytest.mark.parametrize("api", ["https://api.github.com", "https://api.acme.ghe.com"])
def test_the_oldest_runner_that_github_still_gives_jobs_to(program: str, asked: str | None, api: str) -> None:
    least = least_of((program, "--x"), api)
    assert (least and least.command) == (asked and (asked, "--version"))
    assert least is None or (least.version == "2.329.0" and "from 2.329.0 on; put a newer actions/runner" in least.why)
    assert least_of((program,), "https://github.acme.example/api/v3") is None, "such a server has its own oldest"


@pytest.mark.parametrize(
    "web", ["https://github.com", "https://acme.ghe.com", "https://github.acme.example", "http://127.0.0.1:8/git"]
)
def test_the_web_address_is_told_by_the_apis(web: str) -> None:
    assert web_address(api_address(web)) == web


def test_labels_that_no_runner_can_have_are_named(github: GitHubSide) -> None:
    forge = github.forge()
    assert forge.unfit(["gpu"] * 100) == "" == forge.unfit(["gpu, big", "gpus:4"])
    assert "at most 100 labels" in forge.unfit(["gpu"] * 101)


@pytest.mark.parametrize(("told", "old"), [("3.9.14", True), ("3.10.0", False), ("4.0", False), ("GitHub AE", False)])
def test_a_server_that_is_too_old_is_refused_with_a_sentence(github: GitHubSide, told: str, old: bool) -> None:
    for path, forge in (("/app", github.forge()), ("/rate_limit", github.personal())):
        reply = Reply(404, {"message": "Rate limiting is not enabled."}, {"X-GitHub-Enterprise-Version": told})
        github.server.fault(Fault("GET", path, reply=reply))
        if old:
            with pytest.raises(ForgeRefused, match=r"Server 3.9.14 makes no just-in-time runners: they came with 3\.10"):
                forge.check()
        elif path == "/rate_limit":
            assert "is good" in forge.check()
        else:
            with pytest.raises(ForgeRefused, match="not enabled"):
                forge.check()
