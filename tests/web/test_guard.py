"""Rules that hold for every route and every template, read from the application itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from sqlalchemy.exc import OperationalError

from app.kit.threads import InlineLane
from app.store.people import Role
from app.web import shield
from app.web.auth import RANK, Need
from app.web.shield import CSP
from tests.web.conftest import Rebuilt, Service
from tests.web.story import afternoon

WEB = Path(__file__).resolve().parents[2] / "app" / "web"
OPEN = {
    "/healthz", "/readyz", "/metrics", "/hooks/{forge}", "/login", "/docs", "/openapi.json", "/static/{name}",
}  # fmt: skip
"""Routes that need no login, each for a reason of its own: probes, signed deliveries, the login, the API's description."""
ADMINS = {"/api/v1/people", "/api/v1/people/{name}/login-links", "/api/v1/keys/rotate", "/api/v1/images/unrevoke"}
ACTS = ("/drain", "/destroy", "/confirm", "/revoke", "/pause", "/resume", "/test", "/pilot")
"""What an operator may do, and a viewer may not."""
FILLED = {"ref": "brave-otter-41", "forge": "github", "name": "site.css"}


def all_routes(service: Service) -> Iterator[APIRoute]:
    """FastAPI may keep included routers as they are; look inside them."""
    pending: list[Any] = list(service.app.routes)
    while pending:
        route = pending.pop(0)
        if isinstance(route, APIRoute):
            yield route
            continue
        inner = getattr(route, "original_router", None) or getattr(route, "router", None) or getattr(route, "app", None)
        pending += list(getattr(inner, "routes", ()))


def needed(dependant: Dependant) -> Role | None:
    """The role that a route asks for."""
    for inner in dependant.dependencies:
        if isinstance(inner.call, Need):
            return inner.call.role
        if (found := needed(inner)) is not None:
            return found
    return None


def address(route: APIRoute) -> str:
    return re.sub(r"{(\w+)}", lambda found: FILLED.get(found[1], "x"), route.path)


async def test_every_answer_carries_the_security_headers(service: Service) -> None:
    afternoon(service.db)
    seen = 0
    async with service.client(Role.ADMIN, accept="text/html") as client:
        for route in all_routes(service):
            if route.path.startswith("/live/"):
                continue  # endless; test_live looks at it
            for method in sorted(route.methods or ()):
                reply = await client.request(method, address(route))
                assert reply.headers["content-security-policy"] == CSP, route.path
                assert reply.headers["x-content-type-options"] == "nosniff"
                assert reply.headers["referrer-policy"] == "same-origin"
                assert reply.headers["x-frame-options"] == "DENY"
                assert len(reply.headers["x-request-id"]) == 16
                kept = reply.headers["cache-control"]
                assert kept == "no-store" or route.path == "/static/{name}", route.path
                seen += 1
        lost = await client.get("/no/such/page")
        assert lost.status_code == 404 and lost.headers["content-security-policy"] == CSP
    assert seen > 30


def test_the_policy_is_the_written_one() -> None:
    assert CSP == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


async def test_every_route_asks_for_the_role_it_should(service: Service) -> None:
    """Anonymous and each role against each route: whoever is below is turned away, whoever is not is let in."""
    afternoon(service.db)
    looked_at = 0
    for route in all_routes(service):
        role = needed(route.dependant)
        if route.path in OPEN or route.path.startswith("/node/"):
            assert role is None, route.path
            continue
        assert role is not None, f"{route.path} is open to everybody"
        method = next(iter(route.methods or {"GET"}))
        writes = method == "POST"
        expected = Role.OPERATOR if route.path.endswith(ACTS) and method == "POST" else Role.VIEWER
        expected = Role.ADMIN if route.path in ADMINS else expected
        assert role is expected, route.path
        if route.path.startswith("/live/"):
            continue
        for visitor in (None, *Role):
            async with service.client(visitor) as client:
                reply = await client.request(method, address(route), json={} if writes else None)
            if visitor is None:
                assert reply.status_code == 401, route.path
            elif RANK[visitor] < RANK[role]:
                assert reply.status_code == 403, (route.path, visitor)
            else:
                assert reply.status_code not in (401, 403), (route.path, visitor)
            looked_at += 1
    assert looked_at > 80


async def test_a_node_session_opens_no_page(service: Service) -> None:
    async with service.client(authorization="Bearer " + "n" * 43) as client:
        for path in ("/", "/api/v1/leases", "/leases.json"):
            assert (await client.get(path)).status_code == 401


def test_templates_hold_no_inline_script_style_or_outside_address() -> None:
    for path in sorted((WEB / "templates").iterdir()):
        text = path.read_text("utf-8")
        assert not re.search(r"\sstyle\s*=", text), path.name
        assert not re.search(r"<style\b", text, re.IGNORECASE), path.name
        assert not re.search(r"\son[a-z]+\s*=", text), path.name
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, path.name
        assert "javascript:" not in text and "http://" not in text and "https://" not in text, path.name
        for script in re.findall(r"<script\b[^>]*>(.*?)</script>", text, re.DOTALL):
            assert script == "", path.name
    for name in ("live.js", "site.css"):
        text = (WEB / "static" / name).read_text("utf-8")
        assert not re.search(r"@import|url\(|https?://|\beval\b|new Function|document\.write", text), name


