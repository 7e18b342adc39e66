"""Gitea's runners: registered by Sublet, one identity for each machine, and the command that runs one job with it."""

from __future__ import annotations

import subprocess
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.model import Scope, ScopeKind
from app.forges.contract import ForgeDown, ForgeRefused
from app.forges.gitea import EITHER, USUAL
from providers.contract import Secret
from tests.fakes.loopback import Fault, Reply
from tests.forges.conftest import ManualClock
from tests.forges.gitea_side import HOME, INSTANCE, ORGANIZATION, GiteaSide, identity_of, order, record, serve, task

REGISTER = "RunnerService/Register"


@pytest.fixture
def gitea(clock: ManualClock) -> Iterator[GiteaSide]:
    for side in serve(clock):
        side.server.add_repository(HOME.path)
        yield side


@pytest.fixture(params=["1.24.0", "1.26.1", "1.27.0"])
def any_gitea(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[GiteaSide]:
    for side in serve(clock, version=request.param):
        side.server.add_repository(HOME.path)
        yield side


# Made


def test_a_runner_is_registered_for_a_repository_an_organisation_and_the_whole_instance(any_gitea: GiteaSide) -> None:
    server, forge = any_gitea.server, any_gitea.forge()
    server.api.scopes = ["write:repository", "write:organization", "write:admin"]
    home = next(iter(server.repositories))
    for scope, place in ((HOME, (home, "")), (ORGANIZATION, (None, "acme")), (INSTANCE, (None, ""))):
        made = record(any_gitea, forge.mint_runner(order(scope)))
        assert (made.repository_id, made.owner) == place
        assert (made.name, made.labels, made.ephemeral) == ("sublet-brave-owl-12-1", ("gpu", "Rubin"), True)
        sent = server.requests[-1]
        assert sent.body.items() >= {"name": "sublet-brave-owl-12-1", "labels": ["gpu", "Rubin"], "ephemeral": True}.items()
        assert "authorization" not in sent.headers, "the runners' service knows registration tokens only"


def test_the_machine_gets_one_identity_and_what_runs_one_job(any_gitea: GiteaSide) -> None:
    minted = any_gitea.forge().mint_runner(order(max_duration=timedelta(hours=2)))
    made, url = record(any_gitea, minted), any_gitea.server.url
    assert {name: value for name, value in identity_of(minted).items() if name != "WARNING"} == {
        "id": made.id,
        "uuid": made.uuid,
        "name": made.name,
        "token": made.token,
        "address": url,
        "labels": ["gpu:host", "Rubin:host"],
        "ephemeral": True,
    }
    credential = minted.credential
    assert set(credential.files) == {".runner", "config.yaml"}
    assert credential.environment == {}
    assert credential.command == (*USUAL, "daemon", "--config", "config.yaml")
    assert (credential.ready, credential.begun) == ("declare successfully", " repo is ")
    first, second = any_gitea.server.queue_job("acme/train", ["gpu"]), any_gitea.server.queue_job("acme/train", ["gpu"])
    assert task(any_gitea, minted) is first
    assert task(any_gitea, minted) is None, "one job, whatever else is queued"
    any_gitea.server.finish_task(first)
    assert made.id not in any_gitea.server.runners, "Gitea takes it off itself"
    assert second.status == "waiting"


def test_the_runners_settings_are_what_yaml_reads(gitea: GiteaSide) -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        credential = gitea.forge().mint_runner(order(**changes)).credential
        return yaml.safe_load(credential.files["config.yaml"].reveal().replace("{hook}", "/run/sublet/job-started"))

    plain = settings()
    assert plain["runner"] == {
        "file": ".runner",
        "capacity": 1,
        "envs": {"ACTIONS_RUNNER_HOOK_JOB_STARTED": "/run/sublet/job-started"},
    }
    assert plain["cache"] == {"enabled": False}
    assert settings(max_duration=timedelta(hours=2))["runner"]["timeout"] == "7200s"


def test_the_registration_token_goes_nowhere(gitea: GiteaSide, all_logs: Callable[[], str]) -> None:
    forge = gitea.forge()
    minted = forge.mint_runner(order())
    (shared,) = gitea.server.tokens.by_token
    own = record(gitea, minted).token
    everything = [*minted.credential.files.values(), *minted.credential.environment.values()]
    assert not any(shared in secret.reveal() for secret in everything)
    for text in (repr(minted), repr(forge), str(vars(forge)), all_logs(), " ".join(minted.credential.command)):
        assert shared not in text
        assert own not in text
    held = [request for request in gitea.server.requests if shared.encode() in request.raw or shared in str(request.headers)]
    assert [request.path for request in held] == ["/api/actions/runner.v1.RunnerService/Register"]


def test_an_error_that_quotes_the_registration_token_is_told_without_it(gitea: GiteaSide, all_logs: Callable[[], str]) -> None:
    forge = gitea.forge()
    forge.mint_runner(order())
    (shared,) = gitea.server.tokens.by_token
    for status in (400, 500):
        said = Reply(status, {"code": "unknown", "message": f"no such token: {shared}"})
        gitea.server.loopback.faults.append(Fault("POST", REGISTER, reply=said))
        with pytest.raises((ForgeRefused, ForgeDown), match=r"no such token: \*\*\*") as caught:
            forge.mint_runner(order())
        assert shared not in "".join(traceback.format_exception(caught.value))
    assert shared not in all_logs()


def test_a_registration_token_that_was_made_anew_meanwhile(gitea: GiteaSide) -> None:
    """Gitea says so with HTTP 500; asking again gets the new one."""
    forge = gitea.forge()
    gitea.server.loopback.faults.append(Fault("POST", "registration-token", reply=Reply(200, {"token": "Reg-of-yesterday"})))
    with pytest.raises(ForgeDown, match="runner registration token not found"):
        forge.mint_runner(order())
    assert forge.mint_runner(order()).runner_id


def test_a_lost_answer_leaves_a_record_that_its_name_finds(any_gitea: GiteaSide) -> None:
    """Names are not unique here: asking again makes a second record, and the first is found and removed."""
    forge = any_gitea.forge()
    any_gitea.server.fault(REGISTER, "lose answer")
    with pytest.raises(ForgeDown, match="gave no answer"):
        forge.mint_runner(order())
    (left,) = forge.runners(HOME, "sublet-brave-owl-12-1")
    assert (left.name, left.online, left.busy) == ("sublet-brave-owl-12-1", False, False)
    forge.remove_runner(HOME, left.runner_id)
    assert forge.mint_runner(order()).runner_id != left.runner_id


def test_nothing_is_ever_asked_twice(gitea: GiteaSide) -> None:
    for path in ("registration-token", REGISTER):
        for kind, error in (("500", ForgeDown), ("503", ForgeDown), ("403", ForgeRefused), ("hang up", ForgeDown)):
            gitea.server.fault(path, kind)
            before = len(gitea.server.requests)
            with pytest.raises(error):
                gitea.forge().mint_runner(order())
            asked = [request for request in gitea.server.requests[before:] if path in request.path]
            assert len(asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"runner": {}},
        {"runner": {"id": "5", "uuid": "x", "token": "t" * 40, "ephemeral": True}},
        {"runner": {"id": "5", "uuid": "0" * 36, "token": "", "ephemeral": True}},
        {"runner": {"id": "five", "uuid": "0" * 36, "token": "t" * 40, "ephemeral": True}},
        {"runner": {"id": "5", "uuid": "0" * 36, "token": "a b\nc" * 9, "ephemeral": True}},
        [],
    ],
)
def test_an_identity_that_is_none(gitea: GiteaSide, answer: Any) -> None:
    gitea.server.loopback.faults.append(Fault("POST", REGISTER, reply=Reply(200, answer)))
    with pytest.raises(ForgeDown, match="unreadable") as caught:
        gitea.forge().mint_runner(order())
    assert "ttt" not in str(caught.value)


