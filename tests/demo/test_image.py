"""The demo image is made of this machine's own programs, signed, served by the forge, and runs a real job in a container."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from app.demo import image, launch, machine, rootfs
from app.demo.layout import MANIFEST_TYPE, Layout
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
    for path in (
        machine.IMAGE_ACT,
        machine.IMAGE_RUNNER,
        machine.IMAGE_PYTHON,
        "/bin/sh",
        "/usr/bin/env",
        "/bin/sleep",
        "/bin/openssl",
    ):
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
        image.suits(host)


def test_an_engine_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(rootfs.NoImage, match="does not answer"):
        image.suits(f"unix://{tmp_path}/none.sock")


def test_it_is_built_once_and_the_same_again(tmp_path: Path) -> None:
    first = image.publish(tmp_path, "http://127.0.0.1:40123")
    made = (tmp_path / "registry/sublet-demo/blobs/sha256" / first.digest.removeprefix("sha256:")).stat()
    again = image.publish(tmp_path, "http://127.0.0.1:40123")
    assert again == first
    kept = (tmp_path / "registry/sublet-demo/blobs/sha256" / first.digest.removeprefix("sha256:")).stat()
    assert kept.st_ino == made.st_ino, "not written a second time"
    (tmp_path / "elsewhere").mkdir()
    assert image.publish(tmp_path / "elsewhere", "http://127.0.0.1:40123").digest == first.digest, "the same bytes"


def test_what_nothing_names_any_more_is_dropped(tmp_path: Path) -> None:
    """An older tree's layer does not stay for ever: it is a hundred megabytes."""
    shelf = Layout(tmp_path)
    old = shelf.add("application/octet-stream", b"an older layer")
    config, layer = shelf.add("application/octet-stream", b"{}"), shelf.add("application/octet-stream", b"the layer")
    manifest = shelf.add(MANIFEST_TYPE, json.dumps({"config": config, "layers": [layer]}).encode())
    shelf.name({"latest": manifest})
    assert shelf.blob(old["digest"]) is None
    assert all(shelf.blob(one["digest"]) is not None for one in (config, layer, manifest))


def test_a_real_engine_pulls_it_by_digest_and_runs_a_job(docker_host: str, process: launch.Running) -> None:
    """Without a network but the host's: Python, act, the runner, and the real workflow."""
    image.suits(docker_host)
    published = image.publish(process.folder, process.url)
    asked = {"fromImage": published.repository, "tag": published.digest}
    pulled = call(docker_host, "POST", "/images/create", params=asked)
    assert pulled.status_code == 200 and "error" not in pulled.text, pulled.text
    reference = f"{published.repository}@{published.digest}"
    assert reference in call(docker_host, "GET", f"/images/{reference}/json").json()["RepoDigests"]
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
