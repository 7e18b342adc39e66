"""The Dockerfiles on a real engine, over a base of our own: what they check, and what a job finds itself in."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from tests import parts
from tests.fakes import pulls
from tests.fakes.served import served
from tests.images.recipes import IMAGES, NAMES
from tests.parts import docker

SCRIPTS = {
    # what of Debian a build calls; the packages themselves are not the question here
    "usr/bin/apt-get": '#!/bin/sh\necho "$@" >>/var/log/apt\n',
    "usr/sbin/useradd": "#!/bin/sh\necho sublet-runner:x:1001:1001::/home/sublet-runner:/bin/sh >>/etc/passwd\n"
    "echo sublet-runner:x:1001: >>/etc/group\nmkdir -p /home/sublet-runner && chown 1001:1001 /home/sublet-runner\n",
    "usr/bin/curl": '#!/bin/sh\nexec wget -q -O "$3" "$4"\n',
}
RUN_SH = (
    '#!/bin/sh\ncd "$(dirname "$0")"\necho "runner in $PWD as $(id -u)"\ntouch .runner && mkdir -p _work _diag && echo wrote\n'
)


def packed(files: dict[str, bytes], *, owner: int = 0, setuid: tuple[str, ...] = ()) -> bytes:
    """A tar of programs."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid = len(content), 0o4755 if name in setuid else 0o755, owner
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


RUNNER = gzip.compress(
    packed(
        {
            "run.sh": RUN_SH.encode(),
            "bin/installdependencies.sh": b"#!/bin/sh\n",
            "bin/Listener": b"signed\n",
            "bin/Runner.Listener": b"#!/bin/sh\necho 2.340.0 as $(id -u)\n",
        },
        owner=1234,
    ),
    mtime=0,
)
DOCKER = gzip.compress(packed({"docker/docker": b"#!/bin/sh\necho client\n", "docker/dockerd": b"engine"}), mtime=0)
BINARY = b"#!/bin/sh\necho ${0##*/} as $(id -u)\n"
NODE = gzip.compress(
    packed({f"node-v24.1.0-linux-{machine}/bin/node": b"#!/bin/sh\necho node 24\n" for machine in ("x64", "arm64")}), mtime=0
)
FILES = {
    r"v2\.340\.0/actions-runner-linux-(x64|arm64)-2\.340\.0\.tar\.gz": RUNNER,
    r"(x86_64|aarch64)/docker-29\.tgz": DOCKER,
    r"v24\.1\.0/node-v24\.1\.0-linux-(x64|arm64)\.tar\.gz": NODE,
    r"v2\.340\.0/binaries/gitlab-runner-linux-(amd64|arm64)": BINARY,
    r"2\.340\.0/gitea-runner-2\.340\.0-linux-(amd64|arm64)": BINARY,
    r"v2\.340\.0/forgejo-runner-2\.340\.0-linux-(amd64|arm64)": BINARY,
}
"""What is asked for, by its whole path, and what it is."""


NOTHING: Mapping[str, str] = {}


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@pytest.fixture(scope="module")
def engine(docker_session: str | None) -> str:
    return docker_session if docker_session is not None else parts.lacks(docker.PART, docker.REMEDY)