def test_a_server_that_is_too_old_is_not_even_asked_for_a_token(clock: ManualClock) -> None:
    for version, told in (("1.23.8", r"is 1\.23\.8"), ("dev", "of an unknown version")):
        for side in serve(clock, version="1.23.8"):
            side.server.loopback.faults.append(Fault("GET", "/version", reply=Reply(200, {"version": version})))
            with pytest.raises(ForgeRefused, match=told + r".*Update it to 1\.24 or later"):
                side.forge().mint_runner(order())
            assert [request.path for request in side.server.requests] == ["/api/v1/version"]


def test_a_server_that_makes_runners_for_many_jobs_is_refused_and_the_record_removed(gitea: GiteaSide) -> None:
    gitea.server.knows_ephemeral = False
    with pytest.raises(ForgeRefused, match="not ephemeral: update Gitea"):
        gitea.forge().mint_runner(order())
    assert gitea.server.runners == {}
    gitea.server.fault("/actions/runners/", "500", verb="DELETE")
    with pytest.raises(ForgeRefused, match="not ephemeral: update Gitea"):
        gitea.forge().mint_runner(order())
    assert len(gitea.forge().runners(HOME, "sublet-")) == 1, "the forge sweep finds it"


def test_a_place_that_is_not_there_or_a_token_that_may_not(gitea: GiteaSide) -> None:
    for scope in (Scope(ScopeKind.REPOSITORY, "acme/none"), Scope(ScopeKind.ORGANIZATION, "nobody")):
        with pytest.raises(ForgeRefused, match="shows it not to our token"):
            gitea.forge().mint_runner(order(scope))
        with pytest.raises(ForgeRefused, match="shows its runners not to our token"):
            gitea.forge().runners(scope, "")
    for scope in (Scope(ScopeKind.REPOSITORY, "../x"), Scope(ScopeKind.ORGANIZATION, "a/b")):
        with pytest.raises(ForgeRefused, match="of the name"):
            gitea.forge().mint_runner(order(scope))
    gitea.server.api.scopes = ["read:repository"]
    with pytest.raises(ForgeRefused, match=r"required=\[write:repository\]"):
        gitea.forge().mint_runner(order())
    with pytest.raises(ForgeRefused, match="HTTP 401"):
        gitea.forge(token=Secret("expired")).mint_runner(order())
    assert gitea.server.runners == {}


