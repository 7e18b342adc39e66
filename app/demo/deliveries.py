"""The forge's outbox: every event signed, logged and sent like GitHub's, or spoiled on purpose by seeded faults."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx

from app.demo.nouns import Book, Delivery
from app.kit.clock import Clock

KEPT = 400  # attempts in the log; the oldest go first
REPLY_LIMIT = timedelta(seconds=10)  # GitHub's own: a later answer counts as a failure
USER_AGENT = "GitHub-Hookshot/d3m0f0r"


def sign(secret: str, body: bytes) -> str:
    """The value of X-Hub-Signature-256."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def body(delivery: Delivery) -> bytes:
    """The raw bytes that are signed and sent; the same for every attempt."""
    return json.dumps(delivery.payload, separators=(",", ":"), ensure_ascii=False).encode()


def headers(book: Book, delivery: Delivery, secret: str) -> dict[str, str]:
    return {
        "Accept": "*/*",
        "User-Agent": USER_AGENT,
        "Content-Type": "application/json",
        "X-GitHub-Event": delivery.event,
        "X-GitHub-Delivery": delivery.guid,
        "X-GitHub-Hook-ID": str(book.hook_id),
        "X-GitHub-Hook-Installation-Target-Type": "integration",
        "X-GitHub-Hook-Installation-Target-ID": str(book.app_id),
        "X-Hub-Signature-256": sign(secret, body(delivery)),
    }


@dataclass(frozen=True, slots=True)
class Receipt:
    """How one attempt ended."""

    status_code: int
    status: str = ""  # empty: made of the code, as GitHub does
    duration: float = 0.0  # seconds
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = ""


class Outbox:
    """Deliveries that wait, and the log of those that were tried. Pure: time and chance are passed in."""

    def __init__(self, book: Book, chance: random.Random) -> None:
        self._book = book
        self._chance = chance

    def add(
        self,
        event: str,
        payload: dict[str, Any],
        now: datetime,
        *,
        action: str | None = None,
        repository_id: int | None = None,
        installation_id: int | None = None,
    ) -> None:
        """A new event. Without a webhook there is no delivery; what the faults say happens to it is decided here."""
        book, faults = self._book, self._book.faults
        if not book.hook_url:
            return
        faults.counted += 1
        dice = random.Random(f"{faults.seed}:{faults.counted}")  # noqa: S311  faults are to be repeatable, not secret
        lost, failed, twice = dice.random() < faults.lose, dice.random() < faults.fail, dice.random() < faults.repeat
        late, overtaken = dice.random() < faults.delay, dice.random() < faults.reorder
        wait, behind = dice.uniform(*faults.delay_seconds[:2]), dice.randint(1, max(1, faults.reorder_window))
        made: list[Delivery] = []
        if not lost:
            one = Delivery(
                id=self._number(),
                guid=str(uuid.UUID(int=self._chance.getrandbits(128), version=4)),
                event=event,
                action=action,
                payload=payload,
                url=book.hook_url,
                due=now + timedelta(seconds=wait) if late else now,
                installation_id=installation_id,
                repository_id=repository_id,
            )
            if overtaken:
                one.behind, one.due = behind, now + timedelta(seconds=faults.reorder_seconds)
            if failed:
                self.record(one, Receipt(502, "failed to connect to host"), now)
            made.append(one)
            if twice and not failed:
                made.append(_copy(one, self._number(), one.due, redelivery=False))
        held = [one for one in book.deliveries if one.behind and one.delivered_at is None]
        book.deliveries.extend(made)
        for one in held:
            one.behind -= 1
            if not one.behind:  # enough later events were made: now it may follow them
                one.due = now
                book.deliveries.remove(one)
                book.deliveries.append(one)
        self._prune()

    def again(self, delivery_id: int, now: datetime) -> Delivery | None:
        """A redelivery that somebody asked for: a new attempt, the same GUID. None: no such delivery."""
        found = self.get(delivery_id)
        if found is None:
            return None
        attempt = _copy(found, self._number(), now, redelivery=True)
        attempt.url = self._book.hook_url or found.url
        self._book.deliveries.append(attempt)
        self._prune()
        return attempt

    def get(self, delivery_id: int) -> Delivery | None:
        return next((one for one in self._book.deliveries if one.id == delivery_id and one.delivered_at), None)

    def due(self, now: datetime) -> list[Delivery]:
        """Those to send now, in order."""
        waiting = [one for one in self._book.deliveries if one.delivered_at is None]
        return sorted((one for one in waiting if one.due <= now), key=lambda one: one.due)

    def next_due(self) -> datetime | None:
        return min((one.due for one in self._book.deliveries if one.delivered_at is None), default=None)

    def log(self) -> list[Delivery]:
        """Every attempt that was made, newest first."""
        tried = [one for one in self._book.deliveries if one.delivered_at]
        return sorted(tried, key=lambda one: (one.delivered_at or one.due, one.id), reverse=True)

    def record(self, delivery: Delivery, receipt: Receipt, now: datetime, sent: dict[str, str] | None = None) -> None:
        ok = 200 <= receipt.status_code < 300
        delivery.delivered_at = now
        delivery.status_code = receipt.status_code
        delivery.status = receipt.status or ("OK" if ok else f"Invalid HTTP Response: {receipt.status_code}")
        delivery.duration = receipt.duration
        delivery.request_headers = sent or {}
        delivery.response_headers = receipt.headers
        delivery.response_body = receipt.body

    def collect(self, now: datetime, secret: str) -> list[tuple[dict[str, str], bytes]]:
        """For tests without a network: headers and raw body of all that is due, each logged as delivered."""
        taken: list[tuple[dict[str, str], bytes]] = []
        for one in self.due(now):
            sent = headers(self._book, one, secret)
            taken.append((sent, body(one)))
            self.record(one, Receipt(202), now, sent)
        return taken

    def _number(self) -> int:
        self._book.counter += 1
        return self._book.counter

    def _prune(self) -> None:
        tried = [one for one in self._book.deliveries if one.delivered_at]
        for one in tried[: max(0, len(tried) - KEPT)]:
            self._book.deliveries.remove(one)


