"""Where the runner lives: the real agent, in a container that a provider booted, and on a machine with a real engine.

The agents here see a /run of their own, so that their engine's socket and plugin are nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.demo.rootfs import gather
from app.node.agent import keeper, version
from app.node.agent.contained import environment
from app.node.agent.engine import Engine
from app.node.agent.lodging import Lodging
from app.node.agent.runner import read_work
from app.node.agent.settings import Settings
from app.node.agent.wire import Wire
from tests import parts
from tests.fakes.signer import SigningKey, simple_signing
from tests.node.agents import Agent, need_root, running, shell, tools
from tests.node.guarded import NO_BRIDGE, Ward, end_leftovers, need_engine
from tests.node.pushed import ARCHITECTURE, Pushed, push
from tests.node.service import Service
from tests.parts.registry import RealRegistry

KEY = SigningKey()
PRIVATE = ("unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh")


def told(pushed: Pushed, mode: str = "contained", key: SigningKey = KEY, **more: Any) -> dict[str, Any]:
    """What the service tells of a signed image, in the join answer or for `POST /node/image`."""
    payload = simple_signing(pushed.digest)
    signature = {
        "kind": "cosign tag",
        "digest": pushed.digest,
        "payload": b64encode(payload).decode(),
        "signature": b64encode(key.sign(payload)).decode(),
        "key": key.public.pem,
    }
    usual = {
        "mode": mode,
        "reference": pushed.reference,
        "digest": pushed.digest,
        "manifests": [[ARCHITECTURE, pushed.digest, pushed.config]],
        "signatures": [signature],
        "signed": True,
        "allow_build": False,
        "access": None,
    }
    return {**usual, **more}


NOWHERE = Pushed("registry.example/ci/gpu", "sha256:" + "ab" * 32, "sha256:" + "cd" * 32)


@contextmanager
def machine_with_engine(service: Service, machine: Path) -> Generator[Agent]:
    """The agent on a machine that has Docker Engine, but none that runs."""
    need_engine()
    flags = " ".join(NO_BRIDGE)
    with running(service.url, machine, python=need_root(), around=PRIVATE, SUBLET_ENGINE_FLAGS=flags) as agent:
        try:
            yield agent
        finally:
            with contextlib.suppress(ProcessLookupError):
                agent.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(Exception):
                agent.process.wait(30)
            end_leftovers(machine)


def job(agent: Agent, machine: Path) -> Ward:
    """A job's view of the engine, from outside of its container: through the very socket that is mounted into it."""
    door = Path(f"/proc/{agent.process.pid}/root/run/docker.sock")
    return Ward(None, machine, None, None, machine / "runner", door)  # pyright: ignore[reportArgumentType]  never used


# In a container that a provider booted


def test_inside_of_its_image_the_agent_checks_and_says_so_before_it_asks_for_a_credential(
    service: Service, machine: Path
) -> None:
    service.script.image = told(NOWHERE)
    service.script.credential = shell("echo inside; exit 5")
    with running(service.url, machine, kind="container") as agent:
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 5}
        service.script.stop = True
        assert agent.end() == 0
    paths = [seen.path for seen in service.seen]
    assert paths.index("/node/facts") < paths.index("/node/credential")
    [facts] = service.bodies("/node/facts")
    image = facts["image"]
    assert (image["digest"], image["mode"], image["checked"], image["problem"]) == (NOWHERE.digest, "contained", True, "")
    assert image["openssl"].startswith("OpenSSL") and len(image["keys"]) == 1
    assert "inside" in service.lines("runner")
    assert service.wait_for_line("is signed by SHA256:")


