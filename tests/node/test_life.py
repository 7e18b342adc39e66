"""The agent as a real process against a service on loopback: from its first call to the end of everything it started."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.node.agent import power
from tests.node.agents import TOKEN, nvidia_smi, running, shell
from tests.node.service import Service
from tests.node.test_facts import H100, xml

FOREVER = "echo listening; exec sleep 600"


def listening(**more: Any) -> dict[str, Any]:
    return shell(FOREVER, ready="listening", **more)


def runner_of(agent: psutil.Process) -> psutil.Process:
    return next(child for child in agent.children() if child.name() in ("sh", "dash", "sleep"))


def ask_gate(path: str, **job: Any) -> dict[str, Any]:
    """What the job-started hook does."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(
            json.dumps({"repository": "acme/train", "run_id": "1", "attempt": 1, "job": "eval", **job}).encode() + b"\n"
        )
        return json.loads(line.makefile().readline())


def test_a_whole_life(service: Service, machine: Path) -> None:
    """Join, facts, credential once, online, exit, stop: in this order, with one session, and every line arrives."""
    path = nvidia_smi(machine / "bin", query=H100, xml=xml("12.8", **{"6e1f": "Hopper"})) + ":" + os.environ["PATH"]
    with running(service.url, machine, path=path) as agent:
        told = service.wait_for("/node/credential")
        service.script.credential = shell("echo hello; echo Listening for Jobs; echo bye; exit 7", ready="Listening for Jobs")
        assert service.wait_for_event("runner_online")["data"] == {}
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 7}
        service.script.stop = True
        assert agent.end() == 0
    first = list(dict.fromkeys(seen.path for seen in service.seen if seen.path not in ("/node/log", "/node/heartbeat")))
    assert first == ["/node/join", "/node/facts", "/node/credential", "/node/event"]
    joined = service.bodies("/node/join")[0]
    assert (joined["lease"], joined["token"]) == ("0123456789abcdef", TOKEN)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", joined["session"])
    assert {seen.session for seen in service.seen} == {"", joined["session"]}
    assert {body["ticket"] for body in service.bodies("/node/credential")} == {told.body["ticket"]}
    facts = service.bodies("/node/facts")[0]
    assert (facts["gpus"][0]["name"], facts["gpus"][0]["architecture"], facts["cuda"]) == (
        "NVIDIA H100 80GB HBM3",
        "Hopper",
        "12.8",
    )
    assert service.lines("runner") == ["hello", "Listening for Jobs", "bye"]
    assert [body["kind"] for body in service.bodies("/node/event")] == ["runner_online", "runner_exited", "power_off"]
    numbers = [line["seq"] for body in service.bodies("/node/log") for line in body["lines"]]
    assert numbers == sorted(set(numbers))
    assert all(line["at"].startswith("2026-11-21T12:00:") for body in service.bodies("/node/log") for line in body["lines"])


def test_a_runner_without_a_ready_word_is_online_once_started(service: Service, machine: Path) -> None:
    service.script.credential = shell("exec sleep 600")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        service.script.stop = True
        agent.end()
    assert service.wait_for_event("runner_exited")["data"] == {"exit": -signal.SIGTERM}


