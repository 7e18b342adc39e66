"""A runner has fewer rights than the agent: another user where that works, else no capability at all. For real, as root."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from app.node.agent import launch, privileges, runner
from app.node.agent.settings import Settings
from tests.node.agents import SYSTEM_PYTHON, need_root, pack, running, shell
from tests.node.service import Service

LOOK = """
id -un; id -G
grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '; echo
umask; ulimit -c; cat /proc/self/oom_score_adj
stat -c '%U %a' config.toml "$HOME"
cat /proc/$PPID/environ >/dev/null 2>&1 && echo 'reads the agent'
cat /proc/$PPID/mem >/dev/null 2>&1 && echo 'reads the agent'
echo x >>"$ACTIONS_RUNNER_HOOK_JOB_STARTED" && echo 'changes the hook'
./id-as-root -un 2>/dev/null
cat foreign 2>/dev/null && echo 'reads what is not its own'
chown 0 "$HOME" 2>/dev/null && [ "$(id -u)" != 0 ] && echo 'gives away'
kill -0 $PPID 2>/dev/null && echo 'could signal the agent'
exit 0
"""
NOTHING = "CapPrm:0000000000000000 CapEff:0000000000000000 CapBnd:0000000000000000 CapAmb:0000000000000000 NoNewPrivs:1 "


def looked(service: Service, machine: Path, python: str) -> list[str]:
    """What a runner sees of itself, line by line."""
    service.script.credential = shell(LOOK, files={"config.toml": "a = 1\n"})
    with running(service.url, machine, python=python) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    return service.lines("runner")


def add_traps(folder: Path) -> None:
    """A setuid program, and a file of a third user."""
    inside = folder / "runner"
    inside.mkdir(mode=0o700)
    program = inside / "id-as-root"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    program.chmod(0o4755)
    foreign = inside / "foreign"
    foreign.write_text("secret\n")
    foreign.chmod(0o600)
    os.chown(foreign, 4242, 4242)


def test_root_hands_over_to_an_unprivileged_user(service: Service, machine: Path) -> None:
    """No capability, no way to gain one, no way to the agent, and only its own files."""
    python = need_root()
    add_traps(machine)
    user = privileges.account()
    assert user is not None
    lines = looked(service, machine, python)
    assert lines[0] == user.name
    assert "0" not in lines[1].split()
    assert lines[2] == NOTHING.strip() or lines[2] == NOTHING
    assert lines[3:6] == ["0077", "0", "500"]
    assert lines[6:8] == [f"{user.name} 600", f"{user.name} 700"]
    assert [line for line in lines[8:] if "Permission denied" not in line and "cannot create" not in line] == [user.name]
    assert service.wait_for_line(f"the runner runs as the unprivileged user {user.name}")


def test_where_no_other_user_can_reach_the_command_root_keeps_its_name_and_nothing_else(
    service: Service, tmp_path: Path
) -> None:
    """A private folder, as under a person's home: no capability, no setuid, nothing that is another user's."""
    python = need_root()
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    add_traps(folder)
    lines = looked(service, folder, python)
    assert lines[0] == "root"
    assert lines[2].strip() == NOTHING.strip()
    assert lines[3:8] == ["0077", "0", "500", "root 600", "root 700"]
    rest = set(lines[8:])
    assert "reads the agent" not in rest
    assert "reads what is not its own" not in rest
    assert "without any capability and without a way to gain one" in service.wait_for_line("cannot run the runner")


def test_a_script_whose_interpreter_is_out_of_reach_is_noticed_before_it_is_started(machine: Path, tmp_path: Path) -> None:
    """The file itself may be executed by all, and still could not be started."""
    need_root()
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    interpreter = hidden / "sh"
    interpreter.symlink_to("/bin/sh")
    script = machine / "run.sh"
    script.write_text(f"#!{interpreter} -e\n")
    script.chmod(0o755)
    user = privileges.account()
    order = launch.Order([str(script)], {"PATH": "/usr/bin:/bin"}, str(machine), user, False, [])
    assert f"{interpreter} cannot be executed" in obstacle_as_user(order, machine)
    script.write_text("#!/usr/bin/env -S sh -e\n")
    assert obstacle_as_user(order, machine) == ""


def obstacle_as_user(order: launch.Order, machine: Path) -> str:
    """What the launcher's probe says, in a process that has become the user."""
    assert order.account is not None
    os.chown(machine, order.account.uid, order.account.gid)
    found = runner.Runner(machine, [SYSTEM_PYTHON, "-I", str(pack(machine))], order.account)
    return found._launch(order)[1]  # pyright: ignore[reportPrivateUsage]  the probe alone


