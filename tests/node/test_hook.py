"""The job-started hook: one question, one job; a clear line in the job's log, and closed where nobody answers."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from app.core.rules import FORK_EVENTS
from app.node.agent import hook
from app.node.agent.gate import Gate
from app.node.agent.wire import Wire
from tests.node.agents import SYSTEM_PYTHON, need_root, pack, running, shell
from tests.node.service import Service

JOB = {
    "GITHUB_REPOSITORY": "acme/train",
    "GITHUB_RUN_ID": "30021",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_JOB": "gpu-eval",
    "GITHUB_ACTOR": "ada",
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_SHA": "5a17",
}
TWICE = 'i=0; while [ $i -lt 2 ]; do "$ACTIONS_RUNNER_HOOK_JOB_STARTED"; echo "hook ended with $?"; i=$((i+1)); {}; done'


def lines_of(service: Service, machine: Path, script: str, **environment: str) -> list[str]:
    """What a runner's output says when it calls the hook as GitHub's does."""
    exports = "".join(f"export {name}='{value}'\n" for name, value in {**JOB, **environment}.items())
    service.script.credential = shell(exports + script)
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    return service.lines("runner")


def test_an_allowed_job_starts_and_its_log_shows_why(service: Service, machine: Path) -> None:
    """The hook asks with what the runner says; the answer's lines are printed; asked again it answers the same."""
    lines = lines_of(service, machine, TWICE.format(":"))
    assert lines == ["Lease calm-fox-01", "Page: somewhere", "hook ended with 0"] * 2
    (asked,) = service.bodies("/node/job")
    assert asked == {
        "repository": "acme/train",
        "run_id": "30021",
        "attempt": 2,
        "event": "push",
        "head_repository": "",
        "job": "gpu-eval",
        "actor": "ada",
        "ref": "refs/heads/main",
        "sha": "5a17",
        "fork": None,
    }


def test_a_refused_job_fails(service: Service, machine: Path) -> None:
    service.script.allow = False
    lines = lines_of(service, machine, '"$ACTIONS_RUNNER_HOOK_JOB_STARTED" || echo "hook ended with $?"')
    assert lines == ["Lease calm-fox-01", "Page: somewhere", "hook ended with 1"]


def test_a_second_job_on_the_same_machine_is_refused_without_asking(service: Service, machine: Path) -> None:
    """One lease, one job: a cloned runner registration gets nowhere."""
    lines = lines_of(service, machine, TWICE.format("export GITHUB_RUN_ID=30022"))
    assert lines[2] == "hook ended with 0"
    assert "rented for one job and has had it" in lines[3]
    assert lines[4] == "hook ended with 1"
    assert len(service.bodies("/node/job")) == 1
    assert service.wait_for_line("a second job asked to run here and was refused: acme/train 30022")


def test_python_settings_of_the_job_do_not_reach_the_hook(service: Service, machine: Path) -> None:
    """A repository that could make the hook import its own `json` could also let itself in."""
    (machine / "json.py").write_text("raise SystemExit(0)")
    lines = lines_of(
        service, machine, '"$ACTIONS_RUNNER_HOOK_JOB_STARTED"; echo $?', PYTHONPATH=str(machine), PYTHONHOME="/none"
    )
    assert lines[-1] == "0" and len(service.bodies("/node/job")) == 1


def test_orders_for_a_shell_among_the_jobs_variables_let_nobody_in(service: Service, gate: Gate, tmp_path: Path) -> None:
    """Gitea's runner gives its hook the variables of the workflow; so it must not be bash that reads them."""
    service.script.allow = False
    orders = tmp_path / "orders"
    orders.write_text("exit 0\n")
    evil = {"BASH_ENV": str(orders), "ENV": str(orders), "BASH_FUNC_exec%%": "() { builtin exit 0; }", "IFS": "e"}
    ended = subprocess.run([gate.plain], env={**os.environ, **JOB, **evil}, capture_output=True, check=False, timeout=30)
    assert ended.returncode == 1 and len(service.bodies("/node/job")) == 1