def test_a_service_that_knows_no_images_is_answered_as_ever(service: Service, machine: Path) -> None:
    service.script.credential = shell("exit 0")
    with running(service.url, machine, kind="container") as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        agent.end()
    assert "image" not in service.bodies("/node/facts")[0]


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (told(NOWHERE, key=SigningKey()) | {"signatures": told(NOWHERE, key=KEY)["signatures"][:0]}, "sent no signature"),
        (told(Pushed("registry.example/ci/gpu", "sha256:" + "12" * 32, "sha256:" + "cd" * 32)) | {
            "signatures": told(NOWHERE)["signatures"]}, "not this image"),
        (told(NOWHERE, "guarded"), "this pool's mode needs a machine"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_reported_and_nothing_is_asked_for(
    service: Service, machine: Path, image: dict[str, Any], why: str
) -> None:
    service.script.image = image
    service.script.credential = shell("echo never")
    with running(service.url, machine, kind="container") as agent:
        facts = service.wait_for("/node/facts").body
        assert why in facts["image"]["problem"] and facts["image"]["checked"] is False
        assert service.wait_for_line("the image cannot be used")
        service.script.stop = True
        agent.end()
    assert service.bodies("/node/credential") == [] and "never" not in " ".join(service.lines())


def test_without_openssl_nobody_can_check_so_nothing_runs(service: Service, machine: Path) -> None:
    service.script.image = told(NOWHERE)
    path = tools(machine / "bin", "sh")
    (machine / "bin/openssl").write_text("#!/bin/sh\nexit 127\n")
    (machine / "bin/openssl").chmod(0o755)
    with running(service.url, machine, kind="container", path=path) as agent:
        image = service.wait_for("/node/facts").body["image"]
        assert image == {
            "digest": NOWHERE.digest,
            "mode": "contained",
            "checked": False,
            "openssl": "",
            "keys": [],
            "problem": "openssl ended with 127",
        }
        service.script.stop = True
        agent.end()
    assert service.bodies("/node/credential") == []


def test_an_answer_that_cannot_be_read_is_not_taken_for_bare(service: Service, machine: Path) -> None:
    service.script.image = told(NOWHERE, "wide open")
    service.script.credential = shell("echo never")
    with running(service.url, machine, kind="container") as agent:
        assert agent.end() == 0
    assert "in a way that this agent does not know" in agent.console
    assert service.bodies("/node/credential") == []


# On a machine of its own

LOOK = """
id -u; pwd; echo "$HOME $SECRET"
grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status | tr -d '\\t'
ls -d /var/run/docker.sock /proc/1/root/etc 2>&1
echo x 2>/dev/null >>"$ACTIONS_RUNNER_HOOK_JOB_STARTED" && echo 'changes the hook'
head -n 1 "$ACTIONS_RUNNER_HOOK_JOB_STARTED"
cat settings.ini
exit 4
"""


def test_contained_the_runner_is_inside_the_image_and_has_no_engine(
    service: Service, machine: Path, docker_registry: RealRegistry
) -> None:
    pushed = push(docker_registry, "lodging/contained", "v1", Env=["PATH=/bin", "OF_IMAGE=yes"])
    service.script.image = told(pushed)
    work = shell(LOOK + "# $OF_IMAGE", files={"settings.ini": "a = 1\n"})
    service.script.credential = {**work, "environment": {"SECRET": "one-job-secret-0123"}}
    with machine_with_engine(service, machine) as agent:
        assert service.wait_for_event("runner_exited")["data"] == {"exit": 4}
        service.script.stop = True
        assert agent.end() == 0
    lines = service.lines("runner")
    uid, folder, secret = lines[:3]
    assert uid != "0" and folder == str(machine / "runner") and secret == f"{machine}/runner ***"
    assert lines[3:6] == ["CapBnd:0000000000000000", "CapEff:0000000000000000", "NoNewPrivs:1"] or set(lines[3:6]) == {
        "CapBnd:0000000000000000",
        "CapEff:0000000000000000",
        "NoNewPrivs:1",
    }
    assert "ls: /var/run/docker.sock: No such file or directory" in lines
    assert "changes the hook" not in lines and lines[-2:] == ["#!/bin/sh", "a = 1"]
    assert service.wait_for_line(f"the runner runs inside {pushed.reference}")
    assert service.bodies("/node/facts")[0]["image"]["checked"] is True
    assert "one-job-secret-0123" not in agent.console
    assert not list(left(machine))


JOB = r"""
"$ACTIONS_RUNNER_HOOK_JOB_STARTED" && "$(cat settings/hook)" || exit 9
exec python3 - <<'PY'
import http.client, json, os, socket
def ask(method, path, body=None):
    line = http.client.HTTPConnection("docker"); line.sock = socket.socket(socket.AF_UNIX)
    line.sock.connect("/var/run/docker.sock")
    headers = {"Content-Type": "application/json"} if body is not None else {"Content-Length": "0"}
    line.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = line.getresponse(); raw = answer.read()
    return answer.status, raw.decode("utf-8", "replace")
def create(**more):
    host = {"NetworkMode": "none", **more.pop("HostConfig", {})}
    return ask("POST", "/containers/create", {"Image": os.environ["OTHER"], "HostConfig": host, **more})
print("privileged", *create(HostConfig={"Privileged": True}), flush=True)
print("unsigned", *ask("POST", "/images/create?fromImage=" + os.environ["EVIL"].replace(":v1", "") + "&tag=v1"), flush=True)
print("pull", ask("POST", "/images/create?fromImage=" + os.environ["OTHER"].rpartition(":")[0] + "&tag=v1")[0], flush=True)
os.makedirs("_work", exist_ok=True)
bind = os.getcwd() + "/_work:/task"
socket_too = "/var/run/docker.sock:/var/run/docker.sock"
script = "ls /var/run/docker.sock; echo hello >/task/said"
status, raw = create(Cmd=["sh", "-c", script], HostConfig={"Binds": [bind, socket_too]})
made = json.loads(raw)["Id"]
print("start", *ask("POST", f"/containers/{made}/start"), flush=True)
print("wait", ask("POST", f"/containers/{made}/wait")[1].strip(), flush=True)
print("said", open("_work/said").read().strip(), flush=True)
runner = next(one["Id"] for one in json.loads(ask("GET", "/containers/json")[1]) if one["Id"] != made)
print("runner", *ask("POST", f"/containers/{runner}/exec", {"Cmd": ["id"]}), flush=True)
print("left", create(Cmd=["sleep", "600"])[0], flush=True)
PY
"""


def test_guarded_the_job_starts_containers_of_verified_images_and_of_no_others(
    service: Service, machine: Path, docker_registry: RealRegistry
) -> None:
    """GitHub's way: hook, pull, create with the job's folder and the socket, start, wait; all from inside the signed image."""
    tree = gather()
    for place in [place for place in tree.files if re.search(r"/act$|/lib(tk|tcl|X)|_test|sqlite|distutils", place)]:
        del tree.files[place]
    packed = BytesIO()
    tree.write(packed)
    runner = push(docker_registry, "lodging/runner", "v1", packed.getvalue(), Env=["PATH=/opt/python/bin:/bin:/usr/bin"])
    other, evil = (push(docker_registry, f"lodging/{name}", "v1", Labels={"name": name}) for name in ("other", "evil"))
    service.script.image = told(runner, "guarded")
    service.script.want = {"gpus": 0}
    allowed = {"allowed": True, "why": ""}
    service.script.images = {
        f"{other.repository}:v1": {**told(other), **allowed},
        f"{evil.repository}:v1": {**told(evil, key=KEY), **allowed, "signatures": told(other)["signatures"]},
    }
    names = {"OTHER": f"{other.repository}:v1", "EVIL": f"{evil.repository}:v1", "GITHUB_REPOSITORY": "acme/train"}
    least = {"command": ["python3", "--version"], "version": "3.8", "why": ""}
    service.script.credential = shell(JOB, environment=names, files={"settings/hook": "{hook}"}, least=least)
    with machine_with_engine(service, machine) as agent:
        service.wait_for_event("runner_exited")
        service.script.stop = True
        assert agent.end(40) == 0
    lines = service.lines("runner")
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    assert lines.count("Lease calm-fox-01") == 2, lines  # the hook ran inside, by either way, and was answered
    assert service.wait_for_line("python3 in this pool's image is version 3.")
    assert said["privileged"].startswith("403") and "leave --privileged out" in said["privileged"]
    assert said["unsigned"].startswith("403") and "this machine's own check failed" in said["unsigned"]
    assert said["pull"] == "200" and said["start"].strip() == "204" and '"StatusCode":0' in said["wait"]
    assert said["said"] == "hello" and said["left"] == "201"
    assert said["runner"].startswith("403") and "not a container of this job" in said["runner"]
    asked = [body["reference"] for body in service.bodies("/node/image")]
    assert asked == [f"{evil.repository}:v1", f"{other.repository}:v1"]
    assert service.wait_for_line("guard: refused POST /containers/create: Privileged")
    assert not list(left(machine))


def test_a_killed_guard_ends_the_engine_the_job_and_the_machine(
    service: Service, machine: Path, docker_registry: RealRegistry
) -> None:
    pushed = push(docker_registry, "lodging/killed", "v1")
    service.script.image = told(pushed, "guarded")
    service.script.credential = shell("echo up; exec sleep 600")
    with machine_with_engine(service, machine) as agent:
        service.wait_for_line("up")
        assert job(agent, machine).ask("GET", "/_ping").status == 200
        below = psutil.Process(agent.process.pid).children(recursive=True)
        [guard] = [one for one in below if "guard" in one.cmdline()]
        jobs = [one for one in below if "sleep" in one.cmdline()]
        os.kill(guard.pid, signal.SIGKILL)
        assert agent.end(40) == 0
        assert jobs and psutil.wait_procs(jobs, 5)[1] == []
    assert "the guard of the container engine has ended (-9)" in agent.console
    assert not list(left(machine))


def test_a_killed_agent_takes_the_engine_with_it(service: Service, machine: Path, docker_registry: RealRegistry) -> None:
    pushed = push(docker_registry, "lodging/killed", "v1")
    service.script.image = told(pushed, "guarded")
    service.script.credential = shell("echo up; exec sleep 600")
    with machine_with_engine(service, machine) as agent:
        service.wait_for_line("up")
        engines = [one for one in psutil.Process(agent.process.pid).children(recursive=True) if one.name() == "dockerd"]
        assert engines
        agent.process.kill()
        assert psutil.wait_procs(engines, 30)[1] == []


def test_an_image_that_is_not_there_is_a_problem_before_any_credential(
    service: Service, machine: Path, docker_registry: RealRegistry
) -> None:
    pushed = push(docker_registry, "lodging/gone", "v1")
    gone = Pushed(pushed.repository, "sha256:" + "12" * 32, pushed.config)
    service.script.image = told(gone)
    with machine_with_engine(service, machine) as agent:
        image = service.wait_for("/node/facts").body["image"]
        assert image["digest"] == "" and "cannot be pulled" in image["problem"] and image["checked"] is False
        service.script.stop = True
        assert agent.end(40) == 0
    assert service.bodies("/node/credential") == []


def test_contained_the_machines_own_engine_will_do(
    service: Service, machine: Path, docker_registry: RealRegistry, docker_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one answers it is taken: nothing has to be guarded, because the job cannot reach it."""
    monkeypatch.setattr(keeper, "DOOR", Path(docker_host.removeprefix("unix://")))
    pushed = push(docker_registry, "lodging/own-engine", "v1")
    program = ("python3", "-I", str(machine / "agent.pyz"))
    settings = Settings(service.url, "feed0123", "token", machine, "process", None, program)
    said: list[str] = []
    lodging = Lodging(settings, Wire(service.url), said.append)
    lodging.take({"image": told(pushed)})
    lodging.settle()
    assert (lodging.problem, lodging.keeper) == ("", None), said
    runner, output = lodging.runner, list[bytes]()
    assert runner is not None and lodging.report is not None and lodging.report["checked"]
    (machine / "hook").mkdir()
    work = read_work({"command": ["sh", "-c", 'echo "$A"; exit 3'], "environment": {"A": "of the credential"}})
    environ = environment(work, runner.folder, "nobody", machine / "hook/x.sh", {})
    runner.prepare(work, environ)
    monkeypatch.setattr(version, "PATIENCE", 1.0)
    assert runner.ask(["sh", "-c", 'echo "v1.2 $A $PWD"'], environ).text == f"v1.2 of the credential {runner.folder}\n"
    assert runner.ask(["/none/gitea-runner", "--version"], environ).problem == "ended with 127"
    assert runner.ask(["sh", "-c", "echo v1.2; exec sleep 600"], environ).problem == "gave no answer in 1 s"
    assert Engine(keeper.DOOR).must("GET", "/containers/json", all="1") == [], "nothing stays of a question"
    runner.start(work, environ, output.append)
    assert runner.drained(20) and b"".join(output) == b"of the credential\n"
    runner.end(1)
    assert runner.poll() == 3
    lodging.end()


def test_on_a_machine_that_is_not_its_own_the_agent_starts_no_engine(
    service: Service, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "DOOR", machine / "none.sock")
    settings = Settings(service.url, "feed0123", "token", machine, "process", None, ("python3",))
    for mode in ("contained", "guarded"):
        lodging = Lodging(settings, Wire(service.url), print)
        lodging.take({"image": told(NOWHERE, mode)})
        lodging.settle()
        assert "the agent starts none" in lodging.problem


def left(machine: Path) -> Generator[str]:
    """Processes that still have to do with this machine."""
    for process in psutil.process_iter(["cmdline", "status"]):
        words: list[str] = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(machine) in word for word in words):
            yield " ".join(words)[:200]


@pytest.fixture(autouse=True)
def openssl() -> None:
    if not Path("/usr/bin/openssl").exists():
        parts.lacks("openssl", "install openssl")
