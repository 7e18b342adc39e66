"""Several processes on one PostgreSQL: killed, paused and stopped in the middle of boots and jobs, with nothing lost."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

from app import __version__
from tests.fleet import Crew, Member, fleet
from tests.parts.postgres import new_database

BEFORE_JOB = ("launching", "booting", "proving", "registering", "idle")


def mover(crew: Crew, lease: str) -> Member | None:
    """The living engine that moved this lease last, as the logs tell."""
    found: list[tuple[str, Member]] = []
    for member in crew.living("engine"):
        lines = [line for line in member.log.read_text().splitlines() if '"lease.moved"' in line and f'"{lease}"' in line]
        found += [(json.loads(line)["timestamp"], member) for line in lines]
    return max(found, key=lambda one: one[0])[1] if found else None


def in_state(crew: Crew, *states: str) -> dict[str, Any] | None:
    return next((lease for lease in crew.leases() if lease["state"] in states), None)


def all_gone(crew: Crew, jobs: int) -> bool:
    leases = crew.leases()
    return len(crew.done()) == jobs and bool(leases) and all(lease["gone"] for lease in leases)


def follow(member: Member, token: str) -> list[str]:
    """What the overview's live stream of this web says from now on, as a browser follows it."""
    heard: list[str] = []

    def read() -> None:
        request = urllib.request.Request(f"{member.url}/live/overview", headers={"authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=60) as stream:
                heard.extend(line.decode() for line in stream)
        except OSError:
            return

    threading.Thread(target=read, daemon=True).start()
    return heard


def diary(folder: Path) -> Path:
    """A file that jobs write to, whoever they run as."""
    path = folder / "ran"
    path.touch()
    path.chmod(0o666)
    return path


def test_an_engine_may_be_killed_in_the_middle_of_a_boot_and_of_a_job(tmp_path: Path, postgres_url: str) -> None:
    """Two engines and two webs. kill -9 of the one that boots a machine while a job runs: the other goes on, each job runs
    once, and no machine is left. Then a web and an engine leave in order."""
    with fleet(tmp_path, new_database(postgres_url), "engine", "engine", "web", "web") as crew:
        first, second = crew.living("web")
        assert [member.get("/queue")[0] for member in crew.living("engine")] == [404, 404], "nothing but its health"
        ran, heard = diary(tmp_path), follow(second, crew.token)
        crew.queue(f"echo one >> {ran}; sleep 4")
        crew.wait(lambda: in_state(crew, "busy"))
        crew.queue(f"echo two >> {ran}; sleep 1")
        booting = crew.wait(lambda: in_state(crew, *BEFORE_JOB))
        crew.wait(lambda: mover(crew, booting["name"])).kill()
        assert first.stop() == 0
        crew.balance()
        crew.wait(lambda: all_gone(crew, 2))

        assert crew.done() == ["success", "success"]
        assert sorted(ran.read_text().split()) == ["one", "two"]
        machines = [one["reason"] for one in crew.leases() if one["instance_id"]]
        assert machines == ["job_done", "job_done"], crew.story()
        crew.wait(lambda: any(f"{booting['name']} is gone." in line for line in heard))
        ready = json.loads(second.get("/readyz")[1])
        assert ready["ok"] and ready["engine"], "a web without an engine of its own asks for those of others"
        assert f'sublet_replicas{{role="web",version="{__version__}"}} 1.0' in second.get("/metrics")[1]
        (engine,) = crew.living("engine")
        assert engine.stop() == 0
        checks = {check["name"]: check["text"] for check in crew.ask("doctor")["checks"]}
        assert sum(name.startswith("replica ") for name in checks) <= 2, "whoever leaves in order is not missed"
    assert list((tmp_path / "instances").glob("sublet-*")) == []