@pytest.fixture
def gate(service: Service, machine: Path) -> Generator[Gate]:
    said: list[str] = []
    opened = Gate(machine / "hook", [sys.executable, "-I", str(pack(machine))], Wire(service.url), said.append)
    opened.open({os.geteuid()})
    yield opened
    opened.close()


def call(gate: Gate, **more: Any) -> subprocess.CompletedProcess[str]:
    """The hook's own script, as a runner calls it."""
    return subprocess.run(
        [gate.script], env={**os.environ, **JOB}, capture_output=True, text=True, check=False, timeout=30, **more
    )


def test_with_the_service_down_the_job_is_turned_away_after_a_bounded_time(service: Service, gate: Gate) -> None:
    """Closed, not open: with a line that says what to do."""
    service.script.away = True
    gate.asking = 0.2
    ended = call(gate)
    assert ended.returncode == 1
    assert ended.stdout == (
        "Sublet: the service could not be reached for 0.2 s (the service answers 503), "
        "so this job may not start here. Run it again later.\n"
    )
    assert not gate.admitted.is_set()


@pytest.mark.parametrize(
    "reply", [(401, {"error": {"code": "no_session"}}), (422, {"error": {}}), (200, {"allowed": "yes", "lines": ["x"]})]
)
def test_anything_but_a_clear_yes_is_a_no(service: Service, gate: Gate, reply: tuple[int, dict[str, Any]]) -> None:
    service.script.refuse["/node/job"] = reply
    ended = call(gate)
    assert ended.returncode == 1 and "may not start here" in ended.stdout


def test_without_an_agent_the_hook_fails_closed(gate: Gate) -> None:
    gate.close()
    ended = call(gate)
    assert ended.returncode == 1
    assert "this machine's agent gives no answer" in ended.stdout


