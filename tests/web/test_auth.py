"""Logging in once by a link, staying in by a cookie, asking by a token; and forms that only our own pages can send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.kit.threads import Lane
from app.store import people
from app.store.db import Database
from app.store.people import Role
from app.web.auth import Failures, hashed, issue_cli_token, issue_login_link, issue_token
from tests.web.conftest import URL, Service, build_service
from tests.web.story import afternoon

PAGE = {"accept": "text/html"}


async def test_a_link_logs_in_once_and_leads_to_the_first_page(service: Service) -> None:
    async with service.client(**PAGE) as client:
        path = service.login_path()
        reply = await client.get(path)
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "Max-Age=43200" in cookie and "Secure" not in cookie
        assert (await client.get("/")).status_code == 200
        assert (await client.get(path)).status_code == 303  # a reload of the tab that is logged in does no harm
    async with service.client(**PAGE) as stranger:
        again = await stranger.get(path)
        assert again.status_code == 403 and "used before" in again.text and "set-cookie" not in again.headers


async def test_a_link_is_good_for_fifteen_minutes(service: Service) -> None:
    path = service.login_path()
    service.clock.advance(15 * 60)
    async with service.client(**PAGE) as client:
        assert (await client.get(path)).status_code == 403


async def test_a_browser_that_looks_ahead_does_not_use_the_link_up(service: Service) -> None:
    path = service.login_path()
    async with service.client(**PAGE) as client:
        ahead = await client.get(path, headers={"sec-purpose": "prefetch;prerender"})
        assert ahead.status_code == 200 and "set-cookie" not in ahead.headers and "<button" in ahead.text
        looked = await client.head(path)
        assert looked.status_code == 200 and "set-cookie" not in looked.headers and looked.text == ""
        assert (await client.get(path)).status_code == 303


async def test_head_tells_what_get_would_without_its_body(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        for path in (
            "/",
            "/leases/brave-otter-41",
            "/leases.json",
            "/api/v1/queue",
            "/healthz",
            "/static/site.css",
            "/leases/none-00",
        ):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (whole.status_code, b""), path
            assert head.headers["content-type"] == whole.headers["content-type"]
        assert (await client.head("/logout")).status_code == 405
        assert (await client.head("/live/overview")).status_code == 405


async def test_https_makes_the_cookie_secure(db: Database, tmp_path: Path, lane: Lane) -> None:
    service = build_service(db, tmp_path, lane, public_url="https://ci.acme.example")
    async with service.client() as client:
        reply = await client.get(service.login_path())
    assert reply.headers["set-cookie"].startswith("__Host-sublet=") and "Secure" in reply.headers["set-cookie"]
    assert reply.headers["strict-transport-security"] == "max-age=31536000"


async def test_whoever_is_not_logged_in_is_led_to_the_login_and_back(service: Service) -> None:
    afternoon(service.db)
    async with service.client(**PAGE) as client:
        reply = await client.get("/leases/brave-otter-41")
        assert (reply.status_code, reply.headers["location"]) == (303, "/login?next=%2Fleases%2Fbrave-otter-41")
        login = await client.get("/login")
        assert login.status_code == 200 and "sublet login" in login.text
        back = await client.get(f"{service.login_path()}&next=/leases/brave-otter-41")
        assert back.headers["location"] == "/leases/brave-otter-41"


@pytest.mark.parametrize("place", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb"])
async def test_a_login_never_leads_to_another_site(service: Service, place: str) -> None:
    async with service.client() as client:
        reply = await client.get("/login", params={"once": service.login_path().partition("=")[2], "next": place})
    assert (reply.status_code, reply.headers["location"]) == (303, "/")


async def test_a_session_ends_by_itself_and_by_logging_out(service: Service) -> None:
    cookie, csrf = service.session()
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        assert (await client.get("/queue")).status_code == 200
        out = await client.post("/logout", data={"csrf": csrf}, headers={"origin": URL})
        assert (out.status_code, out.headers["location"]) == (303, "/login")
        client.cookies.set("sublet", cookie)
        assert (await client.get("/queue")).status_code == 303
    cookie, _ = service.session()
    service.clock.advance(12 * 3600)
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        assert (await client.get("/queue")).status_code == 303


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({"origin": URL}, True, 303),
        ({"sec-fetch-site": "same-origin", "origin": URL}, True, 303),
        ({}, True, 303),  # a client that names no origin still has to know the token
        ({"origin": URL}, False, 403),
        ({"origin": "https://evil.example"}, True, 403),
        ({"origin": "null"}, True, 403),
        ({"sec-fetch-site": "cross-site"}, True, 403),
        ({"sec-fetch-site": "same-site", "origin": URL}, True, 403),
    ],
)
async def test_a_form_must_come_from_our_own_page(service: Service, headers: dict[str, str], token: bool, status: int) -> None:
    afternoon(service.db)
    cookie, csrf = service.session()
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        form = {"csrf": csrf if token else "x" * len(csrf), "reason": "flaky download"}
        reply = await client.post("/leases/brave-otter-41/drain", data=form, headers=headers)
    assert reply.status_code == status


async def test_a_write_over_the_api_by_cookie_needs_the_token_in_a_header(service: Service) -> None:
    afternoon(service.db)
    cookie, csrf = service.session(Role.OPERATOR)
    async with service.client() as client:
        client.cookies.set("sublet", cookie)
        path, body = "/api/v1/leases/brave-otter-41/drain", {"reason": "x"}
        assert (await client.post(path, json=body)).status_code == 403
        assert (await client.post(path, json=body, headers={"x-csrf-token": csrf})).status_code == 200


async def test_a_token_may_be_revoked_or_run_out(service: Service) -> None:
    now = service.clock.now()
    token = issue_token(service.db, "viewer", "short", now, now.replace(hour=13)).reveal()
    async with service.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        assert (await client.get("/api/v1/whoami")).json() == {"schema_version": 1, "person": "viewer", "role": "viewer"}
        people.revoke_token(service.db, hashed(token), now, "admin")
        reply = await client.get("/api/v1/whoami")
    assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.json()["error"]["exit"] == 4


async def test_a_new_token_of_the_cli_ends_the_one_before(service: Service) -> None:
    first, second = (issue_cli_token(service.db, service.clock.now()).reveal() for _ in range(2))
    async with service.client() as client:
        for token, status in ((first, 401), (second, 200)):
            reply = await client.get("/api/v1/whoami", headers={"authorization": f"Bearer {token}"})
            assert reply.status_code == status


def test_only_hashes_are_kept(service: Service, sqlite_url: str) -> None:
    link, token = issue_login_link(service.db, service.clock.now()), service.tokens[Role.ADMIN]
    cookie, _ = service.session()
    kept = b"".join(path.read_bytes() for path in Path(sqlite_url.removeprefix("sqlite:///")).parent.glob("sublet.db*"))
    for secret in (link.partition("=")[2], token, cookie):
        assert secret.encode() not in kept and hashed(secret).encode() in kept


async def test_too_many_wrong_logins_of_one_address_are_held_off(service: Service) -> None:
    async with service.client(**PAGE) as client:
        codes = [(await client.get(f"/login?once=guess-{number}")).status_code for number in range(12)]
        assert codes == [403] * 10 + [429] * 2
        service.clock.advance(301)
        assert (await client.get("/login?once=guess")).status_code == 403


async def test_a_good_link_is_good_whatever_others_at_its_address_guess(service: Service) -> None:
    async with service.client(**PAGE) as stranger:
        assert [(await stranger.get("/login?once=guess")).status_code for _ in range(11)][-1] == 429
    path = service.login_path()
    async with service.client(**PAGE) as client:
        assert (await client.get(path)).status_code == 303
    async with service.client(**PAGE) as again:
        assert (await again.get(path)).status_code == 429, "used up, it is as wrong as any other"


async def test_a_good_token_is_good_whatever_others_behind_its_proxy_guess(service: Service) -> None:
    async with service.client() as client:
        codes = [(await client.get("/api/v1/whoami", headers={"authorization": "Bearer guess"})).status_code for _ in range(11)]
        assert codes == [401] * 10 + [429]
    async with service.client(Role.VIEWER) as client:
        assert (await client.get("/api/v1/whoami")).status_code == 200


async def test_login_links_come_over_the_api_for_the_one_who_asks(service: Service) -> None:
    async with service.client(Role.VIEWER) as client:
        reply = (await client.post("/api/v1/login-links", json={})).json()
    assert reply["url"].startswith(f"{URL}/login?once=")
    async with service.client(**PAGE) as browser:
        await browser.get(reply["url"])
        assert "viewer" in (await browser.get("/")).text


async def test_no_secret_reaches_the_log(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    path = service.login_path()
    async with service.client(**PAGE) as client:
        await client.get(path)
        await client.get(path.replace("once=", "once=x"))
        await client.get("/", headers={"authorization": "Bearer sbl_wrong-wrong-wrong-wrong"})
    told = capsys.readouterr()
    assert path.partition("=")[2] not in told.out + told.err and "wrong-wrong" not in told.out + told.err


@pytest.mark.parametrize("field", ["times", "theme", "keys"])
async def test_tastes_are_kept_in_cookies_and_only_known_ones(service: Service, field: str) -> None:
    cookie, csrf = service.session(Role.VIEWER)
    wanted: dict[str, Any] = {"times": "relative", "theme": "dark", "keys": "off"}
    async with service.client(**PAGE) as client:
        client.cookies.set("sublet", cookie)
        kept = await client.post("/preferences", data={"csrf": csrf, field: wanted[field], "back": "/queue"})
        assert (kept.status_code, kept.headers["location"]) == (303, "/queue")
        assert kept.headers["set-cookie"].startswith(f"{field}={wanted[field]};")
        odd = await client.post("/preferences", data={"csrf": csrf, field: "<script>", "back": "//evil.example"})
        assert "set-cookie" not in odd.headers and odd.headers["location"] == "/"


def test_failures_of_many_addresses_do_not_fill_the_memory() -> None:
    failures = Failures()
    for number in range(5_000):
        failures.note(f"10.0.{number // 256}.{number % 256}", float(number))
    assert len(failures._times) == 1_000  # pyright: ignore[reportPrivateUsage]
