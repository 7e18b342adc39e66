"""Runners that call no hook, wait for ever, or may be too old for their forge: Gitea's and Forgejo's, told by shell lines."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.node.agent import version
from app.node.agent.command import Outcome
from app.node.agent.runner import Runner, read_work
from tests.node.agents import SYSTEM_PYTHON, need_root, pack, running, shell
from tests.node.pushed import push
from tests.node.service import Service
from tests.node.test_life import ask_gate, runner_of
from tests.node.test_lodging import left, machine_with_engine, told
from tests.parts.registry import RealRegistry

READY = "declare successfully"
ONLINE = "echo 'runner: lease, with labels: [gpu:host], declare successfully'"
TASK = "task 12 repo is"
FOREVER = "exec sleep 600"


def waiting(*lines: str, **more: Any) -> dict[str, Any]:
    """A runner that comes online, does this, and stays."""
    return shell("\n".join([ONLINE, *lines, FOREVER]), ready=READY, **{"begun": TASK, **more})


def started(service: Service) -> list[dict[str, Any]]:
    return [body["data"] for body in service.bodies("/node/event") if body["kind"] == "job_started"]


def until(found: Callable[[], object]) -> None:
    moment = threading.Event()
    for _ in range(1000):
        if found():
            return
        moment.wait(0.02)
    raise AssertionError("it never came")


# The path of the hook in files


def test_a_file_names_the_hook_by_its_path_and_its_runner_can_call_it(service: Service, machine: Path) -> None:
    """Gitea's runner takes its hook from its settings, not from its environment."""
    config = "runner:\n  envs:\n    HOOK: {hook}\nkept: ${hook} {hook }{HOOK}\n"
    script = "sed -n 's/.*HOOK: //p' config.yaml >place; GITHUB_REPOSITORY=acme/train $(cat place); echo it ended with $?"
    service.script.credential = shell(script, files={"config.yaml": config})
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    hook = machine / "hook" / "job-started"
    written = (machine / "runner/config.yaml").read_text()
    assert written == f"runner:\n  envs:\n    HOOK: {hook}\nkept: ${hook} {{hook }}{{HOOK}}\n"
    assert service.lines("runner")[-1] == "it ended with 0"
    assert service.bodies("/node/job")[0]["repository"] == "acme/train"


def test_a_secret_beside_the_hook_is_masked_as_it_was_written_and_as_it_is_now(service: Service, machine: Path) -> None:
    written = "token={hook}-hush"
    service.script.credential = shell("cat config; echo; echo 'token={hoo''k}-hush'", files={"config": written})
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    assert service.lines("runner") == ["***", "***"]


def test_only_files_are_filled_in() -> None:
    work = read_work({"command": ["x", "{hook}"], "environment": {"A": "{hook}"}, "files": {"{hook}": "{hook}{hook}"}})
    filled = work.with_hook(Path("/h"))
    assert (filled.command, filled.environment, filled.files) == (["x", "{hook}"], {"A": "{hook}"}, {"{hook}": "/h/h"})


# Output that says "a job has begun"


def test_a_job_that_only_the_output_tells_of_is_told_once_and_keeps_the_node(service: Service, machine: Path) -> None:
    """Of a runner without hooks. The service goes away for good; the job has until the hard end."""
    service.script.silent_seconds = 1.0
    service.script.hard_end = timedelta(seconds=3)
    lines = [f"echo 'level=info msg=\"{TASK} acme/train https://x\"'"] * 2
    service.script.credential = waiting(*lines)
    with running(service.url, machine) as agent:
        assert service.wait_for_event("job_started")["data"] == {"seen": "output"}
        service.wait_for_line("the runner's output says that a job has begun")
        service.script.mute = True
        assert agent.end() == 0
    assert started(service) == [{"seen": "output"}]
    assert "ending: the hard end time has come" in agent.console and "silent" not in agent.console


def test_a_piece_that_comes_in_two_pieces_is_found(service: Service, machine: Path) -> None:
    """The second half is written some time after the first."""
    cut = "printf 'msg=\"task 12 re'; while [ ! -e go ]; do sleep 0.02; done; echo 'po is acme/train\"'"
    service.script.credential = waiting(cut)
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        runner = runner_of(psutil.Process(agent.process.pid))
        until(lambda: [child.name() for child in runner.children()] == ["sleep"])  # so the first half is written
        (machine / "runner/go").touch()
        service.wait_for_event("job_started")
        service.script.stop = True
        agent.end()
    assert 'msg="task 12 repo is acme/train"' in service.lines("runner")


def test_without_such_a_piece_output_tells_of_no_job(service: Service, machine: Path) -> None:
    service.script.credential = waiting(f"echo '{TASK} acme/train'; exit 3", begun="")
    with running(service.url, machine) as agent:
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 3}
        service.script.stop = True
        agent.end()
    assert started(service) == []


