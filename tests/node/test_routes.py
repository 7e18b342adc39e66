"""The routes that nodes call, on the real store: one join, one credential, one job; and what the store knows after each."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.model import Lease, Reason
from app.core.states import State
from app.kit.threads import ThreadLane
from app.node.bootstrap import Boot, render
from app.node.package import agent
from app.store import audit, leases, nodes, pilots
from app.store.db import Database
from app.web import node_pilots
from app.web.nodes import digest
from providers.contract import BootsFrom, Secret
from tests.fake_node import FakeNode, Manner, Refused, Told, fitting, read_user_data
from tests.node.agents import TOKEN
from tests.node.site import END, SECRET, Site, joined_node
from tests.store.nouns import NOW, again

LINE = {"seq": 1, "at": "2026-03-01T12:00:00Z", "source": "runner", "line": "x"}


async def test_a_whole_life_from_the_start_up_script_on(site: Site) -> None:
    """The engine's script, the node's steps, and what the store knows after each."""
    lease = site.lease()
    script = render(Boot("https://ci.acme.example", lease.id, agent()[1], Secret(TOKEN), None, BootsFrom.PROCESS), "shell")
    node = FakeNode(site.client, read_user_data(script))
    joined = await node.join()
    assert (joined["lease"], joined["heartbeat_seconds"], joined["pool_note"]) == (lease.name, 0.2, "asks for no GPU")
    assert (joined["want"]["gpu"], joined["want"]["gpus"]) == ("rubin", 2)
    assert (joined["now"], joined["hard_end"]) == ("2026-03-01T12:00:00.000Z", "2026-03-01T13:00:00.000Z")
    assert await site.rang() and site.metric('sublet_node_joins_total{result="joined"} 1.0')
    await node.report()
    told = again(site.db, lease).facts
    assert told is not None and len(told.gpus) == 2 and await site.rang()
    site.move(lease, State.PROVING, State.REGISTERING)
    assert await node.fetch() is None
    site.mint(lease)
    credential = await node.fetch()
    usual = {"command": ["./run.sh"], "environment": {"JIT": SECRET}, "files": {}, "ready": "Listening"}
    assert credential == {**usual, "begun": "", "least": None}
    await node.online()
    assert again(site.db, lease).runner_started_at == NOW and await site.rang()
    allowed, lines = await node.job_started("acme/train", "30021")
    assert allowed and lines[0].startswith(f"Lease {lease.name}")
    assert lines[-1] == f"Page: https://ci.acme.example/leases/{lease.name}"
    assert "Limit: this machine ends at 2026-03-01 13:00:00 UTC at the latest" in lines
    assert again(site.db, lease).job_started_at == NOW
    await node.exit(7)
    assert again(site.db, lease).runner_exit == 7
    assert await node.log("one", "two") == 2
    assert [line.line for line in nodes.log(site.db, lease.id)] == ["one", "two"]
    assert (await node.heartbeat())["stop"] is False
    site.move(lease, State.DRAINING)
    assert (await node.heartbeat())["stop"] is True and node.stopped
    site.move(lease, State.DESTROYING, State.RELEASED)
    assert (await node.post("heartbeat", {"phase": "", "at": None})).status_code == 410


async def test_the_same_session_may_repeat_its_join_and_no_other_may(site: Site) -> None:
    """A lost answer is fine; a stranger, or the same machine booted twice, ends the lease and is written down."""
    lease = site.lease()
    node = site.node(lease)
    await node.join()
    await node.join()
    refused = await node.stranger_joins()
    assert refused is not None and (refused.status, refused.code) == (403, "join_reused")
    now = again(site.db, lease)
    assert (now.destroy_asked_at, now.asked_reason) == (NOW, Reason.JOIN_REUSED)
    assert "node.join_reused" in [entry.action for entry in audit.listing(site.db, f"lease:{lease.id}")]
    for result in ("joined", "again", "reused"):
        assert site.metric(f'sublet_node_joins_total{{result="{result}"}} 1.0')


async def test_of_eight_that_join_at_the_same_moment_one_does(database: Database, tmp_path: Path) -> None:
    """Through the routes, in eight threads, on both databases: and the other seven are noticed."""
    lane = ThreadLane("store", 8)
    site = Site(database, tmp_path, lane)
    lease = site.lease()
    racers = [site.node(lease) for _ in range(8)]
    outcomes = await asyncio.gather(*(racer.join() for racer in racers), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(outcomes) - len(refused) == 1
    assert {(one.status, one.code) for one in refused} == {(403, "join_reused")}
    assert again(database, lease).asked_reason is Reason.JOIN_REUSED
    sessions = [nodes.lease_of(database, digest(racer.session), NOW) for racer in racers]
    assert sum(session is not None for session in sessions) == 1
    lane.close()
    await site.client.aclose()


@pytest.mark.parametrize(
    ("lease_id", "token", "status", "code"),
    [("0001beef", "x" * 43, 401, "unknown"), ("no-such-lease", TOKEN, 401, "unknown")],
)
async def test_a_wrong_token_or_lease_is_unknown_and_changes_nothing(
    site: Site, lease_id: str, token: str, status: int, code: str
) -> None:
    lease = site.lease()
    stranger = FakeNode(site.client, Told("http://test", lease_id, "", token))
    with pytest.raises(Refused) as refused:
        await stranger.join()
    assert (refused.value.status, refused.value.code) == (status, code)
    assert again(site.db, lease).joined_at is None and again(site.db, lease).destroy_asked_at is None


async def test_a_lease_that_is_over_takes_no_node(site: Site) -> None:
    lease = site.lease(State.DESTROYING)
    with pytest.raises(Refused) as refused:
        await site.node(lease).join()
    assert (refused.value.status, refused.value.code) == (410, "ended")


async def test_the_credential_goes_to_one_ticket_until_the_runner_is_online(site: Site) -> None:
    """Sealed at rest, opened for the one that asked first; a repetition after a lost answer is that one."""
    lease = site.lease()
    node = site.node(lease)
    await node.join()
    await node.report()
    assert (await node.post("credential", {"ticket": node.ticket})).status_code == 202
    site.move(lease, State.PROVING, State.REGISTERING)
    site.mint(lease)
    first = await node.fetch()
    assert await node.fetch() == first is not None
    other = await node.post("credential", {"ticket": "t" * 43})
    assert (other.status_code, other.json()["error"]["code"]) == (410, "gone") and SECRET not in other.text
    node.stopped = False
    await node.online()
    assert (await node.post("credential", {"ticket": node.ticket})).status_code == 410
    assert SECRET not in json.dumps([str(entry) for entry in audit.listing(site.db)])


async def test_a_liar_is_recorded_as_it_lies(site: Site) -> None:
    """The routes do not judge; the proof does, with what was asked."""
    lease = site.lease()
    node = site.node(lease, Manner.LIAR)
    assert [await node.step(), await node.step()] == ["join", "facts"]
    told = again(site.db, lease).facts
    assert told is not None and len(told.gpus) == 1 and told.driver == "470.1"
    assert len(fitting(node.want)["gpus"]) == 2


async def test_manners_of_bad_nodes(site: Site) -> None:
    """What tests of the engine ask for by name."""
    assert await site.node(site.lease(number=1), Manner.SILENT).step() == ""
    twice = site.node(site.lease(number=2), Manner.TWICE)
    assert await twice.step() == "join"
    assert again(site.db, site_lease(site, twice)).asked_reason is Reason.JOIN_REUSED
    over = site.node(site.lease(State.DESTROYING, number=3))
    assert await over.step() == "" and over.stopped and await over.step() == ""


def site_lease(site: Site, node: FakeNode) -> Lease:
    found = leases.get(site.db, node.told.lease)
    assert found is not None
    return found


async def test_a_session_ends_with_its_lease_and_not_before(site: Site) -> None:
    """It outlives a long outage of the service, or a running job would be killed by our own absence."""
    node = site.node(site.lease())
    await node.join()
    site.still.moment = END - timedelta(seconds=1)
    await node.heartbeat()
    site.still.moment = END + timedelta(hours=1)
    assert (await node.post("heartbeat", {"phase": "", "at": None})).status_code == 410


@pytest.mark.parametrize(
    ("job", "piece"),
    [
        ({"repository": "acme/other"}, "The lease serves acme/train, not acme/other"),
        ({"repository": "acme/train", "event": "pull_request_target"}, "list it under `events`"),
        ({"repository": "acme/train", "event": "pull_request", "head_repository": "mallory/train"}, "set `forks = true`"),
        ({"repository": "acme/train", "event": "pull_request"}, "set `forks = true`"),
        ({"repository": ""}, "an unnamed repository"),
    ],
)
async def test_a_job_that_may_not_run_here_is_told_why_and_the_lease_drains(
    site: Site, job: dict[str, Any], piece: str
) -> None:
    lease = site.lease(State.IDLE)
    node = await joined_node(site, lease)
    allowed, lines = await node.job_started(**job)
    assert not allowed and piece in " ".join(lines)
    now = again(site.db, lease)
    assert (now.asked_reason, now.drain_asked_at, now.job_started_at) == (Reason.JOB_REFUSED, NOW, None)
    assert piece in now.asked_text and await site.rang()


async def test_a_second_job_on_one_lease_is_refused_by_the_service_too(site: Site) -> None:
    """Should somebody have changed the agent. The first job goes on."""
    lease = site.lease(State.IDLE)
    node = await joined_node(site, lease)
    assert (await node.job_started("acme/train", "30021"))[0] is True
    assert (await node.job_started("acme/train", "30021"))[0] is True
    allowed, lines = await node.job_started("acme/train", "30022")
    assert (allowed, lines) == (False, [f"Sublet: lease {lease.name} is for one job and has had it."])
    assert again(site.db, lease).drain_asked_at is None


async def test_a_lease_on_its_way_down_admits_no_job(site: Site) -> None:
    node = await joined_node(site, site.lease(State.DRAINING))
    allowed, lines = await node.job_started("acme/train")
    assert not allowed and "is ending" in lines[0]


async def test_a_node_cannot_date_its_facts_outside_its_own_life(site: Site) -> None:
    """Before it joined, or after now."""
    lease = site.lease()
    node = site.node(lease)
    await node.join()
    site.still.moment += timedelta(seconds=30)
    await node.event("runner_online", at="1999-01-01T00:00:00Z")
    assert again(site.db, lease).runner_started_at == NOW
    await node.event("runner_exited", at="2999-01-01T00:00:00Z", exit=0)
    assert again(site.db, lease).runner_exited_at == NOW + timedelta(seconds=30)
    await node.say("log", lines=[{**LINE, "at": "2999-01-01T00:00:00Z"}])
    assert nodes.log(site.db, lease.id)[0].at == NOW + timedelta(seconds=30)


async def test_the_agent_is_served_as_it_is_pinned(site: Site) -> None:
    answer = await site.client.get("/node/agent.pyz")
    assert hashlib.sha256(answer.content).hexdigest() == agent()[1] == answer.headers["etag"].strip('"')
    assert answer.headers["cache-control"] == "no-store"


async def test_only_a_pilots_node_may_measure(site: Site) -> None:
    """A lease that runs jobs gets no sample and keeps no report, whatever its node says."""
    node = site.node(site.lease())
    assert (await node.join())["measure"] is None
    sample = await node.post("sample", {})
    assert (sample.status_code, sample.json()["error"]["code"]) == (409, "no_sample")
    assert await node.say("measured", gpu={"name": "H100"}, network={}) == {"kept": False}


async def test_a_reader_of_the_sample_who_stands_still_is_hung_up_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_pilots, "PATIENCE", 0.05)
    sample = await node_pilots.NodePilots(site.parts).sample(site.pilot(), NOW)
    assert sample is not None
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        await sample({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert len(sent) == 3


async def test_a_pilots_node_is_told_what_to_measure_and_heard_once(site: Site) -> None:
    lease = site.pilot()
    node = site.node(lease)
    assert (await node.join())["measure"] == {"bytes": 32 * 1024 * 1024, "hosts": ["github.com:443"]}
    answer = await node.post("sample", {})
    assert (answer.status_code, len(answer.content), answer.headers["cache-control"]) == (200, 32 * 1024 * 1024, "no-store")
    assert (await node.post("sample", {})).status_code == 409
    version = again(site.db, lease).version
    told = {"gpu": {"name": "H100", "memory_gbs": 3000}, "network": {"connect_ms": 1.5, "hosts": [{"host": "github.com:443"}]}}
    assert await site.rang() and await node.say("measured", **told) == {"kept": True}
    assert await site.rang() and again(site.db, lease).version == version + 1
    assert await node.say("measured", gpu={"name": "no, this"}, network={}) == {"kept": False}
    kept = pilots.of_lease(site.db, lease.id)
    assert kept is not None and kept.report is not None
    assert kept.report["gpu"] == {"name": "H100", "compute_capability": "", "gpus": 0, "memory_mib": 0, "free_mib": 0,
                                  "memory_gbs": 3000.0, "problem": ""}  # fmt: skip
    assert kept.report["measured_at"] == "2026-03-01T12:00:00Z" and "gpu" in kept.report
    site.move(lease, State.PROVING, State.DESTROYING)
    assert (await node.post("sample", {})).status_code == 409
