"""Streams: what changed and nothing else; in a browser, with focus kept, hidden tabs resting, and a word when it is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from playwright.async_api import Page, expect

from app.core.states import State
from app.store import lease_views, nodes, people
from app.store.people import Role
from app.web import live
from app.web.auth import hashed
from tests.fakes.served import served
from tests.parts.browser import Chromium
from tests.web.conftest import Service, Shown
from tests.web.story import NOW, a_job, live_to, move, record

PATIENCE = 20.0


@dataclass
class Told:
    """One event of a stream; a comment has the name ""."""

    name: str
    data: Any = None
    id: str = ""


@dataclass
class Stream:
    """An ASGI client that reads an endless answer bit by bit, and hangs up."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    _rest: str = ""
    _pieces: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue[str | None])

    async def events(self) -> AsyncIterator[Told]:
        while "\n\n" in self._rest:
            yield self._one()
        while (piece := await asyncio.wait_for(self._pieces.get(), PATIENCE)) is not None:
            self._rest += piece
            while "\n\n" in self._rest:
                yield self._one()

    def _one(self) -> Told:
        block, self._rest = self._rest.split("\n\n", 1)
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        return Told(fields.get("event", ""), json.loads(fields.get("data", "null")), fields.get("id", ""))

    async def next(self, name: str) -> Told:
        async for told in self.events():
            if told.name == name:
                return told
        raise AssertionError(f"the stream ended without {name!r}")

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            self._pieces.put_nowait(message.get("body", b"").decode())
            if not message.get("more_body"):
                self._pieces.put_nowait(None)


@asynccontextmanager
async def listening(service: Service, path: str, query: str = "", **headers: str) -> AsyncGenerator[Stream]:
    stream, gone = Stream(), asyncio.Event()
    given = {"authorization": f"Bearer {service.tokens[Role.VIEWER]}", "host": "127.0.0.1:8080", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in given.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    task = asyncio.create_task(service.app(scope, receive, stream.send))
    try:
        yield stream
    finally:
        gone.set()
        await asyncio.wait_for(task, PATIENCE)


async def test_a_lease_is_told_in_fragments_and_its_phase_in_a_sentence(service: Service) -> None:
    lease = live_to(service.db, 1, "brave-otter-41", State.BOOTING, NOW - timedelta(seconds=40))
    async with listening(service, f"/live/leases/{lease.id}") as stream:
        first = await stream.next("swap")
        assert stream.headers["content-type"].startswith("text/event-stream") and stream.headers["x-accel-buffering"] == "no"
        assert set(first.data) == set(live.LEASE) and "booting" in first.data["lease-head"]
        move(service.db, lease.id, State.PROVING, NOW)
        changed = await stream.next("swap")
        assert "checking" in changed.data["lease-head"] and "why" not in changed.data and "actions" not in changed.data
        assert (await stream.next("say")).data == {"text": "brave-otter-41 is having its machine checked."}


async def test_log_lines_come_once_and_go_on_after_a_break(service: Service) -> None:
    lease = live_to(service.db, 1, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=5))
    nodes.append_log(service.db, lease.id, [(number, NOW, "runner", f"line {number}") for number in range(3)])
    path = f"/live/leases/{lease.id}"
    async with listening(service, path, "after=0") as stream:
        told = await stream.next("lines")
        assert [line["line"] for line in told.data] == ["line 1", "line 2"] and told.id == "2"
        nodes.append_log(service.db, lease.id, [(3, NOW, "runner", "line 3\nevent: swap")])
        assert [line["seq"] for line in (await stream.next("lines")).data] == [3]
    async with listening(service, path, "after=0", **{"last-event-id": "2"}) as again:
        assert [line["line"] for line in (await again.next("lines")).data] == ["line 3\nevent: swap"]


async def test_a_stream_speaks_every_quarter_minute_and_ends_after_fifteen(service: Service) -> None:
    async with listening(service, "/live/overview") as stream:
        await stream.next("tick")
        service.clock.advance(15)
        assert (await stream.next("")).data is None  # the comment that keeps proxies awake
        assert (await stream.next("tick")).data == {"text": "updated 12:16:20 UTC"}
        service.clock.advance(900)
        assert [told.name async for told in stream.events()].count("swap") <= 1  # and then it ends