def test_an_agent_that_is_not_root_hides_from_its_own_user(service: Service, machine: Path) -> None:
    """The runner is the same user then, and still reads neither the agent's memory nor its environment."""
    python = need_root()
    service.script.credential = shell(LOOK, files={"config.toml": "a = 1\n"})
    os.chown(machine, 65534, 65534)
    with running(service.url, machine, python=python, user=65534) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    lines = service.lines("runner")
    assert "NoNewPrivs:1" in lines[2]
    assert "reads the agent" not in lines
    assert service.wait_for_line("the runner runs as the same user")


def test_a_container_that_leaves_root_without_rights_still_runs(service: Service, machine: Path) -> None:
    """`CapDrop: ALL`: root may not even hand a folder over. Then there is nothing to give away, and the runner starts."""
    python, packed = need_root(), machine / "agent.pyz"
    program = machine / "bare.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(packed)!r})\n"
        "from sublet_agent import __main__, privileges\n"
        f"privileges.strip(); sys.exit(__main__.main([{str(packed)!r}, 'run']))\n"
    )
    service.script.credential = shell(LOOK, files={"config.toml": "a = 1\n"})
    with running(service.url, machine, python=python, program=program) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    lines = service.lines("runner")
    assert (lines[0], lines[2].strip()) == ("root", NOTHING.strip())
    assert "the folder cannot be handed over" in service.wait_for_line("cannot run the runner")


def test_groups_that_are_as_good_as_root_are_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start-up script's user may be in `video`; never in `docker`."""
    need_root()

    def groups(name: str, gid: int) -> list[int]:
        return [gid, 0, 27, 44]

    monkeypatch.setattr(os, "getgrouplist", groups)
    user = privileges.account()
    assert user is not None and 0 not in user.groups
    names = subprocess.run(["getent", "group", "27"], capture_output=True, text=True, check=False).stdout
    assert (27 in user.groups) is (not names.startswith("sudo"))


def test_the_environment_is_made_and_not_inherited(tmp_path: Path) -> None:
    """Only what is no secret passes; the hook cannot be overridden by the credential."""
    work = runner.read_work({"command": ["x"], "environment": {"ACTIONS_RUNNER_HOOK_JOB_STARTED": "/evil", "A": "b"}})
    own = {
        "PATH": "/opt/cuda/bin:relative:/usr/bin",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "https_proxy": "http://proxy",
        "SUBLET_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "s",
        "HOME": "/home/ada",
        "PYTHONPATH": "/x",
    }
    seen = runner.environment(work, tmp_path, "nobody", tmp_path / "hook.sh", own)
    assert seen == {
        "PATH": "/opt/cuda/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "https_proxy": "http://proxy",
        "LANG": "C.UTF-8",
        "HOME": str(tmp_path),
        "USER": "nobody",
        "LOGNAME": "nobody",
        "A": "b",
        "ACTIONS_RUNNER_HOOK_JOB_STARTED": str(tmp_path / "hook.sh"),
        "RUNNER_PRE_GET_SOURCES_SCRIPT": str(tmp_path / "hook.sh"),
    }


def test_settings_do_not_show_the_token(tmp_path: Path) -> None:
    assert "hush" not in repr(Settings("https://x", "l", "hush", tmp_path, "process", None, ("python3",)))