def test_no_secret_is_in_any_command_line_or_in_the_runners_environment(service: Service, machine: Path) -> None:
    """Token, session and ticket stay in the agent; the credential goes to the runner's environment and files only."""
    service.script.credential = listening(
        environment={"JIT": "jit-secret-0123456789"}, files={"a/b.toml": "file-secret-0123456789"}
    )
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        session = service.bodies("/node/join")[0]["session"]
        ticket = service.bodies("/node/credential")[0]["ticket"]
        secrets = [TOKEN, session, ticket, "jit-secret-0123456789", "file-secret-0123456789"]
        everywhere = [
            path.read_bytes().decode("utf-8", "replace") for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)
        ]
        assert not [secret for secret in secrets for line in everywhere if secret in line]
        runner = runner_of(psutil.Process(agent.process.pid))
        seen = runner.environ()
        assert seen["JIT"] == "jit-secret-0123456789"
        assert not [name for name in seen if name.startswith("SUBLET_")]
        assert not [secret for secret in (TOKEN, session, ticket) if secret in json.dumps(seen)]
        written = machine / "runner/a/b.toml"
        assert written.read_text() == "file-secret-0123456789"
        assert (written.stat().st_mode & 0o777, written.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        service.script.stop = True
        agent.end()
        assert not [secret for secret in secrets if secret in agent.console + json.dumps(service.lines())]


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:  # it has ended since
        return False
    return True


def test_what_the_runner_prints_of_its_secrets_is_masked(service: Service, machine: Path) -> None:
    script = 'echo "token is $TOK"; cat config.toml; printf "\\033[31mred\\033[0m\\n"; exit 0'
    service.script.credential = shell(
        script, environment={"TOK": "glrt-0123456789abcdef"}, files={"config.toml": 'token = "glrt-zyxwvut987654321"\n'}
    )
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    assert service.lines("runner") == ["token is ***", "***", "red"]


def test_a_service_that_is_away_is_waited_for(service: Service, machine: Path) -> None:
    """From the first call on; the console says so once."""
    service.script.away = True
    with running(service.url, machine) as agent:
        assert agent.process.stdout is not None
        assert "joining: the service answers 503; trying again" in agent.process.stdout.readline()
        service.script.away = False
        service.wait_for("/node/credential")
        service.script.stop = True
        assert agent.end() == 0


@pytest.mark.parametrize(("status", "code"), [(403, "join_reused"), (401, "unknown"), (410, "ended")])
def test_a_refused_join_is_the_end(service: Service, machine: Path, status: int, code: str) -> None:
    service.script.refuse["/node/join"] = status, {"error": {"code": code, "message": "A sentence."}}
    with running(service.url, machine) as agent:
        assert agent.end() == 0
    assert f"ending: joining: the service refuses ({status} {code}) A sentence." in agent.console
    assert [seen.path for seen in service.seen] == ["/node/join"]


def test_a_repeated_join_carries_the_same_session(service: Service, machine: Path) -> None:
    """A lost answer must not look like a second use of the token."""
    service.script.refuse["/node/join"] = 429, {"error": {"code": "slow_down", "message": ""}}
    with running(service.url, machine) as agent:
        service.wait_for("/node/join")
        del service.script.refuse["/node/join"]
        service.wait_for("/node/facts")
        service.script.stop = True
        agent.end()
    assert len({body["session"] for body in service.bodies("/node/join")}) == 1 < len(service.bodies("/node/join"))


def test_dead_man_silence_ends_an_idle_node(service: Service, machine: Path) -> None:
    """The service is gone for good: the runner is ended, and so is the machine."""
    service.script.silent_seconds = 1.0
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        runner = runner_of(psutil.Process(agent.process.pid))
        service.script.mute = True
        assert agent.end() == 0
    assert not runner.is_running()
    assert "ending: the service has been silent for 1 s" in agent.console


def test_dead_man_a_running_job_survives_silence_but_not_the_hard_end(service: Service, machine: Path) -> None:
    """Its limit is the hard end, by the service's clock, which is months off this machine's."""
    service.script.silent_seconds = 1.0
    service.script.hard_end = timedelta(seconds=3.5)
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        assert ask_gate(agent.socket)["allowed"] is True
        service.script.mute = True
        assert agent.end() == 0
    assert "ending: the hard end time has come" in agent.console
    assert "silent" not in agent.console


def test_a_session_that_is_over_ends_the_node_at_once(service: Service, machine: Path) -> None:
    """A destroyed lease answers 410; a running job is no excuse."""
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        ask_gate(agent.socket)
        service.script.refuse["/node/heartbeat"] = 410, {"error": {"code": "ended", "message": ""}}
        assert agent.end() == 0
    assert "ending: the service says that this session is over" in agent.console


def test_a_service_that_forgot_the_session_ends_the_node_only_after_its_job(service: Service, machine: Path) -> None:
    """So it is when the service's database was put back from an old backup."""
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        ask_gate(agent.socket)
        service.script.refuse["/node/heartbeat"] = 401, {"error": {"code": "no_session", "message": ""}}
        service.wait_for_line("the job that runs goes on to its end")
        assert agent.process.poll() is None
        service.script.stop = True
        service.script.refuse.clear()
        assert agent.end() == 0


def test_a_service_that_forgot_the_session_ends_a_node_without_a_job(service: Service, machine: Path) -> None:
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        service.script.refuse["/node/heartbeat"] = 401, {"error": {"code": "no_session", "message": ""}}
        assert agent.end() == 0
    assert "ending: the service says that this session is over" in agent.console


def test_a_proxys_401_does_not_end_the_node(service: Service, machine: Path) -> None:
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        service.script.refuse["/node/heartbeat"] = 401, {"detail": "who are you?"}
        service.script.refuse["/node/log"] = 401, {"detail": "who are you?"}
        ask_gate(agent.socket)
        assert agent.process.poll() is None
        service.script.refuse.clear()
        service.wait_for_line("was let in")
        service.script.stop = True
        agent.end()


def test_stop_ends_the_whole_group_politely_and_whatever_left_it_by_force(service: Service, machine: Path) -> None:
    """A runner gets SIGTERM and may say goodbye; a daemon that made a session of its own does not outlive it."""
    script = """
trap 'echo got TERM; exit 0' TERM
setsid sh -c 'trap "" TERM; echo $$ >daemon; exec sleep 600' &
while [ ! -s daemon ]; do sleep 0.02; done
echo listening
while :; do sleep 0.05; done
"""
    service.script.credential = shell(script, ready="listening")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        daemon = psutil.Process(int((machine / "runner/daemon").read_text()))
        service.script.stop = True
        agent.end()
    assert not daemon.is_running()
    assert "got TERM" in service.lines("runner")
    assert service.wait_for_event("runner_exited")["data"] == {"exit": 0}


def test_what_a_job_left_running_ends_with_its_runner(service: Service, machine: Path) -> None:
    service.script.credential = shell("setsid sleep 600 & echo $! >left; exit 0")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_exited")
        assert not psutil.pid_exists(int((machine / "runner/left").read_text()))
        assert agent.process.poll() is None, "it waits for the service's stop"
        service.script.stop = True
        agent.end()


def test_a_signal_to_the_agent_is_the_end_of_the_machine(service: Service, machine: Path) -> None:
    """`docker stop` and a provider's shutdown come as SIGTERM."""
    service.script.credential = listening()
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.end() == 0
    assert service.wait_for_event("power_off")["data"] == {"why": "this machine is being ended (signal 15)"}


def test_lines_written_while_the_service_is_away_arrive_later_and_once(service: Service, machine: Path) -> None:
    service.script.credential = shell("while [ ! -e go ]; do sleep 0.02; done; seq 1 500; exec sleep 600")
    with running(service.url, machine) as agent:
        service.wait_for_event("runner_online")
        service.script.refuse["/node/log"] = 503, {}
        (machine / "runner/go").touch()
        service.script.refuse.clear()
        service.wait_for_line("500")
        service.script.stop = True
        agent.end()
    assert service.lines("runner") == [str(number) for number in range(1, 501)]


@pytest.mark.parametrize(
    ("credential", "why"),
    [
        ({"command": ["/does/not/exist"]}, "could not be started"),
        ({"command": []}, "the service named no command"),
        ({"command": ["/bin/true"], "files": {"../escape": "x"}}, "a file outside the runner's folder"),
        ({"command": ["/bin/true"], "files": {"/etc/escape": "x"}}, "a file outside the runner's folder"),
        ({"command": ["/bin/true"], "environment": {"A": 1}}, "credential cannot be read"),
        ({"command": ["/bin/true"], "least": {"command": ["x"], "version": "new", "why": ""}}, "credential cannot be read"),
        ({"command": ["/none/" + "x" * 500]}, "/none/xxx"),
    ],
)
def test_a_runner_that_cannot_be_started_is_told(service: Service, machine: Path, credential: dict[str, Any], why: str) -> None:
    """As an exit, so that the lease goes its way without waiting for a deadline."""
    service.script.credential = {"environment": {}, "files": {}, "ready": "", **credential}
    with running(service.url, machine) as agent:
        told = service.wait_for_event("runner_exited")["data"]
        assert told["exit"] == 126 and why in told["why"] and len(told["why"]) <= 300
        assert why in service.wait_for_line("the runner could not be started")
        service.script.stop = True
        agent.end()
    assert not (machine / "escape").exists()


def test_a_runner_that_cannot_be_started_shows_no_secret_either(service: Service, machine: Path) -> None:
    secret = "jit-secret-0123456789"
    service.script.credential = {"command": [f"/none/{secret}"], "environment": {"A": secret}, "files": {}, "ready": ""}
    with running(service.url, machine) as agent:
        told = service.wait_for_event("runner_exited")["data"]
        service.script.stop = True
        agent.end()
    assert "/none/*** could not be started" in agent.console
    assert told["why"].startswith("/none/*** could not be started")
    assert secret not in agent.console + json.dumps(service.lines())


def test_a_machine_is_powered_off_one_way_after_the_other(tmp_path: Path) -> None:
    """And asked beforehand to do so by itself, a little after the hard end. Containers and processes just end."""
    ran: list[tuple[str, ...]] = []
    rested: list[float] = []
    power.off("machine", lambda argv: ran.append(tuple(argv)), rested.append, tmp_path / "sysrq")
    assert [argv[0] for argv in ran] == ["shutdown", "systemctl", "poweroff"]
    assert (tmp_path / "sysrq").read_text() == "o"
    for kind in ("container", "process"):
        power.off(kind, lambda argv: ran.append(tuple(argv)), rested.append, tmp_path / "none")
        power.arm(kind, 600.0, lambda argv: ran.append(tuple(argv)))
    assert len(ran) == 3 and not (tmp_path / "none").exists()
    if os.geteuid() == 0:
        power.arm("machine", 600.0, lambda argv: ran.append(tuple(argv)))
        assert ran[-1] == ("shutdown", "-h", "+12")
