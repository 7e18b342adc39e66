"""Every page in a real browser: it fits its window, no console error, no broken rule of the CSP, no finding of axe; pictures.

Each page is loaded once and then shown wide and narrow, light and dark: what differs is decided by the stylesheet alone.
`SUBLET_SHOTS=FOLDER` keeps a picture of each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

from tests.parts.browser import Chromium, Theme
from tests.web.conftest import Shown, serve
from tests.web.market_story import CHECKS, MAKES, TRAITS, market_place
from tests.web.polled_story import PARTS, quiet_network
from tests.web.story import bad_day

SIZES: Mapping[str, tuple[int, Theme]] = {
    "wide-light": (1280, "light"),
    "wide-dark": (1280, "dark"),
    "narrow-dark": (390, "dark"),
    "narrow-light": (390, "light"),
}
HEIGHT = 900
WHOLE: Mapping[str, Any] = {
    "type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}  # fmt: skip
RULES: Mapping[str, Mapping[str, Any]] = {
    "wide-light": WHOLE,
    "wide-dark": {"type": "rule", "values": ["color-contrast"]},
    "narrow-dark": {"type": "rule", "values": ["target-size", "scrollable-region-focusable"]},
    "narrow-light": {},
}
"""What axe looks for: everything once, then what another theme or width can break."""
Axe = Literal["none", "once", "everywhere"]


@dataclass(frozen=True)
class Look:
    """One page, and how much of it is looked at."""

    path: str
    axe: Axe = "once"  # pages of one kind share their templates and colours: it takes longer than all the rest
    click: str = ""  # the text of what is opened first


AFTERNOON: Mapping[str, Look] = {
    "overview": Look("/", axe="everywhere"),
    "queue": Look("/queue", axe="everywhere"),
    "queue-started": Look("/queue?tab=started", axe="none"),
    "queue-not-ours": Look("/queue?tab=not_ours", axe="none"),
    "leases": Look("/leases"),
    "leases-past": Look("/leases?which=past", axe="none"),
    "leases-filter": Look("/leases?which=all&text=nothing-like-this"),
    "lease-running": Look("/leases/brave-otter-41", axe="everywhere"),
    "lease-booting": Look("/leases/swift-hare-02", axe="none"),
    "lease-planned": Look("/leases/bold-newt-55"),
    "lease-gone": Look("/leases/keen-stoat-64"),
    "lease-failed": Look("/leases/dull-crow-90"),
    "health": Look("/health-page"),
    "offers-none": Look("/offers"),
    "docs": Look("/docs", axe="everywhere", click="/api/v1/leases/{ref}/drain"),
    "missing": Look("/leases/no-such-99"),
    "login": Look("/login"),
}
MARKET: Mapping[str, Look] = {
    "offers": Look("/offers?gpu=rubin", axe="everywhere", click="Show numbers"),
    "offers-all": Look("/offers?all=true"),
    "offers-filter": Look("/offers?provider=lab"),
    "provider": Look("/providers/cloud-a", axe="everywhere", click="Pause…"),
    "provider-away": Look("/providers/cloud-b", axe="none"),
    "provider-paused": Look("/providers/cloud-c", click="Resume…"),
    "failover-overview": Look("/", axe="none"),
    "failover-queue": Look("/queue"),
    "failover-started": Look("/queue?tab=started", axe="none"),
    "failover-lease": Look("/leases/proud-lynx-20", axe="everywhere"),
}
BAD_DAY: Mapping[str, Look] = {
    "leaks-overview": Look("/"),
    "leaks-health": Look("/health-page", axe="everywhere", click="Let these 5 go"),
}
QUIET: Mapping[str, Look] = {
    "polled-queue": Look("/queue", axe="everywhere"),
    "polled-lease": Look("/leases/brave-otter-41"),
    "polled-refused": Look("/leases/dull-crow-90"),
    "polled-health": Look("/health-page"),
}
NOBODY: Mapping[str, Look] = {"polled-queue-none": Look("/queue"), "polled-overview-none": Look("/", axe="none")}


async def violations(page: Page, rules: Mapping[str, Any]) -> list[str]:
    """What axe finds and nobody should ship."""
    results: dict[str, Any] = await page.evaluate("rules => axe.run({runOnly: rules, resultTypes: ['violations']})", rules)
    return [
        f"{finding['id']} ({finding['impact']}): {finding['help']}: "
        + " | ".join(f"{node['html'][:200]} {node['failureSummary'][-200:]}" for node in finding["nodes"][:3])
        for finding in results["violations"]
        if finding["impact"] in ("moderate", "serious", "critical")
    ]


async def looked_at(page: Page, name: str, look: Look, url: str, shots: Path | None) -> list[str]:
    """What is wrong with one page, in any size and theme."""
    found: list[str] = []
    await page.goto(url + look.path, wait_until="load")
    if look.click:
        await page.locator("summary", has_text=look.click).first.click()
    if look.axe != "none":
        await page.evaluate(AXE_SCRIPT)
    for size, (width, theme) in SIZES.items():
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        await page.emulate_media(color_scheme=theme)
        over = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if over > 0:
            found.append(f"{name}-{size}: {over} px too wide")
        if RULES[size] and (look.axe == "everywhere" or (look.axe == "once" and RULES[size] is WHOLE)):
            found.extend(f"{name}-{size}: {finding}" for finding in await violations(page, RULES[size]))
        if shots is not None:
            await page.screenshot(path=shots / f"{name}-{size}.png", full_page=True)
    return found


@pytest.fixture(scope="module")
def shots() -> Path | None:
    """Where the pictures go, if anybody wants them."""
    if "SUBLET_SHOTS" not in os.environ:
        return None
    folder = Path(os.environ["SUBLET_SHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def leaking(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A bad day: a destroy that is stuck, and a sweep that waits for a person."""
    yield from serve(sqlite_template, tmp_path_factory.mktemp("leaking"), bad_day)