async def test_logging_out_ends_the_stream(service: Service) -> None:
    cookie, _ = service.session(Role.VIEWER)
    async with listening(service, "/live/overview", authorization="", cookie=f"sublet={cookie}") as stream:
        await stream.next("tick")
        people.close_session(service.db, hashed(cookie))
        service.clock.advance(16)
        assert [told.name async for told in stream.events()] == []


async def test_logging_out_ends_a_stream_that_has_something_new_all_the_time(service: Service) -> None:
    cookie, _ = service.session(Role.VIEWER)
    lease = live_to(service.db, 1, "brave-otter-41", State.BOOTING, NOW - timedelta(seconds=40))
    async with listening(service, f"/live/leases/{lease.id}", authorization="", cookie=f"sublet={cookie}") as stream:
        await stream.next("tick")
        service.clock.advance(10)
        move(service.db, lease.id, State.PROVING, NOW)
        await stream.next("say")
        people.close_session(service.db, hashed(cookie))
        service.clock.advance(10)  # 20 s after its begin, and never 15 s without a word
        assert [told.name async for told in stream.events()] == []


async def test_a_last_event_id_that_is_no_number_is_passed_over(service: Service) -> None:
    lease = live_to(service.db, 1, "brave-otter-41", State.BOOTING, NOW - timedelta(seconds=40))
    async with listening(service, f"/live/leases/{lease.id}", **{"last-event-id": "\u00b2"}) as stream:
        await stream.next("swap")
        assert stream.status == 200


async def test_a_lease_that_is_over_ends_its_stream(service: Service) -> None:
    lease = live_to(service.db, 1, "brave-otter-41", State.RELEASED, NOW - timedelta(minutes=30), job=1)
    async with listening(service, f"/live/leases/{lease.id}") as stream:
        await stream.next("swap")
        service.clock.advance(16)
        assert (await stream.next("over")).data == {}


async def test_streams_are_for_those_who_are_logged_in_and_not_endless_in_number(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(service, "/live/overview", authorization="") as stream:
        assert [told async for told in stream.events()] == [] and stream.status == 401
    monkeypatch.setattr(live, "MOST", 1)
    async with listening(service, "/live/overview") as first:
        await first.next("swap")
        async with listening(service, "/live/overview") as second:
            async for _ in second.events():
                raise AssertionError("nothing is told")
            assert second.status == 503


@pytest.fixture
def fresh(service: Service) -> Any:
    """This test's own service on real HTTP; it may change it."""
    with served(service.app) as url:
        yield Shown(service, url)


def test_a_lease_page_moves_by_itself_and_keeps_what_the_reader_does(browser: Chromium, fresh: Shown) -> None:
    db = fresh.service.db
    lease = live_to(db, 1, "brave-otter-41", State.BOOTING, NOW - timedelta(seconds=40))

    async def story(page: Page) -> None:
        await page.goto(f"{fresh.url}/leases/brave-otter-41")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator("#announce")).to_have_text("")  # nothing is said for what is there already
        await page.locator("summary", has_text="Destroy").click()
        await page.locator("#reason-destroy").fill("not what I")
        await page.locator("#phase-times > summary").click()
        await page.locator("#reason-destroy").focus()
        await asyncio.to_thread(move, db, lease.id, State.PROVING, NOW)
        await expect(page.locator("h1 .badge")).to_have_text("checking")
        await expect(page.locator("#announce")).to_have_text("brave-otter-41 is having its machine checked.")
        assert await page.evaluate("document.activeElement.id") == "reason-destroy"
        await expect(page.locator("#reason-destroy")).to_have_value("not what I")
        assert await page.locator("#phase-times").get_attribute("open") is not None
        await asyncio.to_thread(nodes.append_log, db, lease.id, [(0, NOW, "boot", "<b>hello</b> from the node")])
        await expect(page.locator("#log .line")).to_have_text("12:16:05 boot <b>hello</b> from the node")
        await page.get_by_role("button", name="Pause updates").click()
        await asyncio.to_thread(move, db, lease.id, State.REGISTERING, NOW)
        await page.wait_for_timeout(200)
        await expect(page.locator("h1 .badge")).to_have_text("checking")
        await page.get_by_role("button", name="Resume updates").click()
        await expect(page.locator("h1 .badge")).to_have_text("registering")

    browser.play(story, cookies=fresh.cookies())


