"""The real agent meets the real routes: uvicorn, store, vault, and a process on the other side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.images import Evidence, ImageVerdict, Mode, to_json
from app.core.model import Lease
from app.core.proof import failed, prove
from app.core.states import State
from app.core.verdicts import wanted
from app.forges.contract import Least
from app.kit.clock import SystemClock
from app.kit.threads import ThreadLane
from app.store import nodes, pilots
from app.store.db import Database
from providers.contract import Need, Secret
from tests.fakes.signer import SigningKey, simple_signing
from tests.node.agents import running
from tests.node.site import SECRET, Site, served
from tests.store.nouns import again


def test_the_real_agent_lives_its_life_on_the_real_routes(db: Database, tmp_path: Path, machine: Path) -> None:
    """Uvicorn, store, vault and the agent's own process; the test is the engine. The hook is asked by a real runner."""
    lane = ThreadLane("store", 4)
    site = Site(db, tmp_path, lane, SystemClock())
    lease = site.lease()
    waiting = threading.Event()

    def until(what: str, found: Callable[[Lease], object]) -> Lease:
        for _ in range(1000):
            now = again(db, lease)
            if found(now):
                return now
            waiting.wait(0.02)
        raise AssertionError(f"never {what}: {again(db, lease)}")

    script = """
export GITHUB_REPOSITORY=acme/train GITHUB_RUN_ID=30021 GITHUB_EVENT_NAME=push
echo Listening; "$ACTIONS_RUNNER_HOOK_JOB_STARTED" && exit 3
"""
    with served(site.app) as url, running(url, machine, lease=lease.id) as started:
        until("joined", lambda now: now.joined_at)
        told = until("measured", lambda now: now.facts).facts
        assert told is not None and told.cpus > 0
        site.move(lease, State.PROVING, State.REGISTERING)
        site.mint(lease, ("/bin/sh", "-c", script))
        now = until("exited", lambda now: now.runner_exited_at)
        assert (now.runner_exit, now.job_started_at is not None, now.runner_started_at is not None) == (3, True, True)
        site.move(lease, State.IDLE, State.BUSY, State.DRAINING)
        assert started.end() == 0
    lines = [line.line for line in nodes.log(db, lease.id)]
    assert "Listening" in lines and "Page: https://ci.acme.example/leases/" + lease.name in lines
    assert [line for line in lines if line.startswith("ending:")] == ["ending: the service asks this node to stop"]
    assert SECRET not in " ".join(lines) + started.console
    lane.close()


@pytest.mark.parametrize(("version", "code"), [("v0.2.12", 3), ("v0.2.11", 126)])
def test_a_runner_without_a_hook_is_asked_for_its_version_and_tells_of_its_job(
    db: Database, tmp_path: Path, machine: Path, version: str, code: int
) -> None:
    """What the engine sealed is what the agent reads; what the agent tells moves the lease."""
    lane = ThreadLane("store", 4)
    site = Site(db, tmp_path, lane, SystemClock())
    lease, waiting = site.lease(), threading.Event()

    def until(found: Callable[[Lease], object]) -> Lease:
        for _ in range(1000):
            now = again(db, lease)
            if found(now):
                return now
            waiting.wait(0.02)
        raise AssertionError(f"it never came: {again(db, lease)}")

    least = Least(("sh", "-c", f"echo act_runner version {version}"), "0.2.12", "Install a newer one.")
    script = 'head -n 1 "$(cat hook)"; echo Listening; echo task 12 repo is acme/train; exit 3'
    with served(site.app) as url, running(url, machine, lease=lease.id) as started:
        until(lambda now: now.facts)
        site.move(lease, State.PROVING, State.REGISTERING)
        files = {"hook": Secret("{hook}")}
        site.mint(lease, ("/bin/sh", "-c", script), files=files, begun="task 12 repo is", least=least)
        now = until(lambda now: now.runner_exited_at)
        assert now.runner_exit == code and (now.job_started_at is not None) is (code == 3)
        site.move(lease, State.IDLE, State.BUSY, State.DRAINING)
        assert started.end() == 0
    lines = [line.line for line in nodes.log(db, lease.id)]
    if code == 3:
        assert "The runner on this machine is version 0.2.12" in lines and "#!/bin/sh" in lines
    else:
        why = "The runner on this machine is version 0.2.11. Install a newer one."
        assert f"the runner could not be started: {why}" in lines and "Listening" not in lines
    lane.close()


def test_what_the_agents_openssl_says_is_the_proof_that_the_service_asks_for(
    db: Database, tmp_path: Path, machine: Path
) -> None:
    """The verdict on the lease goes out, the machine checks it by itself, and what it reports passes; another key does not."""
    digest, manifest, config = ("sha256:" + letter * 64 for letter in "abc")
    payload, key = simple_signing(digest), SigningKey()
    lane = ThreadLane("store", 4)
    for number, signer in enumerate((key, SigningKey()), 1):
        site = Site(db, tmp_path, lane, SystemClock())
        good = Evidence("cosign tag", True, "x", None, None, "", payload, signer.sign(payload), key.public.pem, digest)
        reference = f"registry.acme.example/ci/gpu@{digest}"
        verdict = ImageVerdict(
            "registry.acme.example/ci/gpu:v3",
            True,
            reference,
            digest,
            (("amd64", manifest, config),),
            (),
            (good,),
            "",
            site.clock.now(),
        )
        kept: dict[str, Any] = {"mode": str(Mode.CONTAINED), "signed": True, "image": reference, "image_digest": digest}
        lease = site.lease(number=number, image_verdict=to_json(verdict), **kept)
        with served(site.app) as url, running(url, machine, lease=lease.id, kind="container") as started:
            waiting = threading.Event()
            while (told := again(db, lease)).facts is None:
                waiting.wait(0.02)
            checks = prove(Need(), told.facts, wanted(told))
            started.process.terminate()
        assert [check.what for check in checks] == ["image", "image signature"]
        assert (failed(checks) == "") is (number == 1), checks
    lane.close()


def test_the_real_agent_of_a_pilot_measures_on_the_real_routes(db: Database, tmp_path: Path, machine: Path) -> None:
    """No driver is here, perhaps; the network is, and 32 MiB come over it."""
    lane = ThreadLane("store", 4)
    site = Site(db, tmp_path, lane, SystemClock())
    lease = site.pilot()
    waiting = threading.Event()
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    with served(site.app) as url, running(url, machine, lease=lease.id, LD_LIBRARY_PATH=str(tmp_path)) as started:
        for _ in range(1000):
            kept = pilots.of_lease(db, lease.id)
            if kept is not None and "measured_at" in (kept.report or {}):
                break
            waiting.wait(0.02)
        site.move(lease, State.PROVING, State.DESTROYING)
        assert started.end() == 0
    kept = pilots.of_lease(db, lease.id)
    assert kept is not None and kept.report is not None
    network = kept.report["network"]
    assert network["download_bytes"] == 32 * 1024 * 1024 and network["download_mbps"] > 1 and network["connect_ms"] > 0
    assert "cannot be loaded" in kept.report["gpu"]["problem"]
    assert again(db, lease).runner_id == ""
    lane.close()
