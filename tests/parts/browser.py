"""A real browser for tests: Debian's Chromium, driven from a thread of its own, so that any kind of test may use it."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, async_playwright

from tests.parts import lacks

REMEDY = "install chromium (Debian: apt-get install chromium)"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage")
PATIENCE = 240.0
"""Seconds for one story, and for the browser to start, on a machine that does ten other things."""
WATCH = """
addEventListener("securitypolicyviolation", (event) => {
  console.error(`violates the policy: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`);
});
"""

Story = Callable[[Page], Awaitable[None]]
Theme = Literal["light", "dark"]


@dataclass
class Seen:
    """What went wrong while a story was played: errors in the console, broken rules of the CSP, dialogs, failed requests."""

    troubles: list[str] = field(default_factory=list[str])

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.troubles.append(f"console: {message.text} ({message.location.get('url', '')})")

    async def _dialog(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        await dialog.dismiss()


class Chromium:
    """The browser, and the loop that drives it."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._loop = asyncio.new_event_loop()
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._browser: Browser | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="browser", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait(PATIENCE)
        if self._browser is None:
            raise RuntimeError(f"{self._program} does not start") from self._failure

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # told by `start`, in the thread that waits
            self._failure = error
        finally:
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=self._program, args=FLAGS)
            try:
                self._browser = browser
                self._ready.set()
                await self._over.wait()
            finally:
                await browser.close()

    def play(
        self,
        story: Story,
        *,
        width: int = 1280,
        height: int = 900,
        theme: Theme = "light",
        scripts: bool = True,
        cookies: Sequence[Mapping[str, Any]] = (),
        forgive: Sequence[str] = (),
    ) -> None:
        """Play the story in a fresh window. Fails on any console error, CSP violation or dialog that is not forgiven."""
        future = asyncio.run_coroutine_threadsafe(
            self._play(story, width, height, theme, scripts, cookies, forgive), self._loop
        )
        future.result(PATIENCE)

    async def _play(
        self,
        story: Story,
        width: int,
        height: int,
        theme: Theme,
        scripts: bool,
        cookies: Sequence[Mapping[str, Any]],
        forgive: Sequence[str],
    ) -> None:
        assert self._browser is not None
        context: BrowserContext = await self._browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, java_script_enabled=scripts, locale="en-GB"
        )
        seen = Seen()
        try:
            await context.add_init_script(WATCH)
            if cookies:
                await context.add_cookies([dict(cookie) for cookie in cookies])  # pyright: ignore[reportArgumentType]
            page = await context.new_page()
            page.set_default_timeout(60_000)
            seen.watch(page)
            await story(page)
        finally:
            await context.close()
        troubles = [trouble for trouble in seen.troubles if not any(piece in trouble for piece in forgive)]
        assert troubles == []


@pytest.fixture(scope="session")
def browser() -> Generator[Chromium]:
    """Chromium, started once for all tests of this worker."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        lacks("Chromium", REMEDY)
    chromium = Chromium(program)
    chromium.start()
    yield chromium
    chromium.stop()
