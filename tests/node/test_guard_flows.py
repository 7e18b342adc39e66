"""What honest jobs do works through the guard: GitHub's runner by its command lines, GitLab's docker executor by its calls."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from app.node.agent.engine import Engine, frames
from tests import parts
from tests.node.guarded import Ward

LABEL = "f9a1b2"


@pytest.fixture(autouse=True)
def command() -> str:
    return shutil.which("docker") or parts.lacks("docker command", "install docker.io")


def test_a_job_container_and_a_service_as_githubs_runner_starts_them(ward: Ward) -> None:
    """actions/runner, DockerCommandManager.cs and ContainerOperationProvider.cs: these commands, in this order."""
    said = len(ward.said)
    service = ward.push("mirror/postgres", "v17", is_="a service")
    name = f"{service.repository}:v17"
    ward.allow(name, service)
    work = ward.job / "_work"
    for folder in ("_temp/_github_home", "_temp/_github_workflow", "_actions", "_tool", "train/train"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (ward.job / "externals").mkdir(exist_ok=True)

    def docker(*words: str) -> str:
        ended = ward.docker(*words)
        assert ended.returncode == 0, (words, ended.stderr)
        return ended.stdout.strip()

    assert docker("version", "--format", "{{.Server.APIVersion}}")
    assert docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}") == ""
    docker("network", "prune", "--force", "--filter", f"label={LABEL}")
    docker("network", "create", "--label", LABEL, "github_network_0a1b2c3d")
    docker("pull", ward.image.reference)
    docker("pull", name)
    usual = ["--label", LABEL, "--network", "github_network_0a1b2c3d"]
    mounts = ["-v", f"{ward.door}:/var/run/docker.sock", "-v", f"{work}:/__w", "-v", f"{ward.job}/externals:/__e:ro"]
    mounts += ["-v", f"{work}/_temp:/__w/_temp", "-v", f"{work}/_actions:/__w/_actions", "-v", f"{work}/_tool:/__t"]
    mounts += ["-v", f"{work}/_temp/_github_home:/github/home", "-v", f"{work}/_temp/_github_workflow:/github/workflow"]
    variables = ["-e", "HOME=/github/home", "-e", "GITHUB_ACTIONS=true", "-e", "CI=true"]
    keeps = ["--entrypoint", "tail", ward.image.reference, "-f", "/dev/null"]
    job = docker("create", "--name", "a_job", *usual, "--workdir", "/__w/train/train", *variables, *mounts, *keeps)
    alias = ["--network-alias", "postgres", "-p", "5432", "-e", "POSTGRES_PASSWORD=x"]
    database = docker("create", "--name", "b_service", *usual, *alias, name, "sleep", "600")
    for container in (database, job):
        docker("start", container)
        seen = docker(
            "ps", "--all", "--filter", f"id={container}", "--filter", "status=running", "--no-trunc", "--format", "{{.ID}}"
        )
        assert seen == container
    assert "CI=true" in docker("inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", job)
    docker("port", database)
    (work / "_temp/step.sh").write_text("echo ran in $PWD; echo made >/__w/train/train/made\n")
    run = ["exec", "-i", "--workdir", "/__w/train/train", "-e", "GITHUB_JOB=train", job, "sh", "-e", "/__w/_temp/step.sh"]
    assert docker(*run) == "ran in /__w/train/train"
    assert (work / "train/train/made").read_text() == "made\n"
    assert docker("run", "--rm", "--network", "none", ward.image.reference, "echo", "a step's own") == "a step's own"
    docker("logs", "--details", database)
    docker("rm", "--force", job)
    docker("rm", "--force", database)
    docker("network", "rm", "github_network_0a1b2c3d")
    assert ward.said[said:] == []


def test_docker_run_pulls_what_it_does_not_have(ward: Ward) -> None:
    """Not there and verified: the engine says that it is missing, and the command pulls. Not verified: never asked for."""
    wanted, evil = (ward.push(f"run/{one}", "v1", which=one) for one in ("wanted", "evil"))
    ward.allow(f"{wanted.repository}:v1", wanted)
    ended = ward.docker("run", "--rm", "--network", "none", f"{wanted.repository}:v1", "echo", "hello")
    assert (ended.returncode, ended.stdout) == (0, "hello\n")
    ended = ward.docker("run", "--rm", "--network", "none", f"{evil.repository}:v1", "echo", "hello")
    assert ended.returncode == 125 and "nobody has signed it" in ended.stderr
    assert ward.keeper.engine.image(f"{evil.repository}:v1") is None


def test_an_image_behind_a_login_that_the_job_does_not_have(ward: Ward) -> None:
    """The service lends the guard a login; the job never sees it."""
    private = ward.push("private/tools", "v1", is_="private")
    ward.allow(f"{private.repository}:v1", private, access={"username": "robot", "password": "for-a-minute"})
    container = ward.made(Image=f"{private.repository}:v1")
    found = ward.ask("GET", f"/containers/{container}/json").body
    assert found["Image"] == private.config
    ward.remove(container)


def test_the_calls_of_gitlabs_docker_executor(ward: Ward) -> None:
    """gitlab-runner, executors/docker: pull, volumes, a container by the image's id, script by stdin, wait, kill, remove."""
    said = len(ward.said)
    assert ward.ask("GET", "/info").status == ward.ask("GET", "/version").status == 200
    helper = ward.push("mirror/gitlab-runner-helper", "v18", is_="the helper")
    ward.allow(f"{helper.repository}:v18", helper)
    assert ward.ask("POST", "/v1.41/images/create", fromImage=helper.repository, tag="v18").status == 200
    image = ward.ask("GET", f"/v1.41/images/{helper.repository}:v18/json").body["Id"]
    assert image == helper.config
    labels = {"com.gitlab.gitlab-runner.job.id": "7"}
    volume = ward.ask("POST", "/v1.41/volumes/create", {"Name": "runner-x-cache-3c3f", "Driver": "", "Labels": labels})
    assert volume.status == 201
    network: dict[str, Any] = {
        "Name": "runner-x-net",
        "CheckDuplicate": True,
        "Driver": "bridge",
        "EnableIPv6": False,
        "IPAM": None,
        "Options": {},
    }
    made = ward.ask("POST", "/v1.41/networks/create", {**network, "Labels": labels})
    assert made.status == 201
    host = {
        "Binds": ["runner-x-cache-3c3f:/builds"],
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": None},
        "NetworkMode": "runner-x-net",
        "PortBindings": None,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "CapAdd": None,
        "CapDrop": None,
        "Dns": None,
        "ExtraHosts": None,
        "IpcMode": "",
        "Links": None,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": False,
        "SecurityOpt": None,
        "StorageOpt": None,
        "Tmpfs": None,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 0,
        "Sysctls": None,
        "ConsoleSize": [0, 0],
        "Isolation": "",
        "CpuShares": 0,
        "Memory": 0,
        "NanoCpus": 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "Devices": None,
        "DeviceCgroupRules": None,
        "DeviceRequests": [],
        "OomKillDisable": None,
        "PidsLimit": None,
        "Ulimits": None,
        "MaskedPaths": None,
        "ReadonlyPaths": None,
        "Init": None,
    }
    body = {
        "Hostname": "runner-x",
        "Image": image,
        "Cmd": ["sh", "-c", "cat >/builds/script; sh /builds/script"],
        "Labels": labels,
        "Tty": False,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Env": ["CI=true"],
        "HostConfig": host,
        "NetworkingConfig": {"EndpointsConfig": {"runner-x-net": {"Aliases": ["build"]}}},
    }
    created = ward.ask("POST", "/v1.41/containers/create", body, name="runner-x-predefined")
    assert created.status == 201, created
    container = created.body["Id"]
    line = Engine(ward.door).attach(container)
    with line:
        assert ward.ask("POST", f"/v1.41/containers/{container}/start").status == 204
        line.sendall(b"echo from the script\n")
        line.shutdown(socket.SHUT_WR)
        assert b"".join(frames(line)) == b"from the script\n"
    waited = ward.ask("POST", f"/v1.41/containers/{container}/wait", condition="not-running")
    assert json.loads(waited.raw)["StatusCode"] == 0
    assert ward.ask("POST", f"/v1.41/containers/{container}/kill", signal="SIGKILL").status in (204, 409)
    assert ward.ask("DELETE", f"/v1.41/containers/{container}", force="1", v="1").status == 204
    assert ward.ask("DELETE", f"/v1.41/networks/{made.body['Id']}").status == 204
    assert ward.ask("DELETE", "/v1.41/volumes/runner-x-cache-3c3f", force="1").status == 204
    assert ward.said[said:] == []


def test_a_login_of_the_jobs_own_is_the_engines_matter(ward: Ward) -> None:
    """`docker login`: its body holds a password, which the engine shows to nobody; what it does is to ask the registry."""
    ended = ward.docker("login", "-u", "robot", "-p", "hunter-2-hunter", ward.registry.host)
    assert "authorization denied" not in ended.stderr
    (ward.job / ".docker/config.json").unlink(missing_ok=True)


def test_refusals_reach_the_leases_log_in_words(ward: Ward) -> None:
    ward.create({"Privileged": True})
    wanted = "refused POST /containers/create: Privileged: such a container has every right on this machine"
    assert ward.hears(wanted), ward.said[-3:]
    assert Path(ward.door).is_socket()
