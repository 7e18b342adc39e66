"""The doctor's checks of what is looked for beyond webhooks: each forge's last poll, last redelivery and pace."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from app.forges.contract import Pace
from app.kit.telemetry import logger
from app.store import polls
from app.store.polls import Round
from app.web.parts import WebParts
from app.web.schema import Check, check
from app.web.words import duration

log = logger(__name__)

PATIENCE = 10.0
"""Seconds for the database's answer."""
LATE = timedelta(minutes=45)
"""Three rounds at a third of the usual pace; after that nobody looks for what webhooks miss."""
PACES = {
    Pace.FREE: "",
    Pace.SLOW: " Less than half of the forge's quota is left: it is asked a third as often.",
    Pace.STOP: " Most of the forge's quota is gone: it is not asked until more is there.",
}


async def listen_checks(parts: WebParts) -> list[Check]:
    """One check for each forge; none if the database does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = {one.name: one for one in await parts.lane(polls.rounds, parts.db)}
    except Exception as error:  # noqa: BLE001  the database's own check says so
        log.error("rounds not read", error=f"{type(error).__name__}: {error}")
        return []
    now = parts.clock.now()
    return [_listening(name, forge.pace(), found, now) for name, forge in sorted(parts.forges.items())]


def _listening(name: str, pace: Pace, found: dict[str, Round], now: datetime) -> Check:
    title, kinds = f"listening {name}"[:100], (("poll", "Open jobs"), ("redeliver", "Lost deliveries"))
    rounds = [(words, found.get(f"{kind} {name}")) for kind, words in kinds]
    told = [f"{words}: {_age(one, now)} {one.said}".strip() for words, one in rounds if one is not None]
    if not told:
        return check(title, "skip", "Nothing was looked for yet; the engine does it within a minute of its start.")
    text = (" ".join(told) + PACES[pace])[:500]
    last = [one for _, one in rounds if one is not None]
    if any(one.said.startswith("Refused") for one in last):
        return check(title, "warn", text, "Give the App or token the rights that the forge's page lists; webhooks still come.")
    if pace is Pace.STOP or any(one.said.startswith(("Broken off", "Failed")) for one in last):
        return check(title, "warn", text, "Nothing to do at once; if it stays so, spread the calls over more Apps.")
    if any(one.at is None or now - one.at > LATE for one in last):
        return check(title, "warn", text, "Look whether an engine is at work.")
    return check(title, "ok", text)


def _age(one: Round, now: datetime) -> str:
    return "never looked for." if one.at is None else f"looked for {duration(max(now - one.at, timedelta(0)))} ago."
