"""Deliveries: authentic or nothing, once or again, committed in groups, and answered only after the commit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from app.core.model import JobState
from app.kit.bell import Bell
from app.kit.threads import InlineLane
from app.store import jobs
from app.store.db import Database
from app.web import intake as intake_module
from app.web.shield import HOOK_LIMIT
from tests.web.conftest import GITLAB_TOKEN, Rebuilt, Service, deliver, github_headers, workflow_job


def counted(service: Service, forge: str, result: str) -> float:
    text = service.parts.telemetry.exposition()[0].decode()
    wanted = f'sublet_deliveries_total{{forge="{forge}",result="{result}"}} '
    return next(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


def stored(db: Database) -> int:
    with db.read() as conn:
        return conn.scalar(sa.text("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM delivery)")) or 0


async def test_a_queued_job_is_recorded_and_the_engine_is_hinted(service: Service) -> None:
    async with service.client() as client:
        reply = await deliver(client, workflow_job(501))
    assert (reply.status_code, reply.json()) == (202, {"result": "recorded"})
    job = jobs.get(service.db, "github-501")
    assert job is not None and job.state is JobState.QUEUED and job.labels == ("gpu", "rubin")
    assert isinstance(service.parts.bell, Bell) and service.parts.bell.rings
    assert counted(service, "github", "recorded") == 1


async def test_a_redelivery_of_the_same_guid_counts_once(service: Service) -> None:
    async with service.client() as client:
        first = await deliver(client, workflow_job(502), guid="g-1")
        again = await deliver(client, workflow_job(502), guid="g-1")
    assert [first.json()["result"], again.json()["result"]] == ["recorded", "duplicate"]
    assert again.status_code == 202


async def test_a_late_event_never_reopens_a_job(service: Service) -> None:
    async with service.client() as client:
        await deliver(client, workflow_job(503, "completed", conclusion="success", runner_name="x"))
        late = await deliver(client, workflow_job(503, "queued"))
    assert late.json()["result"] == "stale"
    job = jobs.get(service.db, "github-503")
    assert job is not None and job.state is JobState.COMPLETED


@pytest.mark.parametrize("spoil", ["wrong secret", "no signature", "another body", "short signature"])
async def test_what_is_not_authentic_is_401_and_leaves_no_trace(service: Service, spoil: str) -> None:
    body = json.dumps(workflow_job(504)).encode()
    headers = github_headers(body, "g-4", secret="guessed" if spoil == "wrong secret" else "a shared secret of GitHub")
    if spoil == "no signature":
        del headers["x-hub-signature-256"]
    if spoil == "short signature":
        headers["x-hub-signature-256"] = headers["x-hub-signature-256"][:20]
    sent = body.replace(b"gpu-eval", b"gpu-evil") if spoil == "another body" else body
    async with service.client() as client:
        reply = await client.post("/hooks/github", content=sent, headers=headers)
    assert reply.status_code == 401
    assert "gpu" not in reply.text and "secret" not in reply.json()["error"]["message"]
    assert stored(service.db) == 0
    assert counted(service, "github", "bad_signature") == 1


async def test_a_body_that_is_not_json_is_a_clear_400(service: Service) -> None:
    async with service.client() as client:
        reply = await deliver(client, b'{"action": "queued", "workflow_job"')
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "usage"
    assert stored(service.db) == 0 and counted(service, "github", "bad_delivery") == 1


async def test_gitlab_gets_2xx_for_everything_authentic(service: Service) -> None:
    headers = {"x-gitlab-event": "Job Hook", "x-gitlab-token": GITLAB_TOKEN, "idempotency-key": "k-1"}
    async with service.client() as client:
        torn = await client.post("/hooks/gitlab", content=b'{"object_kind": ', headers=headers)
        other = await client.post(
            "/hooks/gitlab", content=b'{"object_kind": "note"}', headers={**headers, "x-gitlab-event": "Note Hook"}
        )
        forged = await client.post("/hooks/gitlab", content=b"{}", headers={**headers, "x-gitlab-token": "guess"})
    assert (torn.status_code, torn.json()["result"]) == (202, "unreadable")
    assert (other.status_code, other.json()["result"]) == (202, "ignored")
    assert forged.status_code == 401
    assert stored(service.db) == 0


async def test_an_event_that_we_do_not_act_on_is_ignored_with_a_reason(service: Service) -> None:
    async with service.client() as client:
        ping = await deliver(client, {"zen": "Keep it simple.", "hook_id": 1}, event="ping")
        star = await deliver(client, {"action": "created"}, event="star")
    assert (ping.status_code, ping.json()["result"]) == (202, "pong")
    assert (star.status_code, star.json()["result"]) == (202, "ignored") and star.json()["reason"]
    assert stored(service.db) == 0


async def test_a_repository_outside_the_allow_list_is_refused_and_nothing_is_stored(service: Service) -> None:
    async with service.client() as client:
        stranger = await deliver(client, workflow_job(505, repository="evil/train"))
        shouting = await deliver(client, workflow_job(506, repository="ACME/Train"))
    assert stranger.status_code == 202
    assert stranger.json() == {
        "result": "refused", "reason": "evil/train is not in the allow list; add a [[repository]] that matches it.",
    }  # fmt: skip
    assert shouting.json()["result"] == "recorded"
    assert jobs.get(service.db, "github-505") is None
    assert counted(service, "github", "refused") == 1


async def test_an_unknown_forge_is_404(service: Service) -> None:
    async with service.client() as client:
        reply = await client.post("/hooks/bitbucket", content=b"{}")
    assert reply.status_code == 404
    assert counted(service, "other", "refused") == 1


async def test_a_body_beyond_25_mib_is_413_whatever_its_header_says(service: Service) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(HOOK_LIMIT // 1_000_000 + 2):
            yield b" " * 1_000_000

    async with service.client() as client:
        declared = await client.post("/hooks/github", content=b"{}", headers={"content-length": str(HOOK_LIMIT + 1)})
        streamed = await client.post("/hooks/github", content=endless())
        small = await client.post("/api/v1/leases/x/drain", content=b" " * 70_000)
    assert [declared.status_code, streamed.status_code, small.status_code] == [413, 413, 413]
    assert counted(service, "github", "too_large") == 2 and stored(service.db) == 0


class SlowLane(InlineLane):
    """Every commit takes a moment, in which others gather; one record may be poisoned, or the database be down."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.down = False
        self.poisoned = ""

    async def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.down:
            raise OSError("the database is down")
        if function is not jobs.record:
            return await super().__call__(function, *args, **kwargs)
        records: Sequence[jobs.Record] = args[1]
        self.groups.append(len(records))
        await asyncio.sleep(0.005)
        if self.poisoned and any(record.job is not None and record.job.key == self.poisoned for record in records):
            raise ValueError("a row that no database takes")
        return await super().__call__(function, *args, **kwargs)


