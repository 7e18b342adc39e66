"""What benches of vendors share: a clock moved by hand, providers that are closed in the end, and a stand-in that is judged."""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import parse_qsl

import httpx

from providers.contract import Provider
from tests.providers.benches import ManualClock
from tests.providers.vendor_spec import Spec

P = TypeVar("P", bound=Provider)
S = TypeVar("S", bound="Stand[Any]")


class Stand(Generic[P]):
    """The part of a bench that is the same for every vendor."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self._providers: list[P] = []

    def kept(self, provider: P) -> P:
        """The provider, which is closed with the bench."""
        self._providers.append(provider)
        return provider

    async def pause(self) -> None:
        await self.clock.sleep(1)

    async def aclose(self) -> None:
        for provider in self._providers:
            await provider.aclose()


@contextlib.asynccontextmanager
async def closing(stand: S, complaints: Sequence[str] = ()) -> AsyncGenerator[S, None]:
    """In the end, nothing may have been sent or answered that the judge of the vendor's description complains of."""
    try:
        yield stand
        assert not complaints, complaints[0]
    finally:
        await stand.aclose()


@dataclass
class Fault:
    """Answers the next requests of a path in its own way; `reaches` lets them have their effect first."""

    path: str
    answer: httpx.Response | None  # None: the answer is lost
    reaches: bool = False
    times: int = 1


@dataclass
class StandIn(httpx.AsyncBaseTransport, ABC):
    """A vendor's API in process: its description judges every word that is sent to it, and every word of its own."""

    description: ClassVar[str]
    clock: ManualClock
    instances: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    faults: list[Fault] = field(default_factory=list[Fault])
    complaints: list[str] = field(default_factory=list[str])
    requests: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])
    frozen: set[str] = field(default_factory=set[str])  # what stays in its status until it is ended
    keeps_records: bool = False  # whether what has ended stays in sight

    def __post_init__(self) -> None:
        self.spec = Spec.load(self.description)

    def meet(self, path: str, answer: httpx.Response | None, *, reaches: bool = False, times: int = 1) -> None:
        """The next requests of this path get this answer; none: it is lost."""
        self.faults.append(Fault(path, answer, reaches, times))

    @abstractmethod
    def routed(self, request: httpx.Request, path: str, body: Any) -> httpx.Response:
        """The vendor's own answer."""

    def limited(self, path: str) -> httpx.Response | None:
        """Its answer to what comes too fast."""
        return None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        content = await request.aread()
        body = json.loads(content) if content else None
        self.requests.append((request.method, path, body))
        try:
            self.spec.request(request.method, path, dict(parse_qsl(request.url.query.decode())), body)
            limited = self.limited(path)
            await asyncio.sleep(0)  # others get their turn, as they would on a wire
            answer = limited or self._faulty(request, path, body)
        except AssertionError as complaint:
            self.complaints.append(str(complaint))
            raise
        if answer is None:
            raise httpx.ReadTimeout("the reply is lost", request=request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def _faulty(self, request: httpx.Request, path: str, body: Any) -> httpx.Response | None:
        for fault in self.faults:
            if fault.times > 0 and path.endswith(fault.path):
                fault.times -= 1
                if fault.reaches:
                    self._served(request, path, body)
                return fault.answer
        return self._served(request, path, body)

    def _served(self, request: httpx.Request, path: str, body: Any) -> httpx.Response:
        answer = self.routed(request, path, body)
        said = json.loads(answer.content) if answer.content else None
        self.spec.response(request.method, path, answer.status_code, said)
        return answer