def test_a_list_updates_itself_and_keys_move_about(browser: Chromium, fresh: Shown) -> None:
    db = fresh.service.db
    live_to(db, 1, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=5), job=1)

    async def story(page: Page) -> None:
        await page.goto(f"{fresh.url}/leases")
        await expect(page.locator("a.row")).to_have_count(1)
        await page.keyboard.press("j")
        assert await page.evaluate("document.activeElement.textContent") == "brave-otter-41"
        await asyncio.to_thread(live_to, db, 2, "swift-hare-02", State.BOOTING, NOW)
        await page.keyboard.press("r")
        await expect(page.locator("a.row")).to_have_count(2)
        assert await page.evaluate("document.activeElement.textContent") == "brave-otter-41"
        await page.keyboard.press("?")
        await expect(page.locator("#keys")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.keyboard.press("/")
        await page.keyboard.type("hare j")
        await expect(page.locator("#filter")).to_have_value("hare j")
        await page.locator("h1").click()
        await page.keyboard.press("g")
        await page.keyboard.press("q")
        await page.wait_for_url("**/queue")

    browser.play(story, cookies=fresh.cookies())


def test_keys_can_be_switched_off(browser: Chromium, fresh: Shown) -> None:
    async def story(page: Page) -> None:
        await page.goto(f"{fresh.url}/leases")
        await page.keyboard.press("g")
        await page.keyboard.press("q")
        await page.wait_for_timeout(100)
        assert page.url.endswith("/leases")

    browser.play(story, cookies=fresh.cookies(keys="off"))


def test_a_lost_service_is_said_and_the_page_stays_readable(browser: Chromium, service: Service) -> None:
    lease = live_to(service.db, 1, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=5), job=1)
    assert lease.state is State.BUSY
    held = served(service.app)
    shown = Shown(service, held.__enter__())

    async def story(page: Page) -> None:
        await page.goto(f"{shown.url}/leases/brave-otter-41")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await asyncio.to_thread(held.__exit__, None, None, None)
        await expect(page.locator("#stale")).to_be_visible()
        await expect(page.locator("#stale")).to_contain_text("numbers may be old")
        await expect(page.locator("h1")).to_contain_text("brave-otter-41")

    browser.play(story, cookies=shown.cookies(), forgive=("ERR_", "Failed to load resource"))


def test_eight_tabs_all_load(browser: Chromium, fresh: Shown) -> None:
    """A browser has six connections to a host: tabs that nobody looks at give theirs back."""
    live_to(fresh.service.db, 1, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=5), job=1)

    async def story(page: Page) -> None:
        pages = [page, *[await page.context.new_page() for _ in range(7)]]
        for tab in pages:
            await tab.bring_to_front()
            await tab.goto(f"{fresh.url}/leases/brave-otter-41")
            # Headless Chromium calls every tab visible: say what a real window would.
            await tab.evaluate(
                """() => {
                  Object.defineProperty(document, "hidden", {value: true, configurable: true});
                  document.dispatchEvent(new Event("visibilitychange"));
                }"""
            )
        await expect(pages[-1].locator("h1")).to_contain_text("brave-otter-41")

    browser.play(story, cookies=fresh.cookies())


def test_the_forms_work_in_a_browser_without_any_script(browser: Chromium, fresh: Shown) -> None:
    db = fresh.service.db
    live_to(db, 1, "brave-otter-41", State.BUSY, NOW - timedelta(minutes=5), job=1)
    record(db, a_job(2), NOW)

    async def story(page: Page) -> None:
        await page.goto(fresh.url + fresh.service.login_path())
        await page.get_by_role("link", name="brave-otter-41").first.click()
        await page.locator("summary", has_text="Destroy").click()
        await page.locator("#reason-destroy").fill("wrong branch")
        await page.get_by_role("button", name="Destroy", exact=True).click()
        await expect(page.locator(".said")).to_contain_text("Asked to destroy")
        await page.locator("summary", has_text="admin").click()
        await page.get_by_role("button", name="Dark").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await page.locator("summary", has_text="admin").click()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.locator("h1")).to_have_text("Log in")

    browser.play(story, scripts=False)
    lease = lease_views.find(db, "brave-otter-41")
    assert lease is not None and lease.asked_text == "wrong branch"
