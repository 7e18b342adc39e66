"""The world of one scenario: folder, forge, database, provider, services and wires; and the end of all of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from app.demo import image, launch, machine
from app.kit.clock import SystemClock
from app.store import sweep
from app.store.db import Database, upgrade
from providers.local_processes import MARK
from tests.chaos.plan import Scenario
from tests.chaos.service import Service
from tests.chaos.wires import Wires
from tests.parts import docker, postgres

HOLD = 8.0
"""Seconds that a claim lasts here."""
ENGINE = {
    "beat_seconds": 0.5,
    "heartbeat_seconds": 1,
    "silent_minutes": 0.75,
    "hold_seconds": HOLD,
    "redeliver_seconds": 15,
    "poll_seconds": 20,
}
CEILING = 4
PRICE = "1.20"
LOST_SECONDS = 25
"""After so long without a word from a runner the forge fails its job. GitHub takes ten minutes."""
DURABLE = {**postgres.SETTINGS, "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
LABELS = ("gpu", "chaos")


class Missing(Exception):
    """A real part is not on this machine; says which, and what to do."""

    def __init__(self, part: str, remedy: str) -> None:
        super().__init__(f"{part} is not here: {remedy}")


@dataclass
class Stage:
    """Everything real of one scenario. `open_stage` makes it, and ends it."""

    scenario: Scenario
    folder: Path
    forge: launch.Running
    wires: Wires
    services: list[Service]
    db: Database
    cluster: postgres.Cluster | None
    engine: str | None  # of Docker: "unix://..."
    owner: str  # this installation's tag at every provider
    ceiling: int = CEILING
    struck: set[str] = field(default_factory=set[str])  # tags of instances that we hurt
    database_back: float | None = None  # when the stopped database is started again
    forge_back: float | None = None

    @property
    def effects(self) -> Path:
        return self.folder / "effects"

    @property
    def instances(self) -> Path:
        return self.folder / "instances"

    def tend(self, now: float) -> None:
        """All that is due: restarts, continuations, and who takes connections."""
        if self.database_back is not None and now >= self.database_back and self.cluster is not None:
            self.cluster.start()
            self.database_back = None
        if self.forge_back is not None and now >= self.forge_back:
            self.forge = launch.ensure(self.folder)
            self.forge_back = None
        for service in self.services:
            service.tend(now)
        up = {one.name: one.port for one in self.services if one.port is not None and one.role != "engine"}
        if up != self.wires.webs:
            self.wires.webs = up

    def whole(self) -> bool:
        """Whether everything runs."""
        return (
            self.database_back is None
            and self.forge_back is None
            and all(one.pid is not None and not one.paused and one.up for one in self.services)
        )

    def stop_database(self, back_at: float) -> bool:
        if self.cluster is None or self.database_back is not None:
            return False
        self.cluster.stop()
        self.database_back = back_at
        return True

    def kill_forge(self, back_at: float) -> bool:
        if self.forge_back is not None:
            return False
        os.kill(self.forge.pid, signal.SIGKILL)
        _wait_for_end(self.forge.pid)
        self.forge_back = back_at
        return True

    def hurt_an_instance(self, number: int) -> str | None:
        """kill -9 of one process inside an instance, or of a whole container. Its tag; None if there is none."""
        if self.engine is not None:
            running = [one for one in self.containers() if one["State"] == "running"]
            if not running:
                return None
            chosen = running[number % len(running)]
            tag = str(chosen["Labels"]["sublet.tag"])
            self.struck.add(tag)  # first: whoever looks at what follows must know why
            docker.call(self.engine, "POST", f"/containers/{chosen['Id']}/kill")
            return tag
        inside = sorted(marked(self.instances), key=lambda one: one[1].pid)
        if not inside:
            return None
        tag, process = inside[number % len(inside)]
        self.struck.add(tag)
        with contextlib.suppress(psutil.Error):
            process.kill()
        return tag

    def containers(self) -> list[dict[str, Any]]:
        """Every container of this installation."""
        if self.engine is None:
            return []
        ours = json.dumps({"label": [f"sublet.owner={self.owner}"]})
        found: list[dict[str, Any]] = docker.call(
            self.engine, "GET", "/containers/json", params={"all": "true", "filters": ours}
        ).json()
        return found

    def script(self, seconds: float, *, fails: bool) -> str:
        """What a job runs: it leaves a mark outside of its instance when it begins, and one before it ends."""
        end = "note doomed\nexit 3" if fails else "note end"
        if self.engine is None:
            note = f"note() {{ echo \"$1 $RUNNER_NAME\" >> '{self.effects}'; }}"
        else:
            there = f"/dev/tcp/127.0.0.1/{self.wires.witness_port}"
            note = f'note() {{ exec 3<>{there}; echo "$1 $RUNNER_NAME" >&3; read -r answer <&3; exec 3>&-; }}'
        return f"{note}\nnote begin\nsleep {seconds:.2f}\n{end}"


def marked(instances: Path) -> list[tuple[str, psutil.Process]]:
    """Living processes of `local` instances below this folder, each with its instance's tag."""
    found: list[tuple[str, psutil.Process]] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            place = process.environ().get(MARK, "")
            if place.startswith(f"{instances}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append((Path(place).name, process))
    return found


def working_in(folder: Path) -> Iterator[psutil.Process]:
    """Processes of ours, whoever their parent is now: they name the folder, work in it, or bear an instance's mark."""
    place = str(folder)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [*process.cmdline(), process.cwd(), process.environ().get(MARK, "")]
            if any(place in word for word in words):
                yield process


def _wait_for_end(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).wait(10)


@contextlib.contextmanager
def open_stage(scenario: Scenario, faults: Mapping[str, Any]) -> Generator[Stage]:
    """A stage with everything up but the services, which `start` them when told. Raises Missing."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sublet-chaos-")).resolve()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)  # jobs run as another user, and come through here to their files
        (folder / "tmp").mkdir(mode=0o700)
        effects = folder / "effects"
        effects.touch()
        effects.chmod(0o666)
        cluster, address = _database(scenario, folder, stack)
        upgrade(address)
        engine = _engine(scenario, stack)
        wires = stack.enter_context(Wires(effects))
        stack.callback(_end_processes, folder)
        forge = launch.ensure(folder)
        stack.callback(_end_forge, folder)
        forge.ask("hook", {"url": f"http://127.0.0.1:{wires.balancer_port}/hooks/github"})
        forge.ask("faults", dict(faults))
        forge.ask("limits", {"lost": LOST_SECONDS})
        config = folder / "sublet.toml"
        picture = image.publish(forge.folder, forge.url) if engine is not None else None
        config.write_text(_settings(scenario, folder, forge, wires.balancer_port, engine, picture))
        services: list[Service] = []
        for place, role in enumerate(scenario.roles):
            services.append(Service(f"{role}-{place + 1}", role, folder, config))
            stack.callback(services[-1].end)
        db = Database(address)
        stack.callback(db.close)
        owner = sweep.installation(db, SystemClock().now())
        stage = Stage(scenario, folder, forge, wires, services, db, cluster, engine, owner)
        stack.callback(_end_containers, stage)
        yield stage


def _database(scenario: Scenario, folder: Path, stack: contextlib.ExitStack) -> tuple[postgres.Cluster | None, str]:
    if scenario.database == "sqlite":
        return None, f"sqlite:///{folder}/sublet.db"
    try:
        cluster = stack.enter_context(postgres.cluster(DURABLE))
    except postgres.NoPostgres as lack:
        raise Missing("PostgreSQL", str(lack)) from None
    secret = folder / "database"
    secret.touch(0o600)
    secret.write_text(cluster.url)
    return cluster, cluster.url


def _engine(scenario: Scenario, stack: contextlib.ExitStack) -> str | None:
    """A Docker engine that runs the demo's image; None where the scenario needs none."""
    if scenario.provider != "docker":
        return None
    engine = stack.enter_context(docker.engine())
    if engine is None:
        raise Missing(docker.PART, docker.REMEDY)
    try:
        image.suits(engine)
    except image.NoImage as lack:
        raise Missing(docker.PART, f"{lack}") from None
    return engine


def _settings(
    scenario: Scenario, folder: Path, forge: launch.Running, balancer: int, engine: str | None, picture: image.Published | None
) -> str:
    database = f"sqlite:///{folder}/sublet.db" if scenario.database == "sqlite" else f"file:{folder}/database"
    command = machine.command() if engine is None else machine.command_in_image()
    provider: dict[str, Any] = {"name": "here", "kind": scenario.provider, "price_per_hour": PRICE, "slots": CEILING + 1}
    provider |= {"root": f"{folder}/instances"} if engine is None else {"host": engine, "network": "host"}
    pool: dict[str, Any] = {
        "name": "chaos",
        "labels": list(LABELS),
        "ceiling": CEILING,
        "max_price_per_hour": "2",
        "max_minutes": 10,
        "idle_minutes": 0.35,
        "boot_minutes": 2,
        "runner_command": list(command),
    }
    pool |= {"mode": "bare", "signed": False} if picture is None else {"image": picture.reference}
    tables: list[tuple[str, dict[str, Any]]] = [
        ("[server]", {"host": "127.0.0.1"}),
        ("[database]", {"url": database}),
        (
            "[github]",
            {
                "url": forge.url,
                "api_url": forge.api_url,
                "app_id": forge.app_id,
                "private_key": f"file:{forge.private_key_file}",
                "webhook_secret": f"file:{forge.webhook_secret_file}",
            },
        ),
        ("[[provider]]", provider),
        ("[[pool]]", pool),
        *(() if picture is None else _trusting(picture)),
        ("[[repository]]", {"match": "acme/*"}),
        ("[engine]", ENGINE),
        ("[log]", {"level": "info", "format": "json"}),
    ]
    lines = [f'public_url = "http://127.0.0.1:{balancer}"']
    for head, rows in tables:  # JSON's strings, numbers, words and lists are TOML's, too
        lines += ["", head, *(f"{key} = {json.dumps(value)}" for key, value in rows.items())]
    return "\n".join(lines) + "\n"


def _trusting(picture: image.Published) -> tuple[tuple[str, dict[str, Any]], ...]:
    keys = [f"file:{picture.public_key_file.absolute()}"]
    return ("[trust]", {"keys": keys}), ("[[registry]]", {"host": picture.repository.partition("/")[0]})


def _end_forge(folder: Path) -> None:
    with contextlib.suppress(launch.DemoError):
        launch.stop(folder)


def _end_processes(folder: Path) -> None:
    """Whatever is left of ours, by its pid. Again, because a process may have had a child meanwhile."""
    for _ in range(5):
        left = list(working_in(folder))
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if not left:
            return
        psutil.wait_procs(left, timeout=2)


def _end_containers(stage: Stage) -> None:
    for one in stage.containers():
        docker.call(str(stage.engine), "DELETE", f"/containers/{one['Id']}", params={"force": "true", "v": "true"})
