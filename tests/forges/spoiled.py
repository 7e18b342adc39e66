"""What benches put in the way of every request to a fake on loopback."""

from __future__ import annotations

import atexit
from typing import Any

from app.forges.conformance import Fault
from tests.fakes import loopback
from tests.fakes.loopback import Loopback, Reply, Request

ALWAYS = 1_000_000
PAUSE = 60  # seconds that the forge wants to be left alone


class Elsewhere:
    """Another host, to which a forge may send us. It takes whatever comes, and counts it."""

    def __init__(self) -> None:
        self._server = Loopback(lambda _: Reply(200, {}))

    @property
    def address(self) -> str:
        """Served from the first question on, to the end of the process."""
        try:
            return f"{self._server.url}/elsewhere"
        except AssertionError:
            self._server.start()
            atexit.register(self._server.stop)
            return f"{self._server.url}/elsewhere"

    @property
    def count(self) -> int:
        return len(self._server.requests)


ELSEWHERE = Elsewhere()


def reply_for(fault: Fault, slow_down: Any) -> Reply:
    """What every request is answered with. `slow_down` is the body by which this forge asks to be left alone."""
    match fault:
        case Fault.SERVER_ERROR:
            return Reply(500, {"message": "something went wrong"})
        case Fault.GARBAGE:
            return Reply(200, raw=b"<html>a proxy's own page</html>")
        case Fault.REDIRECT:
            return Reply(302, None, {"Location": ELSEWHERE.address})
        case Fault.RUDE:
            return Reply(400, {"message": "\x1b[31mno\r\nX-Evil: \u202e" + "no " * 50_000})
        case Fault.RATE_LIMITED:
            return Reply(429, slow_down, {"Retry-After": str(PAUSE)})
        case Fault.TOKEN_EXPIRED:
            return Reply(401, {"message": "Unauthorized"})
        case _:
            raise AssertionError(fault)


def spoil(fault: Fault, slow_down: Any) -> loopback.Fault:
    """The same, as a fault of the loopback server."""
    if fault is Fault.DOWN:
        return loopback.Fault(times=ALWAYS, hang_up=True)
    return loopback.Fault(times=ALWAYS, reply=reply_for(fault, slow_down))


class OnlyFirstPages(loopback.Fault):
    """Every page of a listing but the first fails."""

    def fits(self, request: Request) -> bool:
        return bool(request.query.get("cursor")) or request.query.get("page", "1") != "1"

    def __post_init__(self) -> None:
        self.reply = Reply(502, {"message": "a page of the listing is not to be had"})