@pytest.fixture(scope="module")
def trading(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A market: offers and their history, providers in every state, and three that said no."""
    given = {"providers": CHECKS, "traits": TRAITS, "makes": MAKES}
    yield from serve(sqlite_template, tmp_path_factory.mktemp("trading"), market_place, **given)


@pytest.fixture(scope="module")
def quiet(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """A site where one forge is polled and the other sends webhooks."""
    yield from serve(sqlite_template, tmp_path_factory.mktemp("quiet"), quiet_network, **PARTS)


@pytest.fixture(scope="module")
def untouched(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """The same on its first morning: nothing has come yet."""
    yield from serve(sqlite_template, tmp_path_factory.mktemp("untouched"), lambda _: None, **PARTS)


def show(browser: Chromium, shown: Shown, pages: Mapping[str, Look], shots: Path | None) -> None:
    """All of these pages, one after another in one window."""
    found: list[str] = []

    async def story(page: Page) -> None:
        for name, look in pages.items():
            if name == "login":
                await page.goto("about:blank")  # a page that is open would find itself logged out
                await page.context.clear_cookies()
            found.extend(await looked_at(page, name, look, shown.url, shots))

    browser.play(story, cookies=shown.cookies(), forgive=("404 (Not Found)",))
    assert found == []


def test_every_page_can_be_shown_to_a_customer(browser: Chromium, shown: Shown, shots: Path | None) -> None:
    show(browser, shown, AFTERNOON, shots)


def test_the_market_and_a_failover_can_be_read(browser: Chromium, trading: Shown, shots: Path | None) -> None:
    show(browser, trading, MARKET, shots)


def test_a_bad_day_can_be_read_and_answered(browser: Chromium, leaking: Shown, shots: Path | None) -> None:
    show(browser, leaking, BAD_DAY, shots)


def test_what_polling_costs_can_be_read(browser: Chromium, quiet: Shown, shots: Path | None) -> None:
    show(browser, quiet, QUIET, shots)


def test_the_first_morning_says_how_jobs_will_come(browser: Chromium, untouched: Shown, shots: Path | None) -> None:
    show(browser, untouched, NOBODY, shots)