@pytest.mark.parametrize("path", ["/api/v1/leases/nobody-here-99", "/leases/nobody-here-99.json"])
async def test_errors_for_programs_hold_the_exit_code(service: Service, path: str) -> None:
    async with service.client(Role.VIEWER, accept="text/html") as client:
        reply = await client.get(path)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["exit"]) == (404, "not_found", 3)
    assert error["request_id"] == reply.headers["x-request-id"]


async def test_errors_for_people_are_a_page(service: Service) -> None:
    async with service.client(Role.VIEWER, accept="text/html") as client:
        reply = await client.get("/leases/nobody-here-99")
        odd = await client.get("/queue?tab=everything")
    assert reply.status_code == 404 and "<h1>There is no lease nobody-here-99.</h1>" in reply.text
    assert reply.headers["x-request-id"] in reply.text
    assert odd.status_code == 422 and "<h1>" in odd.text


async def test_an_unexpected_failure_is_answered_and_tells_nothing_of_itself(service: Service) -> None:
    service.db.close()

    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    service.app.add_api_route("/broken", broken)
    async with service.client(accept="text/html") as client:
        page = await client.get("/broken")
        told = await client.get("/broken", headers={"accept": "application/json"})
    assert (page.status_code, told.status_code) == (500, 500)
    assert "hunter2" not in page.text + told.text
    assert told.json()["error"]["exit"] == 1 and page.headers["content-security-policy"] == CSP


async def test_a_database_that_does_not_answer_is_said_to_people_and_programs(rebuilt: Rebuilt) -> None:
    class DownLane(InlineLane):
        async def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise OperationalError("SELECT 1", {}, ConnectionRefusedError("no route to 10.0.0.7"))

    service = rebuilt(lane=DownLane())
    async with service.client(Role.ADMIN, accept="text/html") as client:
        page, told = await client.get("/queue"), await client.get("/api/v1/queue")
    assert (page.status_code, told.status_code) == (503, 503) and page.headers["retry-after"] == "5"
    assert "The database does not answer." in page.text and "Try again" in page.text
    assert told.json()["error"]["exit"] == 1 and "10.0.0.7" not in page.text + told.text


async def test_the_description_of_the_api_is_drawn_without_any_script(service: Service) -> None:
    async with service.client(accept="text/html") as client:
        page, description = await client.get("/docs"), (await client.get("/openapi.json")).json()
    assert page.status_code == 200
    for path in description["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert re.findall(r"<script\b[^>]*>", page.text) == re.findall(
        r'<script type="module" src="/static/live.js[^>]*>', page.text
    )


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/leases?before=2026-01-01T00:00:00",  # where?
        "/api/v1/leases?before=0001-01-01T00:00:00%2B23:59",  # before the first year of UTC
        "/api/v1/queue?tab=started&before=9999-12-31T23:59:59-23:59",
        "/leases?before=2026-01-01T00:00:00",
        "/queue.json?before=0001-01-01T00:00:00%2B23:59",
        "/api/v1/leases/brave-otter-41/logs?after=9223372036854775808",  # more than a database counts to
        "/live/leases/brave-otter-41?after=9223372036854775808",
    ],
)
async def test_a_moment_or_a_number_that_cannot_be_is_the_askers_mistake(service: Service, path: str) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER) as client:
        reply = await client.get(path)
    assert reply.status_code == 422 and reply.json()["error"]["exit"] == 2


@pytest.mark.parametrize("path", ["/hooks/github", "/node/join"])
async def test_a_body_that_does_not_come_to_its_end_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Else four idle strangers would hold the only places in which large deliveries are read."""
    monkeypatch.setattr(shield, "BODY_PATIENCE", 0.05)

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with asyncio.timeout(10), service.client() as client:
        reply = await client.post(path, content=endless(), headers={"content-length": "300000"} if "hooks" in path else {})
    assert reply.status_code == 408


async def test_a_caller_that_hangs_up_in_the_middle_is_given_no_answer_and_no_trace(service: Service) -> None:
    """A node whose machine is destroyed while it sends its last lines: the server would print what the application raises."""
    said: list[Any] = []
    heard = iter([{"type": "http.request", "body": b'{"lease": ', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(heard)

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(b"host", b"sublet.test"), (b"content-length", b"200")]
    scope = {"type": "http", "method": "POST", "path": "/node/join", "query_string": b"", "headers": headers, "scheme": "http"}
    await service.app(
        {**scope, "http_version": "1.1", "client": ("10.0.0.9", 4711), "server": ("sublet.test", 80)}, receive, send
    )
    assert said == []