@pytest.mark.parametrize("allow", [True, False])
def test_a_hook_that_comes_later_is_asked_and_may_refuse(service: Service, machine: Path, allow: bool) -> None:
    """What the output told of is no admission."""
    service.script.allow = allow
    service.script.credential = waiting(f"echo '{TASK} acme/train'")
    with running(service.url, machine) as agent:
        service.wait_for_event("job_started")
        assert ask_gate(agent.socket)["allowed"] is allow
        assert ask_gate(agent.socket, run_id="2")["lines"][0].endswith("another one may not run here.")
        service.script.stop = True
        agent.end()
    assert len(service.bodies("/node/job")) == 1 and len(started(service)) == 1


def test_a_job_that_the_hook_let_in_is_not_told_a_second_time(service: Service, machine: Path) -> None:
    """Then the service knows it already, with all that the hook knew."""
    service.script.credential = waiting("while [ ! -e go ]; do sleep 0.02; done", f"echo '{TASK} acme/train'; exit 0")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        assert ask_gate(agent.socket)["allowed"] is True
        (machine / "runner/go").touch()
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    assert started(service) == []


@pytest.mark.parametrize("gone", ["mute", "away"])
def test_a_runner_that_waits_for_ever_does_not_outlive_the_service(service: Service, machine: Path, gone: str) -> None:
    """Nobody removes it at the idle limit then: online, without a job, it ends by the node's own dead-man switch."""
    service.script.silent_seconds = 1.0
    service.script.credential = waiting("echo 'no task yet'")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        runner = runner_of(psutil.Process(agent.process.pid))
        setattr(service.script, gone, True)
        assert agent.end() == 0
    assert "ending: the service has been silent for 1 s" in agent.console and not runner.is_running()


# The oldest version that will do


def least(*command: str, wanted: str = "0.2.12") -> dict[str, Any]:
    return {"command": [*command], "version": wanted, "why": "Gitea's one-job runners came with 0.2.12: install a newer one."}


def program(machine: Path, says: str) -> str:
    """A runner's program that everybody may run."""
    place = machine / "gitea-runner"
    place.write_text(f"#!/bin/sh\n{says}\n")
    place.chmod(0o755)
    return str(place)


def test_a_program_that_is_too_old_is_not_started_and_the_reason_is_told(service: Service, machine: Path) -> None:
    place = program(machine, "echo 'gitea-runner version v0.2.11-5-gab12 go1.25.1'")
    service.script.credential = waiting("echo started", least=least(place, "--version"))
    why = "gitea-runner on this machine is version 0.2.11. Gitea's one-job runners came with 0.2.12: install a newer one."
    with running(service.url, machine) as agent:
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 126, "why": why}
        assert service.wait_for_line("the runner could not be started: ").endswith(why)
        service.script.stop = True
        agent.end()
    assert service.lines("runner") == [] and not any(body["kind"] == "runner_online" for body in service.bodies("/node/event"))


ASKED_AS = 'cd -P . && echo "$(id -u) $PWD $A $(grep CapEff /proc/self/status)" >asked; echo v0.2.12'


@pytest.mark.parametrize("python", [sys.executable, SYSTEM_PYTHON], ids=["here", "system"])
def test_it_is_asked_as_the_runner_will_be_started(service: Service, machine: Path, python: str) -> None:
    """The same user, rights, environment and folder: as another user where every user can run this Python, else as root
    without a capability."""
    need_root()
    place = program(machine, ASKED_AS)
    started_as = ASKED_AS.replace(">asked", ">started")
    service.script.credential = shell(started_as, environment={"A": "of the credential"}, least=least(place, "--version"))
    with running(service.url, machine, python=python) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    asked = (machine / "runner/asked").read_text()
    assert asked == (machine / "runner/started").read_text() and "of the credential" in asked
    assert service.wait_for_line("gitea-runner on this machine is version 0.2.12")
    assert "CapEff:\t0000000000000000" in asked and asked.startswith("0 ") is (python != SYSTEM_PYTHON)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (None, "cannot be started"),
        ("echo development", "there is no version in its answer"),
        ("echo \"libc.so: version 'GLIBC_0.2.1' not found: 0.2.1\"; exit 1", "ended with 1"),
        ("head -c 9000000 /dev/zero | tr '\\0' x; echo 0.2.1", "there is no version in its answer"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_tell_is_started_all_the_same(
    service: Service, machine: Path, says: str | None, why: str
) -> None:
    place = "/none/gitea-runner" if says is None else program(machine, says)
    service.script.credential = shell("echo started", least=least(place, "--version"))
    with running(service.url, machine) as agent:
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 0}
        line = service.wait_for_line("gitea-runner does not tell its version")
        service.script.stop = True
        agent.end()
    assert why in line and "0.2.12 or later is needed" in line and service.lines("runner") == ["started"]