async def burst(client: httpx.AsyncClient, numbers: range) -> list[httpx.Response]:
    return list(await asyncio.gather(*(deliver(client, workflow_job(number)) for number in numbers)))


async def test_a_burst_shares_a_few_commits(rebuilt: Rebuilt) -> None:
    lane = SlowLane()
    service = rebuilt(lane=lane)
    async with service.client() as client:
        replies = await burst(client, range(600, 700))
    assert {reply.json()["result"] for reply in replies} == {"recorded"}
    assert sum(lane.groups) == 100 and len(lane.groups) <= 10
    assert len(service.app.openapi()["paths"]) > 5  # the application is whole: it answers other things meanwhile


async def test_one_poisoned_record_fails_only_itself(rebuilt: Rebuilt) -> None:
    lane = SlowLane()
    service = rebuilt(lane=lane)
    lane.poisoned = "705"
    async with service.client() as client:
        replies = await burst(client, range(700, 710))
    by_number = dict(zip(range(700, 710), replies, strict=True))
    assert by_number.pop(705).status_code == 503
    assert {reply.json()["result"] for reply in by_number.values()} == {"recorded"}


async def test_a_database_that_is_down_is_503_and_works_when_it_is_back(rebuilt: Rebuilt) -> None:
    lane = SlowLane()
    service = rebuilt(lane=lane)
    gitlab = {"x-gitlab-event": "Job Hook", "x-gitlab-token": GITLAB_TOKEN, "idempotency-key": "k-9"}
    build = {
        "object_kind": "build", "build_id": 31, "build_name": "gpu-eval", "build_status": "pending", "pipeline_id": 5,
        "project": {"id": 77, "path_with_namespace": "acme/train", "web_url": "https://gitlab.example/acme/train"},
        "project_id": 77, "ref": "main", "sha": "c0ffee" * 6,
    }  # fmt: skip
    async with service.client() as client:
        lane.down = True
        for reply in await burst(client, range(800, 805)):
            assert reply.status_code == 503 and reply.headers["retry-after"]
        from_gitlab = await client.post("/hooks/gitlab", content=json.dumps(build).encode(), headers=gitlab)
        assert from_gitlab.status_code == 503, from_gitlab.text  # it must send it again
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        lane.down = False
        assert {reply.json()["result"] for reply in await burst(client, range(800, 805))} == {"recorded"}
        assert (await client.get("/readyz")).status_code == 200
    assert counted(service, "github", "unavailable") == 5


async def test_beyond_its_depth_the_queue_says_come_back(rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "DEEPEST", 3)
    service = rebuilt(lane=SlowLane())
    async with service.client() as client:
        replies = await burst(client, range(900, 920))
    codes = sorted(reply.status_code for reply in replies)
    assert codes[0] == 202 and codes[-1] == 503
    assert all(reply.headers["retry-after"] for reply in replies if reply.status_code == 503)


async def test_whoever_gives_up_does_not_hold_up_the_others(rebuilt: Rebuilt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "PATIENCE", 0.001)
    service = rebuilt(lane=SlowLane())
    async with service.client() as client:
        assert (await deliver(client, workflow_job(950))).status_code == 503
        monkeypatch.setattr(intake_module, "PATIENCE", 8.0)
        assert (await deliver(client, workflow_job(951))).json()["result"] == "recorded"


async def test_a_delivery_is_answered_within_100_ms(service: Service) -> None:
    """The 99th of a hundred, one after the other, with real commits to disk; a busy machine gets a second try."""
    best = 1.0
    async with service.client() as client:
        for attempt in range(3):
            took: list[float] = []
            for number in range(100):
                began = asyncio.get_running_loop().time()
                await deliver(client, workflow_job(10_000 + attempt * 100 + number))
                took.append(asyncio.get_running_loop().time() - began)
            best = min(best, sorted(took)[98])
            if best < 0.1:
                break
    assert best < 0.1
