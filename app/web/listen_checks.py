"""The doctor's checks of how each forge's news come: by which way and how late, its last poll and redelivery, and its pace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

from app.core.listening import Listening
from app.forges.contract import Forge, Pace
from app.kit.telemetry import logger
from app.store import hearing, polls
from app.store.hearing import Lately
from app.store.polls import Round
from app.web.hearing import FIND, SLOWER, news_of
from app.web.parts import WebParts
from app.web.schema import Check, check
from app.web.words import duration

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for the database's answer."""
ROUNDS = 3
"""Rounds in a row, at the slow pace, that may be missed; after that nobody looks any more."""
LATE = timedelta(minutes=2)
"""At least; a short period must not make an alarm of every pause."""
USUAL = timedelta(minutes=5)
"""The period of what is looked for where a forge has none of its own: silent jobs, and deliveries that got lost."""
GLOB = "*?["
PACES = {
    Pace.FREE: "",
    Pace.SLOW: " Less than half of the forge's quota is left: it is asked a third as often.",
    Pace.STOP: " Most of the forge's quota is gone: it is not asked until more is there.",
}


async def listen_checks(parts: WebParts) -> list[Check]:
    """Two checks for each forge: how its news come, and when it was last asked; none if the database does not answer."""
    now = parts.clock.now()
    hears = {name: listening_of(parts, name) for name in sorted(parts.forges)}
    polled = [name for name, how in hears.items() if how.polled_only]
    try:
        async with asyncio.timeout(PATIENCE):
            found = {one.name: one for one in await parts.lane(polls.rounds, parts.db)}
            lately = await parts.lane(hearing.lately, parts.db, polled, now)
    except Exception as error:  # noqa: BLE001  the database's own check says so
        log.error("rounds not read", error=f"{type(error).__name__}: {error}")
        return []
    checks: list[Check] = []
    for name, how in hears.items():
        forge = parts.forges[name]
        pace = forge.pace()
        checks.append(_intake(parts, forge, how, pace, lately.get(name)))
        checks.append(_listening(forge, how, pace, found, now))
    return checks


def listening_of(parts: WebParts, forge: str) -> Listening:
    """How a forge's news come; where nobody said, by both ways."""
    return parts.listening.get(forge) or Listening()


def _intake(parts: WebParts, forge: Forge, hears: Listening, pace: Pace, lately: Lately | None) -> Check:
    by_pattern = any(sign in rule.match for rule in parts.repositories for sign in GLOB)
    found_in = FIND if by_pattern and not forge.wide else None
    text = news_of(hears, pace, lately, found_in=found_in)[:500]
    deaf = hears.polled_only and (hears.poll is None or pace is Pace.STOP)
    fix = "Nothing to do at once; if it stays so, raise its `poll_seconds`." if deaf else ""
    return check(f"intake {forge.name}"[:100], "warn" if deaf else "ok", text, fix)


def _kinds(hears: Listening) -> Mapping[str, tuple[str, timedelta]]:
    """What is looked for at such a forge: in words, and after which time without a look somebody is to be told."""
    rest = hears.poll or USUAL
    kinds = {"poll": ("Silent jobs" if hears.poll is None else "Open jobs", max(ROUNDS * SLOWER * rest, LATE))}
    if hears.webhooks:
        kinds["redeliver"] = ("Lost deliveries", ROUNDS * SLOWER * USUAL)
    return kinds


def _listening(forge: Forge, hears: Listening, pace: Pace, found: Mapping[str, Round], now: datetime) -> Check:
    title = f"listening {forge.name}"[:100]
    last = ((words, late, found.get(f"{kind} {forge.name}")) for kind, (words, late) in _kinds(hears).items())
    rounds = [(words, late, one) for words, late, one in last if one is not None]
    if not rounds:
        return check(title, "skip", "Nothing was looked for yet; the engine does it within a minute of its start.")
    told = [f"{words}: {_age(one, now)} {one.said}".strip() for words, _, one in rounds]
    text = (" ".join(told) + PACES[pace])[:500]
    if any(one.said.startswith("Refused") for _, _, one in rounds):
        still = "webhooks still come" if hears.webhooks else "until then no job of it is heard of"
        return check(title, "warn", text, f"Give the App or token the rights that the forge's page lists; {still}.")
    if pace is Pace.STOP or any(one.said.startswith(("Broken off", "Failed")) for _, _, one in rounds):
        more = "spread the calls over more Apps" if forge.kind == "github" else "raise its `poll_seconds`"
        return check(title, "warn", text, f"Nothing to do at once; if it stays so, {more}.")
    if any(one.at is None or now - one.at > late for _, late, one in rounds):
        return check(title, "warn", text, "Look whether an engine is at work.")
    return check(title, "ok", text)


def _age(one: Round, now: datetime) -> str:
    return "never looked for." if one.at is None else f"looked for {duration(max(now - one.at, timedelta(0)))} ago."
