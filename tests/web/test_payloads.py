"""Strings of strangers in every field, drawn by a real browser: text stays text, and nothing of theirs runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from app.core.model import JobState, Reason
from app.core.states import State
from app.kit.threads import ThreadLane
from app.store import leases, nodes
from app.store.db import Database
from app.web.pages import linked
from tests.fakes.served import served
from tests.parts.browser import Chromium
from tests.web.conftest import Shown, build_service, pool
from tests.web.story import DECISION, FACTS, NOW, OFFER, a_job, move, plan, record, verdict

PAYLOADS = (
    '<script>alert("s")</script>',
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "</textarea></title><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}${alert(1)}",
    "javascript:alert(1)",
    '<iframe srcdoc="<script>alert(1)</script>">',
    '<a href="javascript:alert(1)">brave-otter-41</a>',
    "\u202egnp.exe\u202c \u0000 \x1b[31m &lt;b&gt; `<i>x</i>`",
    "<" * 200 + "A" * 400,
)
ALL = " ".join(PAYLOADS)


def evil_story(db: Database) -> None:
    """A lease, its job, its machine and its log, all of them written by somebody who means harm."""
    name = "evil-mole-13"
    bad = f"{ALL} {name}"
    values: dict[str, Any] = {
        "name": ALL, "workflow": ALL, "branch": ALL, "actor": ALL, "labels": PAYLOADS, "sha": "<b>", "url": PAYLOADS[5],
    }  # fmt: skip
    began = NOW - timedelta(minutes=4)
    lease = plan(db, 1, name, began, note=bad)
    offer = {**OFFER, "id": PAYLOADS[1], "title": ALL, "gpu": PAYLOADS[0], "region": PAYLOADS[1]}
    decision = {
        **DECISION,
        "chosen": {"provider": "cloud-a", "offer": PAYLOADS[0].lower().replace(" ", "-")},
        "verdicts": [
            verdict("cloud-a", text, text, "1.00", "" if place < 2 else text, text) for place, text in enumerate(PAYLOADS)
        ],
        "rejected": dict.fromkeys(PAYLOADS, 1),
    }
    steps: tuple[tuple[State, dict[str, Any]], ...] = (
        (State.LAUNCHING, {"provider": PAYLOADS[1], "region": PAYLOADS[0], "offer": offer, "decision": decision,
                           "price_per_hour": 1, "asked_at": began, "hard_end": NOW + timedelta(hours=1),
                           "runner_name": f"sublet-{name}"}),
        (State.BOOTING, {"instance_id": ALL}),
        (State.PROVING, {"facts": {key: ALL if isinstance(value, str) else value for key, value in FACTS.items()}
                         | {"gpus": [{"name": ALL, "memory_mib": 1, "architecture": ALL}]}}),
        (State.REGISTERING, {}),
        (State.IDLE, {"runner_id": ALL}),
        (State.BUSY, {"note": bad}),
    )  # fmt: skip
    for step, written in steps:
        move(db, lease.id, step, began, **written)
    record(db, a_job(1, JobState.IN_PROGRESS, runner_name=f"sublet-{name}", started_at=began, queued_at=began, **values), began)
    for number, kind in ((2, {"wait": bad}), (3, {"pool": None, "not_ours": bad})):
        record(db, a_job(number, queued_at=began, **values), began, **kind)  # pyright: ignore[reportArgumentType]
    nodes.append_log(db, lease.id, [(place, NOW, text[:20], text) for place, text in enumerate(PAYLOADS)])
    leases.ask(db, lease.id, "drain", Reason.OPERATOR, ALL, PAYLOADS[1], NOW)


@pytest.fixture(scope="module")
def evil(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("evil")
    shutil.copyfile(sqlite_template, folder / "sublet.db")
    opened, threads = Database(f"sqlite:///{folder / 'sublet.db'}"), ThreadLane("store", 4)
    service = build_service(opened, folder, threads, pools={"rubin": pool(note=ALL)})
    evil_story(opened)
    with served(service.app) as url:
        yield Shown(service, url)
    threads.close()
    opened.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_of_a_stranger_runs_and_no_page_bursts(browser: Chromium, evil: Shown, width: int) -> None:
    async def story(page: Page) -> None:
        for path in (
            "/", "/queue", "/queue?tab=started", "/queue?tab=not_ours", "/leases?which=all", "/leases/evil-mole-13",
            "/leases?text=%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", "/leases/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
            "/health-page", "/login?once=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        ):  # fmt: skip
            await page.goto(evil.url + path, wait_until="load")
            strange = await page.evaluate(
                """() => [...document.querySelectorAll("*")].filter((one) =>
                  ["IMG", "IFRAME", "OBJECT", "EMBED", "BASE", "STYLE"].includes(one.tagName)
                  || one.getAttributeNames().some((name) => name.startsWith("on") || name === "style")
                  || (one.href && String(one.href.baseVal ?? one.href).startsWith("javascript:"))
                  || (one.tagName === "SCRIPT" && !one.src.includes("/static/"))).map((one) => one.outerHTML.slice(0, 200))"""
            )
            assert strange == [], path
            assert not set(await page.inner_text("body")) & set("\u202e\u202c\x1b"), f"{path} can be turned round"
            wide = await page.evaluate(
                """() => document.documentElement.scrollWidth <= document.documentElement.clientWidth ? [] :
                  [...document.querySelectorAll("main *")].filter((one) => one.getBoundingClientRect().right > innerWidth)
                    .slice(-3).map((one) => one.outerHTML.slice(0, 160))"""
            )
            if "SUBLET_SHOTS" in os.environ:
                name = "".join(char if char.isalnum() else "-" for char in path)[:40]
                await page.screenshot(path=Path(os.environ["SUBLET_SHOTS"]) / f"evil{name}-{width}.png", full_page=True)
            assert wide == [], path
        await page.goto(f"{evil.url}/leases/evil-mole-13")
        await expect(page.locator("#live")).to_have_attribute("data-state", "live")
        await expect(page.locator("#log")).to_contain_text('<script>alert("s")</script>')
        await expect(page.locator(".asked")).to_contain_text("<img src=x onerror=alert(1)>")

    browser.play(story, width=width, cookies=evil.cookies(), forgive=("404 (Not Found)",))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_sentences_are_escaped_before_names_become_links(payload: str) -> None:
    html = str(linked(f"{payload} brave-otter-41 `{payload}`", {"brave-otter-41"}))
    assert "<script" not in html and "<img" not in html and "<svg" not in html and "<iframe" not in html
    assert '<a href="/leases/brave-otter-41">brave-otter-41</a>' in html