@pytest.fixture(scope="module")
def base(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A base image by its digest: busybox, and scripts in place of what Debian has."""
    archive = docker.busybox_archive() or parts.lacks("busybox", "install busybox-static")
    whole = io.BytesIO(archive)
    with tarfile.open(fileobj=whole, mode="a") as tar:
        for folder in ("usr", "usr/bin", "usr/sbin", "usr/local", "usr/local/bin", "opt", "var", "var/log", "home"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, text in {
            **SCRIPTS,
            "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
            "usr/bin/lender": "old",
            "etc/group": "root:x:0:\n",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o6755 if name.endswith("lender") else 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    config = {"Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    with pulls.shelf(engine, tmp_path_factory.mktemp("base"), whole.getvalue(), config) as shelf:
        yield shelf.reference


@pytest.fixture(scope="module")
def downloads() -> Iterator[str]:
    """Where the archives come from, in place of the makers' own hosts."""
    app = FastAPI()

    @app.get("/{path:path}")
    def archive(path: str) -> Response:
        found = [raw for pattern, raw in FILES.items() if re.fullmatch(pattern, path)]
        return Response(found[0]) if found else Response(status_code=404)

    with served(app) as url:
        yield url


def build(engine: str, name: str, arguments: dict[str, str]) -> tuple[str, str]:
    """The image's id and what the build said; the id is empty if it failed."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        tar.add(IMAGES / name, ".")
    question = {"buildargs": json.dumps(arguments), "networkmode": "host", "rm": "1", "forcerm": "1", "nocache": "1"}
    headers = {"Content-Type": "application/x-tar"}
    answer = docker.call(engine, "POST", "/build", params=question, content=context.getvalue(), headers=headers)
    lines: list[dict[str, Any]] = [json.loads(line) for line in answer.text.splitlines()]
    said = "".join(str(line.get("stream") or line.get("error") or line.get("message") or "") for line in lines)
    stages = [str(line["aux"]["ID"]) for line in lines if "ID" in line.get("aux", {})]
    return "" if any("error" in line for line in lines) else stages[-1], said


def arguments(name: str, base: str, downloads: str, more: Mapping[str, str] = NOTHING, content: bytes = b"") -> dict[str, str]:
    checksum = sha256(content or (RUNNER if name == "github" else BINARY))
    sums = {"RUNNER_SHA256_AMD64": checksum, "RUNNER_SHA256_ARM64": checksum}
    return {"BASE": base, "RUNNER_VERSION": "2.340.0", "RUNNER_FROM": downloads, **sums, **more}


def run(engine: str, image: str, script: str, **more: Any) -> str:
    """What a container of it says, as the job's user and without any capability."""
    recipe = {
        "Image": image,
        "User": "1001:1001",
        "WorkingDir": "/home/sublet-runner",
        "Cmd": ["/bin/sh", "-c", script],
        "HostConfig": {"NetworkMode": "none", "CapDrop": ["ALL"], **more},
    }
    container = docker.call(engine, "POST", "/containers/create", json=recipe).json()["Id"]
    try:
        docker.call(engine, "POST", f"/containers/{container}/start").raise_for_status()
        docker.call(engine, "POST", f"/containers/{container}/wait")
        raw = docker.call(engine, "GET", f"/containers/{container}/logs?stdout=1&stderr=1").content
    finally:
        docker.call(engine, "DELETE", f"/containers/{container}?force=1")
    said = b""
    while raw:  # each piece has a head of eight bytes: which stream, and how long
        size = int.from_bytes(raw[4:8], "big")
        said, raw = said + raw[8 : 8 + size], raw[8 + size :]
    return said.decode()


@pytest.fixture(scope="module")
def github(engine: str, base: str, downloads: str) -> Iterator[str]:
    image, said = build(engine, "github", arguments("github", base, downloads))
    assert image, said
    yield image
    docker.call(engine, "DELETE", f"/images/{image}?force=1")


def test_the_runner_is_roots_and_writes_its_own_files_beside_it(engine: str, github: str) -> None:
    said = run(engine, github, "github-runner; ls -a /opt/actions-runner")
    assert "runner in /opt/actions-runner as 1001" in said and "wrote" in said
    assert {".runner", "_work", "_diag", "bin", "run.sh"} <= set(said.split())


@pytest.mark.parametrize(
    "attempt",
    [
        "echo evil >/opt/actions-runner/run.sh",
        "rm -f /opt/actions-runner/run.sh",
        "mv /opt/actions-runner/bin /opt/actions-runner/old",
        "echo evil >/opt/actions-runner/bin/Listener",
        "touch /opt/actions-runner/bin/more",
        "chmod 755 /opt/actions-runner",
        "echo evil >/usr/local/bin/github-runner",
    ],
)
def test_no_job_and_no_update_replaces_a_signed_file(engine: str, github: str, attempt: str) -> None:
    check = "cat /opt/actions-runner/bin/Listener; wc -c </opt/actions-runner/run.sh"
    said = run(engine, github, f"({attempt}) 2>/dev/null && echo did it; {check}")
    assert said.split() == ["signed", str(len(RUN_SH))]


def test_the_wrapper_tells_the_runners_version_in_the_image_too(engine: str, github: str) -> None:
    said = run(engine, github, "github-runner --version; ls -a .")
    assert said.split() == ["2.340.0", "as", "1001", ".", ".."]


def test_no_program_lends_rights_and_the_engines_command_line_is_not_there(engine: str, github: str) -> None:
    look = "find / -xdev -type f -perm /6000; which docker; grep 1001 /etc/passwd /etc/group; stat -c %a /usr/bin/lender"
    assert run(engine, github, look).splitlines() == [
        "/etc/passwd:sublet-runner:x:1001:1001::/home/sublet-runner:/bin/sh",
        "/etc/group:sublet-runner:x:1001:",
        "755",
    ]
    config = docker.call(engine, "GET", f"/images/{github}/json").json()["Config"]
    assert config["User"] == "root", "the agent's; the job's is sublet-runner"
    assert config["Labels"]["org.opencontainers.image.version"] == "2.340.0"
    assert "@sha256:" in config["Labels"]["org.opencontainers.image.base.name"]


def test_with_a_guarded_socket_the_runner_moves_into_the_jobs_folder(engine: str, base: str, downloads: str) -> None:
    """What its containers may mount is there and nowhere else."""
    checksum = sha256(DOCKER)
    more = {"DOCKER_SHA256_AMD64": checksum, "DOCKER_SHA256_ARM64": checksum, "DOCKER_FROM": downloads, "DOCKER_VERSION": "29"}
    image, told = build(engine, "github", arguments("github", base, downloads, more))
    assert image, told
    try:
        socket = engine.removeprefix("unix://")
        said = run(engine, image, "github-runner; docker; ls /usr/local/bin", Binds=[f"{socket}:/var/run/docker.sock"])
    finally:
        docker.call(engine, "DELETE", f"/images/{image}?force=1")
    assert "runner in /home/sublet-runner as 1001" in said and "client" in said
    assert "dockerd" not in said


NODE_SUMS = {"NODE_SHA256_AMD64": sha256(NODE), "NODE_SHA256_ARM64": sha256(NODE)}
CHOSEN = {"NODE_VERSION": "24.1.0", **NODE_SUMS}
LOOK = "find / -xdev -type f -perm /6000; stat -c %a /usr/bin/lender; command -v docker"


@pytest.mark.parametrize(("name", "node"), [("gitlab", NOTHING), ("gitea", CHOSEN), ("forgejo", NOTHING)])
def test_a_runner_of_one_program_starts_as_the_jobs_user(
    engine: str, base: str, downloads: str, name: str, node: Mapping[str, str]
) -> None:
    """And finds the Node.js that was named, if one was; without, Debian's is asked for."""
    more = {**node, "NODE_FROM": downloads} if node else NOTHING
    image, told = build(engine, name, arguments(name, base, downloads, more))
    assert image, told
    try:
        said = run(engine, image, f"{name}-runner; {LOOK}; node 2>/dev/null; tail -n 1 /var/log/apt").splitlines()
    finally:
        docker.call(engine, "DELETE", f"/images/{image}?force=1")
    assert said[:2] == [f"{name}-runner as 1001", "755"]
    assert said[2:-1] == (["node 24"] if node else [])
    assert said[-1].startswith("install ") and said[-1].endswith(
        "zstd" if name == "gitlab" else "libstdc++6" if node else " nodejs"
    )


def test_another_node_than_the_named_one_ends_the_build(engine: str, base: str, downloads: str) -> None:
    wrong = {**CHOSEN, "NODE_FROM": downloads, **dict.fromkeys(NODE_SUMS, sha256(b"what we looked at"))}
    image, said = build(engine, "gitea", arguments("gitea", base, downloads, wrong))
    assert not image and "node.tar.gz: FAILED" in said


@pytest.mark.parametrize("name", NAMES)
def test_another_archive_than_the_named_one_ends_the_build(engine: str, base: str, downloads: str, name: str) -> None:
    image, said = build(engine, name, arguments(name, base, downloads, content=b"what we looked at"))
    assert not image and "FAILED" in said


@pytest.mark.parametrize("name", NAMES)
def test_a_base_named_by_its_tag_ends_the_build(engine: str, base: str, downloads: str, name: str) -> None:
    tag = f"{base.partition('@')[0]}:v1"
    image, said = build(engine, name, arguments(name, tag, downloads))
    assert not image and "named by its digest" in said