def test_another_user_of_the_machine_gets_no_answer(gate: Gate) -> None:
    """The kernel tells who is asking."""
    need_root()
    ended = subprocess.run(
        [SYSTEM_PYTHON, "-I", str(gate.script.parent.parent / "agent.pyz"), "hook", str(gate.script.parent / "gate")],
        env=JOB,
        user=4242,
        group=4242,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1 and "no answer" in ended.stdout
    assert not gate.admitted.is_set()


def test_the_hook_script_is_the_agents_own_and_fits_where_paths_are_long(service: Service, machine: Path) -> None:
    """Others may read and run it, not change it; a unix socket's path may be 107 bytes long, a folder's more."""
    deep = machine / ("d" * 120)
    deep.mkdir(mode=0o711)
    gate = Gate(deep / "hook", [sys.executable, "-I", str(pack(machine))], Wire(service.url), lambda text: None)
    gate.open({os.geteuid()})
    try:
        for place in (gate.script, gate.plain):
            assert (place.stat().st_mode & 0o777, place.stat().st_uid) == (0o755, os.geteuid())
        assert gate.plain.suffix == "", "by its ending Gitea's runner chooses a shell"
        assert call(gate).returncode == 0
        place = Path(shlex.split(gate.script.read_text().splitlines()[-1])[-1])
        assert place.is_socket()
    finally:
        gate.close()
    assert not place.parent.exists()


def event(folder: Path, content: Any) -> dict[str, str]:
    path = folder / "event.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return {**JOB, "GITHUB_EVENT_PATH": str(path)}


def test_who_wrote_a_pull_requests_code_is_read_from_its_event(tmp_path: Path) -> None:
    """The same repository, a fork, and a fork that is gone: then nobody can say, and that counts as one."""
    own = {"pull_request": {"head": {"repo": {"full_name": "acme/train", "fork": True}}}}
    fork = {"pull_request": {"head": {"repo": {"full_name": "mallory/train"}}}}
    gone = {"pull_request": {"head": {"repo": None}}}
    told = [
        (claim["head_repository"], claim["fork"]) for claim in (hook.claim(event(tmp_path, it)) for it in (own, fork, gone))
    ]
    assert told == [("acme/train", None), ("mallory/train", None), ("", True)]


def test_a_run_that_another_run_started_carries_on_its_origin(tmp_path: Path) -> None:
    told = hook.claim(event(tmp_path, {"workflow_run": {"head_repository": {"full_name": "mallory/train"}}}))
    assert told["head_repository"] == "mallory/train"


@pytest.mark.parametrize(
    ("run", "fork"),
    [
        ({"event": "push", "path": "train.yml@refs/heads/main"}, False),
        ({"event": "schedule", "path": "train.yml@refs/heads/main"}, False),
        ({"event": "pull_request", "path": "train.yml@refs/pull/3/head"}, True),
        ({"event": "pull_request_sync", "path": "train.yml@refs/pull/3/head"}, True),
        ({"event": "push", "path": "train.yml@refs/pull/3/head"}, True),
        ({"event": "workflow_run", "path": "train.yml@refs/heads/main"}, True),
        ({"event": "issue_comment"}, True),
        ({"id": 7}, True),
        ({"event": "push", "head_repository": None}, True),
    ],
)
def test_giteas_runs_name_no_origin_so_it_is_told_by_what_set_them_going(
    tmp_path: Path, run: dict[str, Any], fork: bool
) -> None:
    """GitHub's always name one, if only as null."""
    assert hook.claim(event(tmp_path, {"action": "completed", "workflow_run": run}))["fork"] is fork


def test_what_giteas_runner_gives_its_hook_is_read_as_githubs(tmp_path: Path) -> None:
    """withGithubEnv of its act/runner/run_context.go: the same names; an attempt may be empty, and the event lies beside it."""
    pull = {"action": "opened", "number": 3, "pull_request": {"head": {"repo_id": 9, "repo": {"full_name": "mallory/train"}}}}
    gitea = {"GITHUB_RUN_ATTEMPT": "", "GITHUB_EVENT_NAME": "pull_request", "GITHUB_SERVER_URL": "https://gitea.example"}
    told = hook.claim({**event(tmp_path, pull), **gitea, "GITHUB_API_URL": "https://gitea.example/api/v1", "GITEA_ENV": "/x"})
    assert (told["repository"], told["run_id"], told["attempt"]) == ("acme/train", "30021", 1)
    assert (told["event"], told["head_repository"], told["fork"]) == ("pull_request", "mallory/train", None)
    comment = {"action": "created", "is_pull": False, "issue": {"number": 3}, "pull_request": None}
    assert hook.claim(event(tmp_path, comment))["fork"] is False


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"pull_request": 7}', "\x00", "[" * 100_000])
def test_an_event_that_cannot_be_read_says_nothing(tmp_path: Path, content: str) -> None:
    """Then the event's name alone decides, and a pull request's counts as a fork's."""
    told = hook.claim(event(tmp_path, content))
    assert told["head_repository"] == "" and told["fork"] in (None, False)
    assert "pull_request" in FORK_EVENTS


def test_a_push_is_the_repositorys_own(tmp_path: Path) -> None:
    assert hook.claim(event(tmp_path, {"ref": "refs/heads/main"}))["fork"] is False


def test_gitlabs_job_is_told_by_its_own_variables() -> None:
    told = hook.claim(
        {
            "CI_PROJECT_PATH": "acme/ml/train",
            "CI_PIPELINE_ID": "77",
            "CI_JOB_ID": "4711",
            "CI_JOB_NAME": "eval",
            "CI_PIPELINE_SOURCE": "merge_request_event",
            "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": "mallory/train",
            "CI_COMMIT_SHA": "5a17",
        }
    )
    assert (told["repository"], told["run_id"], told["event"]) == ("acme/ml/train", "77", "merge_request_event")
    assert (told["head_repository"], told["fork"]) == ("mallory/train", None)


def test_words_of_strangers_give_the_runner_no_orders() -> None:
    """A pool's note or a branch name is shown in the job's log and stays a text there."""
    assert hook.harmless("::set-env name=A::b ##[error]x \x1b[0m") == ": :set-env name=A: :b ## [error]x "


def test_long_values_are_cut() -> None:
    assert len(hook.claim({"GITHUB_REPOSITORY": "x" * 5000})["repository"]) == 300
