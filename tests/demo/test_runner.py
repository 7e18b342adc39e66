"""The real runner program runs the real workflow file with `act`, and tells the truth about how it ended."""

from __future__ import annotations

import ast
import json
import signal
import stat
import sys
from pathlib import Path

import httpx
import pytest

from app.demo import launch, machine
from tests.demo.runners import eventually, jit, job, running
from tests.fakes.loopback import Loopback, Reply, Request


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_program_is_one_file_that_an_old_python_can_run() -> None:
    """It is shipped to machines of which we know little: Python 3.8 and nothing installed."""
    tree = ast.parse(machine.RUNNER.read_text("utf-8"), feature_version=(3, 8))
    named = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in named} <= sys.stdlib_module_names


def test_a_pushed_workflow_runs_to_its_end(process: launch.Running, tmp_path: Path) -> None:
    """From a push to the summary: the workflow file, the commit, the steps, the log, the deliveries, all real."""
    got: list[Request] = []
    receiver = Loopback(lambda request: (got.append(request), Reply(202))[1])
    receiver.start()
    process.ask("hook", {"url": f"{receiver.url}/hooks/github"})
    pushed = process.ask("push", {"repository": "acme/train", "workflow": "gpu-eval.yml"})
    number = pushed["jobs"][0]["id"]
    assert job(process, number)["labels"] == ["gpu", "rubin"]
    with running(tmp_path / "instance", jit(process, "calm-fox-01", ["gpu", "rubin"])) as runner:
        runner.until("Listening for Jobs")
        assert runner.end() == 0, runner.output
    done = job(process, number)
    assert (done["conclusion"], done["runner_name"]) == ("success", "calm-fox-01"), runner.output
    names = [one["name"] for one in done["steps"]]
    own = ("actions/checkout@v4", "Look at the machine", "Train", "Evaluate", "Write the summary")
    assert names == ["Set up job", *own, "Complete job"]
    assert {one["conclusion"] for one in done["steps"]} == {"success"}
    assert "## Two rings" in done["summary"]
    assert f"Commit {pushed['sha']} of acme/train" in runner.output
    assert "epoch 12/12" in runner.output
    page = httpx.get(pushed["jobs"][0]["url"], trust_env=False).text
    assert "epoch 12/12" in page and "gpu-eval / evaluate: success" in page
    eventually(lambda: len(got) == 4)
    process.ask("hook", {"url": ""})
    receiver.stop()
    assert [one.body.get("action") for one in got] == [None, "queued", "in_progress", "completed"]
    assert all(one["name"] != "calm-fox-01" for one in process.ask("state")["runners"]), "its one job de-registered it"
    outside = {path.name for path in tmp_path.iterdir()} - {"instance"}
    assert outside == set(), "act keeps to the instance's folder"


def test_a_failing_job_fails_and_its_runner_ends_well(process: launch.Running, tmp_path: Path) -> None:
    """Exit code 0 says nothing about the job, as with GitHub's own."""
    text = 'echo "before"\necho "::notice::look here"\necho "token ${{ github.token }}"\nexit 3'
    number = process.ask("jobs", {"repository": "acme/tools", "labels": ["cpu"], "script": text})["jobs"][0]["id"]
    with running(tmp_path / "instance", jit(process, "fox", ["cpu"], "acme/tools")) as runner:
        assert runner.end() == 0
    assert job(process, number)["conclusion"] == "failure"
    assert "##[notice]look here" in runner.output
    assert "##[error]Process completed with exit code 3." in runner.output
    assert "completed with result: Failed" in runner.output

    assert "token ***" in runner.output and "ghs_" not in runner.output


def test_the_hooks_see_what_githubs_hooks_see(process: launch.Running, tmp_path: Path) -> None:
    note = tmp_path / "seen.json"
    started = script(tmp_path / "started.sh", f'echo "hello from the hook"; env > {note}; cp "$GITHUB_EVENT_PATH" {note}.event')
    completed = script(tmp_path / "completed.sh", f"touch {tmp_path}/completed; env | grep -c JITCONFIG")
    asked = {"repository": "acme/tools", "labels": ["cpu"], "script": "true", "event": "pull_request", "fork": "mallory/tools"}
    number = process.ask("jobs", asked)["jobs"][0]["id"]
    hooks = {"ACTIONS_RUNNER_HOOK_JOB_STARTED": started, "ACTIONS_RUNNER_HOOK_JOB_COMPLETED": completed}
    with running(tmp_path / "instance", jit(process, "fox", ["cpu"], "acme/tools"), **hooks) as runner:
        assert runner.end() == 0
    told = job(process, number)
    seen = {line.partition("=")[0]: line.partition("=")[2] for line in note.read_text("utf-8").splitlines()}
    assert seen["GITHUB_REPOSITORY"] == "acme/tools"
    assert (seen["GITHUB_RUN_ID"], seen["GITHUB_RUN_ATTEMPT"], seen["GITHUB_JOB"]) == (str(told["run_id"]), "1", "script")
    assert (seen["GITHUB_EVENT_NAME"], seen["GITHUB_SHA"], seen["RUNNER_NAME"]) == ("pull_request", told["head_sha"], "fox")
    assert "ACTIONS_RUNNER_INPUT_JITCONFIG" not in seen
    event = json.loads((tmp_path / "seen.json.event").read_text("utf-8"))
    assert event["pull_request"]["head"]["repo"]["full_name"] == "mallory/tools"
    assert event["pull_request"]["head"]["repo"]["fork"] is True
    assert "hello from the hook" in runner.output and (tmp_path / "completed").exists()
    assert told["conclusion"] == "failure", "the completed hook failed (grep found nothing), and that fails the job"