def test_contained_a_program_that_is_too_old_is_found_inside_the_image(
    service: Service, machine: Path, docker_registry: RealRegistry
) -> None:
    """Not on the machine, where there may be another one."""
    pushed = push(docker_registry, "lodging/old", "v1", Env=["PATH=/bin", "VERSION=v0.2.11"])
    service.script.image = told(pushed)
    asked = {"command": ["sh", "-c", 'echo "act_runner version $VERSION"'], "version": "0.2.12", "why": "Install a newer one."}
    service.script.credential = shell("echo started", least=asked)
    with machine_with_engine(service, machine) as agent:
        why = "The runner in this pool's image is version 0.2.11. Install a newer one."
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 126, "why": why}
        service.script.stop = True
        assert agent.end() == 0
    assert service.lines("runner") == [] and not list(left(machine))


def test_a_node_that_must_end_does_not_wait_for_the_answer(service: Service, machine: Path) -> None:
    """And leaves nothing behind of a program that hangs."""
    place = program(machine, "echo $$ >asked; exec sleep 600")
    service.script.credential = shell("echo never", least=least(place, "--version"))
    with running(service.url, machine) as agent:
        found = machine / "runner/asked"
        until(lambda: found.exists() and found.read_text().strip())
        hanging = psutil.Process(int(found.read_text()))
        agent.process.send_signal(signal.SIGTERM)
        assert agent.end(10) == 0
    assert psutil.wait_procs([hanging], 5)[1] == []
    assert service.lines("runner") == []


def test_a_program_that_hangs_is_given_up(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it has named an old version: whoever does not come to an end may have meant something else."""
    monkeypatch.setattr(version, "PATIENCE", 1.0)
    said, place = list[str](), program(machine, "echo 0.2.1; echo $$ >>asked; exec sleep 600")
    asked = version.read(least(place, "--version"))
    made = Runner(machine, [sys.executable, "-I", str(pack(machine))], None)
    assert asked is not None
    answer = made.ask(asked.command, {"PATH": "/usr/bin:/bin"})
    assert answer == Outcome("0.2.1\n", "gave no answer in 1 s")
    assert not psutil.pid_exists(int((machine / "asked").read_text()))
    assert version.objection(asked, answer, "here", said.append) == ""
    assert said == [
        "gitea-runner does not tell its version (gave no answer in 1 s); 0.2.12 or later is needed. It is started all the same"
    ]


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("sh", "The runner"),
        ("/bin/bash", "The runner"),
        ("dash", "The runner"),
        ("/opt/act_runner", "act_runner"),
        ("github-runner", "github-runner"),
        ("push.sh", "push.sh"),
    ],
)
def test_a_shell_that_starts_the_runner_is_not_what_is_too_old(program: str, name: str) -> None:
    asked, said = version.Least([program, "-c", "…"], "0.2.12", "Install a newer one."), list[str]()
    for where in ("on this machine", "in this pool's image"):
        answer = Outcome("act_runner version v0.2.11", "")
        assert version.objection(asked, answer, where, said.append) == f"{name} {where} is version 0.2.11. {asked.why}"
    for answer in (Outcome("v0.2.12", ""), Outcome("", "ended with 127")):
        assert version.objection(asked, answer, "on this machine", said.append) == ""
    assert said == [
        f"{name} on this machine is version 0.2.12",
        f"{name} does not tell its version (ended with 127); 0.2.12 or later is needed. It is started all the same",
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("gitea-runner version v3.3.0", "3.3.0"),
        ("act_runner version v0.2.12-3-g1a2b", "0.2.12"),
        ("forgejo-runner version v12.8.0+5-gab12.3", "12.8.0"),
        ("2.335.1\n", "2.335.1"),
        ("Version:      18.5\nGo version:   go1.24.6", "18.5"),
        ("built with go1.24.6 for 7 cores", ""),
        ("", ""),
    ],
)
def test_the_first_dotted_number_is_the_version(text: str, number: str) -> None:
    assert version.first(text) == number


@given(st.lists(st.integers(0, 99), min_size=2, max_size=4), st.lists(st.integers(0, 99), min_size=2, max_size=4))
def test_versions_are_compared_by_numbers(one: list[int], other: list[int]) -> None:
    size = max(len(one), len(other))
    padded = [[*numbers, *[0] * (size - len(numbers))] for numbers in (one, other)]
    assert version.is_older(".".join(map(str, one)), ".".join(map(str, other))) is (padded[0] < padded[1])


@pytest.mark.parametrize(
    "given", [{}, {"command": [], "version": "1.0", "why": ""}, {"command": ["x", 7], "version": "1.0", "why": ""},
              {"command": ["x"], "version": "v1.0", "why": ""}, {"command": ["x"], "version": 1.0, "why": ""},
              {"command": ["x"], "version": "1.0"}, "1.0"],
)  # fmt: skip
def test_a_least_version_that_cannot_be_read_is_not_taken_for_none(given: Any) -> None:
    with pytest.raises(ValueError, match="least"):
        version.read(given)