def _copy(one: Delivery, number: int, due: datetime, *, redelivery: bool) -> Delivery:
    return Delivery(
        id=number,
        guid=one.guid,
        event=one.event,
        action=one.action,
        payload=one.payload,
        url=one.url,
        due=due,
        installation_id=one.installation_id,
        repository_id=one.repository_id,
        redelivery=redelivery,
    )


class Postman:
    """Sends what is due over real HTTP. One try each: GitHub does not repeat a failed delivery by itself."""

    def __init__(self, book: Book, outbox: Outbox, secret: str, clock: Clock, kept: Callable[[], None]) -> None:
        self._book = book
        self._outbox = outbox
        self._secret = secret
        self._clock = clock
        self._kept = kept  # called after each receipt, to write it down

    async def work(self, rung: Callable[[float], Any]) -> None:
        """Send for ever. `rung(seconds)` waits until something happens, or the time is over."""
        async with httpx.AsyncClient(timeout=REPLY_LIMIT.total_seconds(), trust_env=False) as client:
            while True:
                due = self._outbox.due(self._clock.now())
                if not due:
                    await rung(0.5 if self._outbox.next_due() else 5.0)
                    continue
                batch = due[: max(1, self._book.faults.parallel)]
                await asyncio.gather(*(self._send(client, one) for one in batch))

    async def _send(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        sent = headers(self._book, delivery, self._secret)
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(REPLY_LIMIT.total_seconds()):
                reply = await client.post(delivery.url, content=body(delivery), headers=sent)
            receipt = Receipt(
                reply.status_code,
                duration=self._clock.monotonic() - began,
                headers=dict(reply.headers),
                body=reply.text[:4096],
            )
        except (TimeoutError, httpx.TimeoutException):
            receipt = Receipt(504, "timed out", duration=self._clock.monotonic() - began)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            receipt = Receipt(502, f"failed to connect to host: {type(error).__name__}"[:80])
        self._outbox.record(delivery, receipt, self._clock.now(), sent)
        self._kept()
