"""Every page in a real browser: pictures, no console error, no broken rule of the CSP, no serious finding of axe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

from tests.parts.browser import Chromium, Theme
from tests.web.conftest import Shown, serve
from tests.web.story import bad_day

PAGES = {
    "overview": "/",
    "queue": "/queue",
    "queue-started": "/queue?tab=started",
    "queue-not-ours": "/queue?tab=not_ours",
    "leases": "/leases",
    "leases-past": "/leases?which=past",
    "leases-filter": "/leases?which=all&text=nothing-like-this",
    "lease-running": "/leases/brave-otter-41",
    "lease-booting": "/leases/swift-hare-02",
    "lease-planned": "/leases/bold-newt-55",
    "lease-gone": "/leases/keen-stoat-64",
    "lease-failed": "/leases/dull-crow-90",
    "health": "/health-page",
    "docs": "/docs",
    "missing": "/leases/no-such-99",
    "login": "/login",
}
SIZES: dict[str, tuple[int, Theme]] = {
    "wide-light": (1280, "light"),
    "wide-dark": (1280, "dark"),
    "narrow-light": (390, "light"),
    "narrow-dark": (390, "dark"),
}
LOOKED_AT = {
    "wide-light": tuple(name for name in PAGES if name not in ("queue-started", "leases-past", "lease-failed")),
    "wide-dark": ("overview", "queue", "leases-past", "lease-running", "lease-failed", "health"),
    "narrow-light": ("overview", "queue", "leases", "lease-running", "docs"),
    "narrow-dark": (),
}
"""Where axe looks: it takes longer than all the rest, and pages of one kind share their templates."""
AXE: dict[str, Any] = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}


async def violations(page: Page) -> list[str]:
    """What axe finds and nobody should ship."""
    await page.evaluate(AXE_SCRIPT)
    results: dict[str, Any] = await page.evaluate("options => axe.run(options)", AXE)
    return [
        f"{finding['id']} ({finding['impact']}): {finding['help']}: "
        + " | ".join(f"{node['html'][:200]} {node['failureSummary'][-200:]}" for node in finding["nodes"][:3])
        for finding in results["violations"]
        if finding["impact"] in ("moderate", "serious", "critical")
    ]


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go: SUBLET_SHOTS, or a folder of this run."""
    folder = Path(os.environ["SUBLET_SHOTS"]) if "SUBLET_SHOTS" in os.environ else tmp_path_factory.mktemp("shots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def leaking(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A bad day: a destroy that is stuck, and a sweep that waits for a person."""
    yield from serve(sqlite_template, tmp_path_factory.mktemp("leaking"), bad_day)


@pytest.mark.parametrize("size", ["wide-light", "narrow-dark"])
def test_a_bad_day_can_be_read_and_answered(browser: Chromium, leaking: Shown, shots: Path, size: str) -> None:
    width, theme = SIZES[size]
    found: list[str] = []

    async def story(page: Page) -> None:
        for name, path in (("leaks-overview", "/"), ("leaks-health", "/health-page")):
            await page.goto(leaking.url + path, wait_until="load")
            if name == "leaks-health":
                await page.get_by_text("Let these 5 go").click()
            await page.screenshot(path=shots / f"{name}-{size}.png", full_page=True)
            over = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if over > 0:
                found.append(f"{name}: {over} px too wide")
            found.extend(f"{name}: {finding}" for finding in await violations(page))

    browser.play(story, width=width, theme=theme, cookies=leaking.cookies())
    assert found == []


@pytest.mark.parametrize("size", SIZES)
def test_every_page_can_be_shown_to_a_customer(browser: Chromium, shown: Shown, shots: Path, size: str) -> None:
    width, theme = SIZES[size]
    found: list[str] = []

    async def story(page: Page) -> None:
        for name, path in PAGES.items():
            if name == "login":
                await page.goto("about:blank")  # a page that is open would find itself logged out
                await page.context.clear_cookies()
            await page.goto(shown.url + path, wait_until="load")
            if name == "docs":
                await page.locator("details.operation").nth(5).locator("summary").click()
            await page.screenshot(path=shots / f"{name}-{size}.png", full_page=True)
            over = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if over > 0:
                found.append(f"{name}: {over} px too wide")
            if name in LOOKED_AT[size]:
                found.extend(f"{name}: {finding}" for finding in await violations(page))

    browser.play(story, width=width, theme=theme, cookies=shown.cookies(), forgive=("404 (Not Found)",))
    assert found == []
