"""A real Docker engine: the one that is there, or a private one that ends with the tests.

A private engine needs root, `dockerd` and nothing else. It has no bridge (so its containers use the network
"host" or "none") and lives in a mount namespace of its own, so that nothing of it outlasts it. Each xdist worker
that asks starts its own.
"""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from tests import parts

PART = "Docker engine"
REMEDY = "install docker.io and busybox-static and run as root, or set DOCKER_HOST to a unix:// engine that this user may use"
USUAL = "unix:///var/run/docker.sock"
BUSYBOX_IMAGE = "sublet-test/busybox:1"


def call(host: str, method: str, path: str, **rest: object) -> httpx.Response:
    """One blocking call of the Engine API at a unix:// host."""
    transport = httpx.HTTPTransport(uds=host.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://docker", timeout=30) as client:
        return client.request(method, path, **rest)  # pyright: ignore[reportArgumentType]  passed on as given


def answers(host: str) -> bool:
    if not Path(host.removeprefix("unix://")).is_socket():
        return False
    try:
        return call(host, "GET", "/_ping").status_code == 200
    except httpx.HTTPError:
        return False


@contextlib.contextmanager
def private_engine() -> Generator[str, None, None]:
    """An engine of our own under a new folder in /tmp (a socket's path is at most 108 characters)."""
    folder = Path(tempfile.mkdtemp(prefix="sublet-engine-", dir="/tmp"))
    host = f"unix://{folder}/engine.sock"
    ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ready.bind(str(folder / "ready"))
    ready.settimeout(60)
    command = ["unshare", "--mount", "--propagation", "private", "setpriv", "--pdeathsig", "TERM", "dockerd"]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid", "-H", host]
    command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    try:
        with (folder / "log").open("wb") as log:
            engine = subprocess.Popen(
                command, env={**os.environ, "NOTIFY_SOCKET": f"{folder}/ready"}, stdout=log, stderr=log, start_new_session=True
            )
        try:
            with contextlib.suppress(TimeoutError):
                while b"READY=1" not in ready.recv(4096):
                    pass
            assert answers(host), (folder / "log").read_text()[-2000:]
            yield host
        finally:
            engine.send_signal(signal.SIGTERM)
            try:
                engine.wait(30)
            except subprocess.TimeoutExpired:
                engine.kill()
                engine.wait(5)
    finally:
        ready.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def engine() -> Generator[str | None, None, None]:
    """The address of an engine: DOCKER_HOST, the usual socket, or a private one; None where there is no way to one."""
    there = _there()
    if there is not None or not possible():
        yield there
        return
    with private_engine() as host:
        yield host


def possible() -> bool:
    """Whether there is an engine, or a way to one."""
    programs = all(shutil.which(program) for program in ("dockerd", "unshare", "setpriv"))
    return _there() is not None or (os.geteuid() == 0 and programs)


def _there() -> str | None:
    """The engine that answers already."""
    for host in (os.environ.get("DOCKER_HOST", ""), USUAL):
        if host.startswith("unix://") and answers(host):
            return host
    return None


def import_image(host: str, name: str, archive: bytes) -> None:
    """Make an image out of a tar of its files."""
    repository, _, tag = name.partition(":")
    params = {"fromSrc": "-", "repo": repository, "tag": tag}
    answer = call(host, "POST", "/images/create", params=params, content=archive)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text, answer.text


def busybox_archive() -> bytes | None:
    """A root file system of one static program and its most used names; None without busybox-static."""
    program = shutil.which("busybox")
    if program is None:
        return None
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(program, "bin/busybox")
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return packed.getvalue()


def import_busybox(host: str) -> str | None:
    """The tiny image's name on that engine; None without busybox-static."""
    archive = busybox_archive()
    if archive is None:
        return None
    if call(host, "GET", f"/images/{BUSYBOX_IMAGE}/json").status_code != 200:
        import_image(host, BUSYBOX_IMAGE, archive)
    return BUSYBOX_IMAGE


@pytest.fixture(scope="session")
def docker_session() -> Generator[str | None, None, None]:
    """One engine for all tests of this worker, or None."""
    with engine() as host:
        yield host


@pytest.fixture
def docker_host(docker_session: str | None) -> str:
    """ "unix:///...sock" of a Docker engine."""
    return docker_session if docker_session is not None else parts.lacks(PART, REMEDY)


@pytest.fixture
def docker_image(docker_host: str) -> str:
    """The name of a tiny image on that engine: /bin/sh and busybox's programs, nothing else."""
    return import_busybox(docker_host) or parts.lacks("busybox", "install busybox-static")