# The program


def test_a_pools_own_command_is_filled_in_and_asked_for_its_version(gitea: GiteaSide) -> None:
    words = ("/opt/act_runner-0.2.13", "daemon", "--name={name}", "{url}", "{labels}", "{idle_seconds}")
    credential = gitea.forge().mint_runner(order(command=words)).credential
    url = gitea.server.url
    assert credential.command == (words[0], "daemon", "--name=sublet-brave-owl-12-1", url, "gpu:host,Rubin:host", "180")
    assert credential.least is not None
    assert (credential.least.command, credential.least.version) == (("/opt/act_runner-0.2.13", "--version"), "0.2.12")
    before = len(gitea.server.requests)
    with pytest.raises(ForgeRefused, match=r"has \{token\}, which this forge does not fill in"):
        gitea.forge().mint_runner(order(command=("act_runner", "{token}")))
    assert len(gitea.server.requests) == before, "nothing is registered for a command that cannot be"


@pytest.mark.parametrize("present", [("gitea-runner",), ("act_runner",), ("act_runner", "gitea-runner"), ()])
def test_the_usual_command_runs_whichever_name_is_there(gitea: GiteaSide, tmp_path: Path, present: tuple[str, ...]) -> None:
    """The one that is started is the one that was asked for its version."""
    credential = gitea.forge().mint_runner(order()).credential
    assert credential.least is not None
    for name in present:
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name}" "$#" "$@"\n')
        program.chmod(0o755)

    def run(command: tuple[str, ...]) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/sh", *command[1:]], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=10
        )
        return done.returncode, done.stdout + done.stderr

    if not present:
        assert run(credential.command)[0] == 127
        assert "act_runner" in run(credential.command)[1]
        return
    assert run(credential.command) == (0, f"{present[-1]} 3 daemon --config config.yaml\n")
    assert run(credential.least.command) == (0, f"{present[-1]} 1 --version\n")
    assert credential.command[:2] == ("sh", "-c")
    assert EITHER in credential.command


def test_a_label_with_a_colon_needs_a_newer_runner(gitea: GiteaSide) -> None:
    minted = gitea.forge().mint_runner(order(labels=("gpu", "gpus:4")))
    assert identity_of(minted)["labels"] == ["gpu:host", "gpus:4"], "`gpus:4:host` would be a label of that whole name"
    assert record(gitea, minted).labels == ("gpu", "gpus:4")
    assert minted.credential.least is not None
    assert minted.credential.least.version == "3.0.0"


@pytest.mark.parametrize(
    "labels", [(), ("",), ("a,b",), ("gpu:host",), ("gpu:docker://image",), ("a:host:b",), tuple(str(n) for n in range(101))]
)
def test_labels_that_no_runner_can_have(gitea: GiteaSide, labels: tuple[str, ...]) -> None:
    forge = gitea.forge()
    problem = forge.unfit(labels)
    assert problem
    with pytest.raises(ForgeRefused) as caught:
        forge.mint_runner(order(labels=labels))
    assert str(caught.value) == problem
    assert gitea.server.requests == []


def test_labels_that_a_runner_can_have(gitea: GiteaSide) -> None:
    for labels in (("gpu",), ("host",), ("docker", "gpus:4"), ("a:hosts",), ("a b",), tuple(str(n) for n in range(100))):
        assert gitea.forge().unfit(labels) == ""
