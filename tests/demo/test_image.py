"""The demo image is made of this machine's own programs, the same bytes each time, and runs a real job in a container."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from app.demo import image, launch, machine, rootfs
from tests.demo.runners import eventually, jit, job
from tests.parts.docker import call


def test_the_same_machine_gives_the_same_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    tree = rootfs.gather()
    tree.write(first)
    again = rootfs.gather()
    again.write(second)
    assert tree.fingerprint() == again.fingerprint()
    assert first.getvalue() == second.getvalue()
    again.add("etc/motd", b"hello")
    assert tree.fingerprint() != again.fingerprint()


def test_it_holds_what_a_job_needs_and_nothing_of_this_machine() -> None:
    packed = io.BytesIO()
    rootfs.gather().write(packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        entries = {entry.name: entry for entry in tar}
        users = tar.extractfile("etc/passwd")
        assert users is not None and b"\nsublet-runner:x:1001:" in users.read()
    for path in (machine.IMAGE_ACT, machine.IMAGE_RUNNER, machine.IMAGE_PYTHON, "/bin/sh", "/usr/bin/env", "/bin/sleep"):
        assert path.lstrip("/") in entries, path
    assert entries[machine.IMAGE_ACT.lstrip("/")].mode == 0o755
    assert entries["tmp"].mode == 0o1777
    assert not [name for name in entries if "site-packages" in name or "__pycache__" in name]
    assert {entry.mtime for entry in entries.values()} == {0}
    assert {entry.uid for entry in entries.values()} == {0, 1001}
    assert not [name for name in entries if name.startswith("root/")]


@pytest.mark.parametrize("host", ["tcp://engine.example:2375", "ssh://root@engine.example", "http://127.0.0.1:1"])
def test_another_machines_engine_is_refused(host: str) -> None:
    with pytest.raises(rootfs.NoImage, match="on this machine"):
        image.build(host)


def test_an_engine_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(rootfs.NoImage, match="does not answer"):
        image.build(f"unix://{tmp_path}/none.sock")


def test_it_is_built_once_and_runs_a_job_in_a_container(docker_host: str, process: launch.Running) -> None:
    """On a real engine, without a network but the host's: Python, act, the runner, and the real workflow."""
    reference = image.build(docker_host)
    made = call(docker_host, "GET", f"/images/{reference}/json").json()
    assert image.build(docker_host) == reference
    assert call(docker_host, "GET", f"/images/{reference}/json").json()["Created"] == made["Created"]
    number = process.ask("push")["jobs"][0]["id"]
    config = jit(process, "boxed-fox", ["gpu", "rubin"])
    recipe = {
        "Image": reference,
        "Cmd": list(machine.command_in_image()),
        "User": "sublet-runner",
        "WorkingDir": "/home/sublet-runner",
        "Env": [f"ACTIONS_RUNNER_INPUT_JITCONFIG={config}"],
        "HostConfig": {"NetworkMode": "host"},
    }
    container = call(docker_host, "POST", "/containers/create", json=recipe).json()["Id"]
    try:
        assert call(docker_host, "POST", f"/containers/{container}/start").status_code == 204
        eventually(lambda: not call(docker_host, "GET", f"/containers/{container}/json").json()["State"]["Running"])
        ended = call(docker_host, "GET", f"/containers/{container}/json").json()["State"]
        log = call(docker_host, "GET", f"/containers/{container}/logs?stdout=1&stderr=1").content.decode("utf-8", "replace")
    finally:
        call(docker_host, "DELETE", f"/containers/{container}?force=1")
    assert ended["ExitCode"] == 0, log
    done = job(process, number)
    assert (done["conclusion"], done["runner_name"]) == ("success", "boxed-fox"), log
    assert "epoch 12/12" in log
