"""Deliveries are signed, logged, and never repeated by the forge itself; what goes wrong is planned and repeatable."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import httpx
import pytest

from app.demo import deliveries
from app.demo.deliveries import Postman, Receipt, sign
from app.demo.nouns import Delivery, Faults
from app.demo.state import ForgeState
from tests.demo.callers import Caller
from tests.demo.conftest import NOON, StillClock, only_job, queue
from tests.fakes.loopback import Loopback, Reply, Request

SECRET = "It's a Secret to Everybody"
LATER = NOON + timedelta(hours=1)


def plan(state: ForgeState, events: int = 40, **faults: float) -> list[Delivery]:
    """What becomes of so many events under these faults."""
    state.book.faults = Faults(**faults)  # pyright: ignore[reportArgumentType]  numbers all
    for _ in range(events):
        queue(state)
    return list(state.book.deliveries)


def keys_of(found: list[Delivery]) -> list[int]:
    return [one.payload["workflow_job"]["id"] for one in found if one.event == "workflow_job"]


def test_the_signature_is_githubs() -> None:
    """GitHub's own test vector (docs: validating webhook deliveries)."""
    assert sign(SECRET, b"Hello, World!") == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_what_is_sent_is_what_is_signed(state: ForgeState) -> None:
    queue(state)
    [(headers, body)] = state.outbox.collect(NOON, SECRET)
    assert headers["X-Hub-Signature-256"] == sign(SECRET, body)
    assert (headers["X-GitHub-Event"], json.loads(body)["action"]) == ("workflow_job", "queued")
    assert headers["User-Agent"].startswith("GitHub-Hookshot/")
    assert {"X-GitHub-Delivery", "X-GitHub-Hook-ID", "X-GitHub-Hook-Installation-Target-Type"} <= set(headers)
    assert state.outbox.collect(NOON, SECRET) == []


def test_without_a_webhook_there_are_no_deliveries(state: ForgeState) -> None:
    state.hook("", NOON)
    queue(state)
    assert state.outbox.due(LATER) == []


async def test_a_redelivery_is_a_new_attempt_under_the_old_guid(caller: Caller, state: ForgeState) -> None:
    queue(state)
    failed = state.outbox.due(NOON)[0]
    state.outbox.record(failed, Receipt(500), NOON)
    app = caller.app_token()
    listed = (await caller.call("GET", "/app/hook/deliveries?status=failure", token=app)).json()
    assert [(one["guid"], one["status"], one["redelivery"]) for one in listed] == [
        (failed.guid, "Invalid HTTP Response: 500", False)
    ]
    path = f"/app/hook/deliveries/{failed.id}"
    whole = (await caller.call("GET", path, token=app)).json()
    assert whole["request"]["payload"]["action"] == "queued"
    assert (await caller.call("POST", f"{path}/attempts", token=app)).status_code == 202
    assert (await caller.call("POST", "/app/hook/deliveries/1/attempts", token=app)).status_code == 404
    [(headers, _)] = state.outbox.collect(NOON, SECRET)
    assert headers["X-GitHub-Delivery"] == failed.guid
    log = (await caller.call("GET", "/app/hook/deliveries", token=app)).json()
    mine = [(one["status"], one["redelivery"]) for one in log if one["guid"] == failed.guid]
    assert mine == [("OK", True), ("Invalid HTTP Response: 500", False)]
    assert all(one["id"] != failed.id for one in log[:1])


async def test_the_log_is_read_by_cursor(caller: Caller, state: ForgeState) -> None:
    for _ in range(5):
        queue(state)
    state.outbox.collect(NOON, SECRET)
    app, seen, path = caller.app_token(), list[int](), "/app/hook/deliveries?per_page=2"
    while path:
        answer = await caller.call("GET", path, token=app)
        seen += [one["id"] for one in answer.json()]
        link = answer.headers.get("link", "")
        path = link.partition(">")[0].partition("/api/v3")[2] if 'rel="next"' in link else ""
    assert len(seen) == len(set(seen)) == 6 and seen == sorted(seen, reverse=True)


def test_the_same_seed_spoils_the_same_events(state: ForgeState) -> None:
    def fates(seed: int) -> list[tuple[timedelta, int]]:
        state.book.deliveries.clear()
        return [(one.due - NOON, one.behind) for one in plan(state, seed=seed, lose=0.3, repeat=0.3, delay=0.3, reorder=0.3)]

    assert fates(3) == fates(3) != fates(4)


def test_a_lost_event_leaves_no_trace(state: ForgeState) -> None:
    kept = keys_of(plan(state, seed=1, lose=0.5))
    assert 8 < len(kept) < 32
    assert len(state.book.jobs) == 40


def test_a_failed_one_stands_in_the_log(state: ForgeState) -> None:
    plan(state, events=10, seed=1, fail=1.0)
    assert state.outbox.due(LATER) == []
    assert {one.status_code for one in state.outbox.log()[:10]} == {502}


def test_a_repeated_one_arrives_twice_under_one_guid(state: ForgeState) -> None:
    found = [one for one in plan(state, events=5, seed=1, repeat=1.0) if one.event == "workflow_job"]
    assert len(found) == 10 and len({one.guid for one in found}) == 5
    assert len({one.id for one in found}) == 10


