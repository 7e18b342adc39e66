"""What the node routes do not take: strangers, floods, bodies that are too large, and anything that is not the protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest

from app.web.nodes import BURST
from tests.node.agents import TOKEN
from tests.node.site import Site
from tests.store.nouns import again

PATHS = ("facts", "heartbeat", "credential", "event", "log", "job", "measured", "sample")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("session", ["", "short", "y" * 43, "z" * 100_000, "ü" * 50])
async def test_no_route_answers_a_stranger(site: Site, path: str, session: str) -> None:
    """No session, a wrong one, a mad one."""
    site.lease()
    headers = [(b"authorization", b"Bearer " + session.encode("latin-1"))]
    answer = await site.client.post(f"/node/{path}", content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "no_session")
    assert answer.headers["cache-control"] == "no-store"


async def test_a_node_speaks_for_its_own_lease_only(site: Site) -> None:
    """There is no way to name another one."""
    mine, other = site.lease(number=1), site.lease(number=2)
    node = site.node(mine)
    await node.join()
    for path in PATHS:
        answer = await node.post(path, {"lease": other.id, "lease_id": other.id})
        assert answer.status_code == 422
    await node.report()
    await node.online()
    untouched = again(site.db, other)
    assert untouched.facts is None and untouched.runner_started_at is None and untouched.heartbeat_at is None


LINE = {"seq": 1, "at": "2026-03-01T12:00:00Z", "source": "runner", "line": "x"}


WRONG: list[tuple[str, Any]] = [
    ("join", {"lease": "x", "token": TOKEN}),
    ("join", {"lease": "x", "token": TOKEN, "session": "short"}),
    ("join", {"lease": "../x", "token": TOKEN, "session": "s" * 43}),
    ("join", {"lease": "x", "token": TOKEN, "session": "s" * 43, "role": "admin"}),
    ("facts", {"gpus": [{"name": "x" * 501}]}),
    ("facts", {"gpus": [{"name": ["nested"]}]}),
    ("facts", {"gpus": [{}] * 65}),
    ("facts", {"cpus": -1}),
    ("facts", {"cpus": "8"}),
    ("facts", {"memory_mib": 1e400}),
    ("facts", {"state": "released"}),
    ("heartbeat", {"phase": "x" * 61}),
    ("heartbeat", {"at": "yesterday"}),
    ("heartbeat", {"at": "2026-03-01T12:00:00"}),
    ("credential", {}),
    ("event", {"kind": "released"}),
    ("event", {"kind": "booted", "data": {"x": {}}}),
    ("log", {"lines": [{**LINE, "seq": 0}]}),
    ("log", {"lines": [{**LINE, "seq": 2**40}]}),
    ("log", {"lines": [{**LINE, "source": "kernel"}]}),
    ("log", {"lines": [{**LINE, "line": "x" * 5000}]}),
    ("log", {"lines": [LINE] * 1001}),
    ("job", {"repository": "x" * 301}),
    ("job", {"repository": "x", "attempt": True}),
    ("job", []),
    ("measured", {"gpu": {}}),
    ("measured", {"gpu": {"fp32_tflops": "fast"}, "network": {}}),
    ("measured", {"gpu": {"memory_gbs": 1e300}, "network": {}}),
    ("measured", {"gpu": {"memory_gbs": -1}, "network": {}}),
    ("measured", {"gpu": {"name": "x" * 301}, "network": {}}),
    ("measured", {"gpu": {"outcome": "usable"}, "network": {}}),
    ("measured", {"gpu": {}, "network": {"hosts": [{"host": "x"}] * 9}}),
    ("sample", {"bytes": 2**40}),
]


@pytest.mark.parametrize(("path", "body"), WRONG)
async def test_what_is_not_the_protocol_is_refused_and_not_repeated(site: Site, path: str, body: Any) -> None:
    """Typed strictly, nothing extra, every length bounded; the answer names the place and never the value."""
    node = site.node(site.lease())
    if path != "join":
        await node.join()
    answer = await node.post(path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable")
    assert "x" * 50 not in answer.text and TOKEN not in answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"null", b"[" * 30_000, b"NaN"])
async def test_a_body_that_is_no_json_is_refused(site: Site, raw: bytes) -> None:
    answer = await site.client.post("/node/join", content=raw)
    assert answer.status_code == 422


async def test_a_body_is_counted_while_it_is_read(site: Site) -> None:
    """With its length told, or with none; a log may be larger than the rest."""
    node = site.node(site.lease())
    await node.join()

    async def endless() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 65536

    headers = {"Authorization": f"Bearer {node.session}"}
    for path, most in (("join", 64), ("facts", 64), ("log", 256)):
        answer = await site.client.post(f"/node/{path}", content=b" " * (most * 1024 + 1), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        answer = await site.client.post(f"/node/{path}", content=endless(), headers=headers)
        assert answer.status_code == 413
    lines = [{**LINE, "seq": number, "line": "x" * 4000} for number in range(1, 60)]
    assert (await node.say("log", lines=lines))["kept"] == 59


async def test_a_node_that_floods_is_slowed_down_alone(site: Site) -> None:
    """The others go on; a moment later, so does it."""
    loud, calm = site.node(site.lease(number=1)), site.node(site.lease(number=2))
    await loud.join()
    await calm.join()
    statuses = [(await loud.post("heartbeat", {"phase": "", "at": None})).status_code for _ in range(int(BURST) + 1)]
    assert statuses[-2:] == [200, 429]
    refused = await loud.post("heartbeat", {"phase": "", "at": None})
    assert refused.headers["retry-after"] == "1" and refused.headers["cache-control"] == "no-store"
    await calm.heartbeat()
    site.still.moment += timedelta(seconds=1)
    await loud.heartbeat()


async def test_guessing_sessions_is_slowed_down(site: Site) -> None:
    statuses = {(await site.client.post("/node/heartbeat")).status_code for _ in range(int(BURST) + 1)}
    assert statuses == {401, 429}