def test_a_job_that_the_hook_refuses_fails_before_its_first_step(process: launch.Running, tmp_path: Path) -> None:
    refuse = script(tmp_path / "started.sh", 'echo "This job may not run here: forks are not allowed"; exit 1')
    number = process.ask("jobs", {"labels": ["cpu"], "script": "touch /never", "repository": "acme/tools"})["jobs"][0]["id"]
    config = jit(process, "fox", ["cpu"], "acme/tools")
    with running(tmp_path / "instance", config, ACTIONS_RUNNER_HOOK_JOB_STARTED=refuse) as runner:
        assert runner.end() == 0
    told = job(process, number)
    assert told["conclusion"] == "failure"
    assert [(one["name"], one["conclusion"]) for one in told["steps"]] == [("Set up runner", "failure")]
    assert "forks are not allowed" in runner.output and "Process completed with exit code 1" in runner.output
    assert not list((tmp_path / "instance" / "_work").glob("*/*/.git")), "nothing of the job was even fetched"


@pytest.mark.parametrize("by", ["signal", "forge"])
def test_a_cancelled_job_ends_at_once(process: launch.Running, tmp_path: Path, by: str) -> None:
    text = "echo started-sleeping\nsleep 300"
    number = process.ask("jobs", {"labels": ["cpu"], "script": text, "repository": "acme/tools"})["jobs"][0]["id"]
    with running(tmp_path / "instance", jit(process, "fox", ["cpu"], "acme/tools")) as runner:
        runner.until("started-sleeping")
        if by == "signal":
            runner.child.send_signal(signal.SIGTERM)
        else:
            process.ask("cancel", {"job": number})
        assert runner.end() == 0
    assert job(process, number)["conclusion"] == "cancelled", runner.output


def test_a_runner_without_a_job_leaves_when_told(process: launch.Running, tmp_path: Path) -> None:
    """By a signal; by the forge, which removes idle ones (exit 0, as GitHub's); and when its registration was deleted."""
    with running(tmp_path / "one", jit(process, "fox-1", ["cpu"])) as runner:
        runner.until("Listening for Jobs")
        runner.child.send_signal(signal.SIGINT)
        assert runner.end() == 0
    process.ask("limits", {"jit_idle": 0.3})
    config = jit(process, "fox-2", ["cpu"])
    with running(tmp_path / "two", config) as runner:
        assert runner.end() == 0
        assert "Runner was removed" in runner.output
    process.ask("limits", {"jit_idle": 300})
    with running(tmp_path / "three", config) as runner:
        assert runner.end() == 1, "a used JIT config is of no use"
    with running(tmp_path / "four", "bm90IGpzb24=") as runner:
        assert runner.end() == 1
        assert "Not configured" in runner.output


def test_a_workflow_that_cannot_be_run_fails_its_job(process: launch.Running, tmp_path: Path) -> None:
    """A job without a commit behind it says so, and does not hang."""
    number = process.ask("jobs", {"labels": ["cpu"], "script": "true", "repository": "acme/tools"})["jobs"][0]["id"]
    with running(tmp_path / "instance", jit(process, "fox", ["cpu"], "acme/tools")) as runner:
        assert runner.end() == 0
        assert job(process, number)["conclusion"] == "success"
    second = process.ask("jobs", {"labels": ["cpu"], "repository": "acme/tools"})["jobs"][0]["id"]
    with running(tmp_path / "instance", jit(process, "fox", ["cpu"], "acme/tools")) as runner:
        assert runner.end() == 0
    assert job(process, second)["conclusion"] == "failure", "a job of no commit: its archive is not there"
    assert "##[error]" in runner.output
