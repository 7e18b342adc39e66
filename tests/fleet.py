"""Several real processes of one installation: engines and webs on one PostgreSQL, behind a balancer, with the demo forge.

with fleet(folder, database, "engine", "engine", "web", "web") as crew: ...
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import app
from app.demo import launch, machine
from tests.chaos.wires import Wires

PATIENCE = 45.0
"""Seconds for anything that real processes do here."""
HOLD = 5.0
"""Seconds that a claim lasts: the least that the settings allow."""
TREE = Path(app.__file__).resolve().parents[1]
LABELS = ["gpu", "rubin"]


@dataclass
class Member:
    """One process."""

    role: str
    log: Path
    process: subprocess.Popen[bytes]
    url: str = ""

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def get(self, path: str, token: str = "") -> tuple[int, str]:
        """Status and body; status 0: nobody answers."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, headers=headers), timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""


@dataclass
class Crew:
    """All of them, and what they share."""

    folder: Path
    forge: launch.Running
    wires: Wires
    members: list[Member] = field(default_factory=list[Member])

    def start(self, *roles: str) -> list[Member]:
        """More processes, all at once; each has answered."""
        started = [self.spawn(role) for role in roles]
        for member in started:
            port = self.wait(lambda member=member: _listens(member.process.pid))
            member.url = f"http://127.0.0.1:{port}"
            self.wait(lambda member=member: member.get("/healthz")[0] == 200)
        self.balance()
        return started

    def spawn(self, role: str, data: str = "data") -> Member:
        """One more process; whether it comes up is not waited for."""
        log = self.folder / f"{role}-{len(self.members)}.log"
        words = ["--config", "sublet.toml", "--data", str(self.folder / data), "--role", role, "--port", "0"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SUBLET_")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "app.main", *words],
                cwd=self.folder,
                env={**environment, "PYTHONPATH": str(TREE)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.members.append(Member(role, log, process))
        return self.members[-1]

    def living(self, role: str) -> list[Member]:
        """Those of this role that answered once and have not ended."""
        return [member for member in self.members if member.role == role and member.url and member.process.poll() is None]

    def balance(self) -> None:
        """The balancer knows the webs that live."""
        self.wires.webs = {member.log.stem: int(member.url.rpartition(":")[2]) for member in self.living("web")}

    def wait(self, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """The first true answer. Looks at the real clock, as it watches real processes."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if found := condition():
                return found
            select.select([], [], [], 0.02)
        raise AssertionError(f"nothing came of it:\n{self.story()}")

    def story(self) -> str:
        """What the engines logged, one after the other."""
        lines = [line for member in self.members if member.role == "engine" for line in member.log.read_text().splitlines()]
        told = [json.loads(line) for line in lines if line.startswith("{")]
        told = sorted((one for one in told if one["event"] != "request"), key=lambda one: one["timestamp"])
        return "\n".join(" ".join(str(value) for value in one.values()) for one in told)

    def queue(self, script: str, count: int = 1) -> None:
        """So many jobs that run this script."""
        self.forge.ask("jobs", {"repository": "acme/train", "labels": LABELS, "count": count, "script": script})

    def done(self) -> list[str]:
        """The conclusions of all jobs; empty while one goes on."""
        jobs = self.forge.ask("state")["jobs"]
        return [job["conclusion"] for job in jobs] if all(job["status"] == "completed" for job in jobs) else []

    @property
    def token(self) -> str:
        return (self.folder / "data" / "cli-token").read_text().strip()

    def ask(self, path: str, member: Member | None = None) -> Any:
        """What the API of a web answers: of this one, or the first that lives."""
        status, body = (member or self.living("web")[-1]).get(f"/api/v1/{path}", self.token)
        assert status == 200, body
        return json.loads(body)

    def leases(self) -> list[dict[str, Any]]:
        """All of them, the newest first."""
        found: list[dict[str, Any]] = self.ask("leases?which=all")["leases"]
        return found


def _listens(pid: int) -> int | None:
    with contextlib.suppress(psutil.Error):
        for one in psutil.Process(pid).net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN:
                return int(one.laddr.port)
    return None


def _settings(folder: Path, forge: launch.Running, public_url: str, database: str) -> str:
    secret = folder / "database"
    secret.touch(0o600)
    secret.write_text(database)
    github = {
        "url": forge.url,
        "api_url": forge.api_url,
        "app_id": forge.app_id,
        "private_key": f"file:{forge.private_key_file.absolute()}",
        "webhook_secret": f"file:{forge.webhook_secret_file.absolute()}",
    }
    pool = {
        "name": "gpu", "labels": LABELS, "ceiling": 4, "max_minutes": 10, "idle_minutes": 1, "boot_minutes": 2,
        "runner_command": list(machine.command()), "mode": "bare", "signed": False,
    }  # fmt: skip
    tables: Iterable[tuple[str, dict[str, Any]]] = (
        ("[database]", {"url": f"file:{secret}"}),
        ("[github]", github),
        ("[[provider]]", {"name": "here", "kind": "local", "root": str(folder / "instances"), "slots": 6}),
        ("[[pool]]", pool),
        ("[[repository]]", {"match": "acme/*"}),
        ("[engine]", {"beat_seconds": 1, "heartbeat_seconds": 1, "silent_minutes": 1, "hold_seconds": HOLD}),
        ("[log]", {"level": "info", "format": "json"}),
    )
    lines = [f'public_url = "{public_url}"']
    for head, rows in tables:  # JSON's strings, numbers, words and lists are TOML's, too
        lines += ["", head, *(f"{key} = {json.dumps(value)}" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


@contextmanager
def fleet(folder: Path, database: str, *roles: str) -> Generator[Crew]:
    """Started and answering. At the end all are ended, with whatever instance is left."""
    with contextlib.ExitStack() as stack:
        folder.chmod(0o711)  # a job may run as another user, and comes through here to its files
        effects = folder / "effects"
        wires = stack.enter_context(Wires(effects))
        forge = launch.ensure(folder)
        stack.callback(launch.stop, folder)
        crew = Crew(folder, forge, wires)
        balancer = f"http://127.0.0.1:{wires.balancer_port}"
        forge.ask("hook", {"url": f"{balancer}/hooks/github"})
        (folder / "sublet.toml").write_text(_settings(folder, forge, balancer, database))
        stack.callback(_end, crew)
        crew.start(*roles)
        yield crew


def _end(crew: Crew) -> None:
    for member in crew.members:
        if member.process.poll() is None:
            member.signal(signal.SIGCONT)
            member.kill()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(crew.folder / "instances") in " ".join(process.cmdline()) or process.cwd().startswith(
                str(crew.folder / "instances")
            ):
                process.kill()
