"""Trouble on the wire: a transport that loses, replaces or breaks the answers of chosen requests."""

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

Match = Callable[[httpx.Request], bool]


@dataclass
class Trip:
    match: Match
    answer: httpx.Response | None  # None: the reply is lost
    reaches: bool  # whether the request has its effect first
    times: int = 1


@dataclass
class TrippingTransport(httpx.AsyncBaseTransport):
    """Passes everything on to a real transport, except what it was told to trip over."""

    real: httpx.AsyncBaseTransport
    trips: list[Trip] = field(default_factory=list[Trip])
    seen: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def trip(self, match: Match, answer: httpx.Response | None = None, *, reaches: bool = False, times: int = 1) -> None:
        self.trips.append(Trip(match, answer, reaches, times))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.url.path))
        for trip in self.trips:
            if trip.times > 0 and trip.match(request):
                trip.times -= 1
                if trip.reaches:
                    response = await self.real.handle_async_request(request)
                    await response.aread()
                    await response.aclose()
                if trip.answer is None:
                    raise httpx.ReadTimeout("the reply is lost", request=request)
                return httpx.Response(trip.answer.status_code, headers=trip.answer.headers, content=trip.answer.content)
        return await self.real.handle_async_request(request)

    async def aclose(self) -> None:
        await self.real.aclose()