def test_a_late_one_comes_when_it_is_due(state: ForgeState) -> None:
    state.book.faults = Faults(delay=1.0, delay_seconds=[30, 60])
    queue(state)
    assert state.outbox.due(NOON + timedelta(seconds=29)) == []
    assert len(state.outbox.due(NOON + timedelta(seconds=60))) == 1


def test_reordered_ones_are_overtaken_but_none_is_lost(state: ForgeState) -> None:
    order = keys_of(plan(state, events=30, seed=2, reorder=0.5))
    sent = keys_of(state.outbox.due(LATER))
    assert sorted(sent) == sorted(order) and sent != sorted(sent)
    assert len(sent) == 30


def test_one_that_waits_to_be_overtaken_comes_at_last(state: ForgeState) -> None:
    state.book.faults = Faults(reorder=1.0, reorder_seconds=5)
    queue(state)
    assert state.outbox.due(NOON) == []
    assert len(state.outbox.due(NOON + timedelta(seconds=5))) == 1


async def test_faults_are_set_and_ended_by_the_control_api(caller: Caller, state: ForgeState) -> None:
    assert (await caller.control("faults", lose=1.0, seed=9))["lose"] == 1.0
    queue(state)
    assert state.outbox.due(LATER) == []
    await caller.control("faults")
    queue(state)
    assert len(state.outbox.due(LATER)) == 1
    wrong = await caller.client.post(
        "/_demo/faults", json={"lose": "all"}, headers={"Authorization": f"Bearer {caller.keys.token}"}
    )
    assert wrong.status_code == 422


async def test_an_answer_is_spoiled_before_or_after_the_work(caller: Caller, state: ForgeState) -> None:
    await caller.control("faults", api=[{"match": "generate-jitconfig", "status": 503, "retry_after": 7}])
    refused = await caller.jit("fox-1")
    assert (refused.status_code, refused.headers["retry-after"], state.book.runners) == (503, "7", {})
    await caller.control("faults", api=[{"match": "generate-jitconfig", "status": 502, "after": True}])
    assert (await caller.jit("fox-1")).status_code == 502
    assert [one.name for one in state.book.runners.values()] == ["fox-1"], "the answer was lost, not the work"
    assert (await caller.jit("fox-1")).status_code == 409
    assert (await caller.jit("fox-2")).status_code == 201


class Hook:
    """A receiver that answers as told, and remembers what came."""

    def __init__(self, *replies: int) -> None:
        self.replies, self.got = list(replies), list[Request]()

    def answer(self, request: Request) -> Reply:
        self.got.append(request)
        return Reply(self.replies.pop(0) if self.replies else 202, {"ok": True})


@pytest.fixture
def receiver() -> Hook:
    return Hook(500)


async def test_real_deliveries_go_over_http_once_each_and_in_order(
    state: ForgeState, clock: StillClock, receiver: Hook
) -> None:
    loopback = Loopback(receiver.answer)
    loopback.start()
    try:
        state.book.hook_url = f"{loopback.url}/hooks/github"
        first = only_job(state, queue(state))
        state.cancel(first, NOON)
        second = only_job(state, queue(state))
        receipts: list[int] = []
        postman = Postman(state.book, state.outbox, SECRET, clock, lambda: receipts.append(1))
        idle = asyncio.Event()

        async def rest(_: float) -> None:
            idle.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(postman.work(rest))
        async with asyncio.timeout(10):
            await idle.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    finally:
        loopback.stop()
    told = [(one.body["action"], one.body["workflow_job"]["id"]) for one in receiver.got]
    assert told == [("queued", first), ("completed", first), ("queued", second)]
    assert all(one.headers["x-hub-signature-256"] == sign(SECRET, one.raw) for one in receiver.got)
    assert [one.status_code for one in reversed(state.outbox.log())][1:] == [500, 202, 202]
    assert len(receipts) == 3, "no attempt was repeated by the forge, and each was written down"
    assert state.outbox.log()[0].response_body == '{"ok": true}'


async def test_a_receiver_that_is_away_or_slow_is_logged_so(
    state: ForgeState, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "REPLY_LIMIT", timedelta(milliseconds=50))
    state.book.hook_url = "http://127.0.0.1:1/hooks/github"
    queue(state)
    seen = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await seen.wait()
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    postman = Postman(state.book, state.outbox, SECRET, clock, lambda: None)
    async with httpx.AsyncClient(trust_env=False) as client:
        away = state.outbox.due(NOON)[0]
        await postman._send(client, away)  # pyright: ignore[reportPrivateUsage]
        state.book.hook_url = f"http://127.0.0.1:{port}/hooks/github"
        queue(state)
        late = state.outbox.due(NOON)[0]
        await postman._send(client, late)  # pyright: ignore[reportPrivateUsage]
    seen.set()
    server.close()
    await server.wait_closed()
    assert (away.status_code, away.status.split(":")[0]) == (502, "failed to connect to host")
    assert (late.status_code, late.status) == (504, "timed out")
