"""What a new container may see of the host, read from what the kernel says of it; and the small things around an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.node.agent import guard_place, keeper, runtime
from app.node.agent.command import Outcome
from app.node.agent.contained import Cell, ContainedRunner, environment, script
from app.node.agent.engine import Engine, Failed
from app.node.agent.guard_place import Place, read, strange
from app.node.agent.image import Access
from app.node.agent.privileges import Account
from app.node.agent.runner import read_work
from tests.node.agents import pack

HOST = read(
    r"""20 1 254:0 / / rw - ext4 /dev/vda rw
21 20 0:20 / /run rw - tmpfs tmpfs rw
22 20 0:21 / /proc rw - proc proc rw
23 20 0:6 / /dev rw - devtmpfs dev rw
24 20 0:22 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw
25 20 254:0 /srv/with\040space /mnt/bound rw - ext4 /dev/vda rw
26 20 254:16 /sub /data rw - xfs /dev/vdb rw
40 20 0:50 / /var/lib/sublet/engine/data/overlay2/abc/merged rw - overlay overlay rw"""
)
PLACE = Place(
    data="/var/lib/sublet/engine/data",
    state="/var/lib/sublet/engine/state",
    folders=("/var/lib/sublet/runner",),
    read_only=("/var/lib/sublet/hook",),
    sockets=("/run/docker.sock",),
    gpus=False,
)
OWN = "/var/lib/sublet/engine/data/containers/" + "a" * 64
USUAL = f"""100 99 0:50 / / rw - overlay overlay rw
101 100 0:60 / /proc rw - proc proc rw
102 100 0:61 / /dev rw - tmpfs tmpfs rw
103 100 0:62 / /sys ro - sysfs sysfs ro
104 100 0:22 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw
105 100 254:0 {OWN}/resolv.conf /etc/resolv.conf rw - ext4 /dev/vda rw
106 100 254:0 {OWN}/mounts/shm /dev/shm rw - tmpfs shm rw
107 100 254:0 /var/lib/sublet/engine/data/volumes/cache-1/_data /cache rw - ext4 /dev/vda rw
108 100 254:0 /usr/bin/docker-init /sbin/docker-init ro - ext4 /dev/vda rw
109 100 0:60 /sys /proc/sys ro - proc proc rw
"""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("254:0 /var/lib/sublet/runner/_work /w rw - ext4 /dev/vda rw", ""),
        ("254:0 /var/lib/sublet/runner /w rw - ext4 /dev/vda rw", ""),
        ("254:0 /var/lib/sublet/hook /h ro,relatime - ext4 /dev/vda rw", ""),
        ("0:20 /docker.sock /run/docker.sock rw - tmpfs tmpfs rw", ""),
        ("254:0 /var/lib/sublet/hook /h rw - ext4 /dev/vda rw", "/h is /var/lib/sublet/hook of the host"),
        ("254:0 /var/lib/sublet/runner2 /w rw - ext4 /dev/vda rw", "/w is /var/lib/sublet/runner2 of the host"),
        ("254:0 / /w rw - ext4 /dev/vda rw", "/w is / of the host"),
        ("254:0 /etc /w ro - ext4 /dev/vda rw", "/w is /etc of the host"),
        ("254:0 /srv/with\\040space /w rw - ext4 /dev/vda rw", "/w is /srv/with space of the host"),
        ("254:16 /sub/x /w rw - xfs /dev/vdb rw", "/w is /data/x of the host"),
        ("254:16 / /w rw - xfs /dev/vdb rw", "/w is /data and what is around it of the host"),
        ("0:20 / /w rw - tmpfs tmpfs rw", "/w is /run of the host"),
        ("0:21 / /w rw - proc proc rw", "/w is /proc of the host"),
        ("0:6 / /w rw - devtmpfs dev rw", "/w is /dev of the host"),
        ("254:0 /var/lib/sublet/engine/data /w rw - ext4 /dev/vda rw", "/w is /var/lib/sublet/engine/data of the host"),
        ("254:0 /var/lib/sublet/engine/data/overlay2/x /w rw - ext4 /dev/vda rw", "engine/data/overlay2/x of the host"),
        (f"254:0 {OWN}/config.v2.json /w rw - ext4 /dev/vda rw", "config.v2.json of the host"),
        ("254:0 /usr/bin/docker-init /w rw - ext4 /dev/vda rw", "docker-init of the host"),
        ("254:0 /usr/lib/x86_64-linux-gnu/libcuda.so.1 /w ro - ext4 /dev/vda rw", "libcuda.so.1 of the host"),
    ],
)
def test_one_mount_more(line: str, problem: str) -> None:
    found = strange(read(f"{USUAL}110 100 {line}\n"), HOST, PLACE)
    assert (problem in found) if problem else found == "", found


@pytest.mark.parametrize(
    ("path", "options", "allowed"),
    [
        ("254:0 /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", "ro", True),
        ("254:0 /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05", "ro", True),
        ("254:0 /usr/bin/nvidia-smi", "ro", True),
        ("254:0 /usr/lib/firmware/nvidia/580.95.05/gsp_ga10x.bin", "ro", True),
        ("0:20 /nvidia-persistenced/socket", "rw", True),
        ("0:6 /nvidia0", "rw", True),
        ("0:6 /dri/card0", "rw", True),
        ("0:21 /driver/nvidia/gpus/0000:3b:00.0", "ro", True),
        ("254:0 /usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05", "rw", False),
        ("254:0 /usr/lib/x86_64-linux-gnu/libc.so.6", "ro", False),
        ("0:6 /sda", "rw", False),
        ("254:0 /home/nvidia/secret", "ro", False),
        ("0:20 /containerd/containerd.sock", "rw", False),
    ],
)
def test_the_drivers_files_are_seen_where_gpus_were_asked_for(path: str, options: str, allowed: bool) -> None:
    inside = read(f"{USUAL}110 100 {path} /x {options} - ext4 /dev/vda rw\n")
    assert (strange(inside, HOST, PLACE._replace(gpus=True)) == "") is allowed
    assert strange(inside, HOST, PLACE)


def test_this_very_process_is_no_container() -> None:
    assert guard_place.problem(os.getpid(), PLACE) == "it is in the host's own mnt namespace"


# The runtime's stand-in


def test_the_verb_is_found_behind_the_options() -> None:
    given = ["--root", "/x/create", "--log", "/l", "--log-format", "json", "--systemd-cgroup", "create", "--bundle", "/b", "id"]
    assert runtime.split(given) == ("create", ["--bundle", "/b", "id"], "/l")
    assert runtime.split([]) == ("", [], "") and runtime.split(["--root"]) == ("", [], "")


def test_without_a_guard_nothing_is_started(tmp_path: Path) -> None:
    """The container that the runtime has made is deleted again, and the engine is told why."""
    called = tmp_path / "called"
    program = tmp_path / "runc"
    program.write_text(f'#!/bin/sh\necho "$*" >>{called}\necho 1 >{tmp_path}/pid\n')
    program.chmod(0o755)
    words = [sys.executable, "-I", str(pack(tmp_path)), "runtime", str(tmp_path / "no.sock"), str(program)]
    options = ["--root", "/r", "--log", str(tmp_path / "log"), "--log-format", "json"]

    def run(*verb: str) -> int:
        return subprocess.run([*words, *options, *verb], stderr=subprocess.DEVNULL, check=False).returncode

    assert run("create", "--bundle", "/b", "--pid-file", str(tmp_path / "pid"), "abc") == 1
    last = called.read_text().splitlines()[-1]
    assert last.endswith("--log-format json delete --force abc")
    assert "the guard gave no answer" in json.loads((tmp_path / "log").read_text())["msg"]
    assert run("run", "abc") == run("restore", "abc") == 1 and len(called.read_text().splitlines()) == 2
    assert run("state", "abc") == 0 and called.read_text().splitlines()[-1].endswith("state abc")


# Around the engine


def test_the_machines_own_engine_is_stopped_and_the_metadata_address_closed(tmp_path: Path) -> None:
    ran: list[str] = []

    def run(words: list[str], _patience: float) -> Outcome:
        ran.append(" ".join(words))
        return Outcome("", "ended with 1" if "DOCKER-USER" in words and words[0] == "ip6tables" else "")

    keeper.stop_others(tmp_path / "none.sock", run)
    assert ran == [f"systemctl stop {name}" for name in ("docker.socket", "docker.service", "containerd.service")]
    ran.clear()
    assert keeper.close_metadata(run) == ""
    rule = "-p tcp ! --dport 53 -j REJECT"
    assert ran == [
        f"iptables -I DOCKER-USER -d 169.254.0.0/16 {rule}",
        f"ip6tables -I DOCKER-USER -d fd00:ec2::254 {rule}",
        f"ip6tables -I FORWARD -d fd00:ec2::254 {rule}",
    ]
    assert "ended with 1" in keeper.close_metadata(lambda words, patience: Outcome("", "ended with 1"))


def test_a_machine_without_an_engine_is_told_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "SEARCH", str(tmp_path))
    with pytest.raises(Failed, match="dockerd is not on this machine: its image needs Docker Engine"):
        keeper.Keeper(["python3"], tmp_path / "engine").start(lambda name: {})


def test_the_runners_container_has_no_rights_and_its_secrets_are_not_in_its_recipe(tmp_path: Path) -> None:
    cell = Cell("r.example/x@sha256:" + "a" * 64, "0123", str(tmp_path / "hook"), "", True, "bridge")
    user = Account("sublet-runner", 1001, 1001, (1001, 44))
    runner = ContainedRunner(tmp_path / "runner", user, Engine(tmp_path / "engine.sock", "word"), cell)
    recipe = runner.recipe([{"Driver": "", "Count": -1}])
    host = recipe["HostConfig"]
    assert (recipe["User"], host["CapDrop"], host["SecurityOpt"]) == ("1001:1001", ["ALL"], ["no-new-privileges"])
    assert host["GroupAdd"] == ["44"] and host["DeviceRequests"] and "Env" not in recipe
    assert [(mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]] == [
        (f"{tmp_path}/runner", False),
        (f"{tmp_path}/hook", True),
    ]
    work = read_work({"command": ["./run.sh", "it's"], "environment": {"TOKEN": "a'b\nc", "BAD NAME": "x"}, "files": {}})
    environ = environment(work, tmp_path, "sublet-runner", tmp_path / "hook/job-started.sh", {"https_proxy": "p", "PATH": "/x"})
    assert "PATH" not in environ and environ["https_proxy"] == "p"
    assert environ["DOCKER_VOLUMES"] == f"{tmp_path}/hook:{tmp_path}/hook:ro"
    told = script(work.command, environ, str(tmp_path))
    ran = subprocess.run(
        ["/bin/sh", "-s"],
        input=told.replace("exec ./run.sh", 'exec printf \'%s|\' "$TOKEN" "$HOME"'),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == f"a'b\nc|{tmp_path}|it's|" and "BAD" not in told


def test_a_login_is_never_shown() -> None:
    assert "hush" not in repr(Access("robot", "hush-hush")) + str(Access("robot", "hush-hush"))
