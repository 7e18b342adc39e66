"""Carries events and log lines to the service, in order, and keeps trying while it is away."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable

from . import journal
from .wire import Away, Wire

SLOWEST = 10.0
GATHERING = 0.3
"""Seconds between two uploads of log lines that trickle in."""


class Courier:
    """One thread. Events go before log lines, for leases move by them."""

    def __init__(self, wire: Wire, log: journal.Journal, over: Callable[[str], None]) -> None:
        self._wire, self._log, self._over = wire, log, over
        self._events: deque[dict[str, Any]] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def event(self, kind: str, moment: float, **data: Any) -> None:
        self._events.append({"kind": kind, "at": self._wire.time.at(moment), "data": data})
        self._wake.set()

    def close(self, patience: float) -> None:
        """Sends what is left, for at most so many seconds."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(patience)

    def _work(self) -> None:
        pause = 0.0
        while True:
            try:
                more = self._one()
                pause = GATHERING
            except Away as away:
                more, pause = False, max(away.wait, min(max(pause, GATHERING) * 2, SLOWEST))
            if self._closing.is_set():
                if not self._events and self._log.empty:
                    return
                more, pause = more or pause == GATHERING, GATHERING
            if not more:
                self._wake.wait(pause)
                self._wake.clear()

    def _one(self) -> bool:
        """Sends one thing. True: there is more that should go at once. Raises `Away`."""
        if self._events:
            answer = self._wire.post("/node/event", self._events[0])
            self._events.popleft()
            more = True
        else:
            lines = self._log.batch()
            if not lines:
                return False
            answer = self._wire.post("/node/log", journal.upload(lines, self._wire.time.at))
            self._log.sent(lines)  # also when refused: a line that the service will not have must not block the others
            more = len(lines) >= journal.BATCH_LINES
        if answer.final:
            self._over("the service says that this session is over")
        return more
