"""The harness's own ends of wires: a balancer in front of the webs, and a witness that writes down what jobs say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONNECT_SECONDS = 1.0
PIECE = 65_536  # bytes


class Wires:
    """Two listening sockets on loopback, served by a thread of their own. Both ports are the system's choice."""

    def __init__(self, effects: Path) -> None:
        """`effects`: the file that the witness appends to, a line for each that it is sent."""
        self._effects = effects
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._turn = itertools.count()
        self._talks: set[asyncio.Task[None]] = set()
        self.webs: Mapping[str, int] = {}  # name -> port of each web that is up; replaced as a whole
        self.balancer_port = 0
        self.witness_port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.balancer_port = self._listen(self._balance)
        self.witness_port = self._listen(self._witness)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _end(self) -> None:
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        for server in self._servers:
            server.close()

    _servers: tuple[asyncio.Server, ...] = ()

    def _listen(self, talk: Talk) -> int:
        async def begin() -> asyncio.Server:
            return await asyncio.start_server(lambda reader, writer: self._keep(talk(reader, writer)), "127.0.0.1", 0)

        server = asyncio.run_coroutine_threadsafe(begin(), self._loop).result(5)
        self._servers = (*self._servers, server)
        return int(server.sockets[0].getsockname()[1])

    def _keep(self, talk: Awaitable[None]) -> None:
        task = asyncio.ensure_future(talk)
        self._talks.add(task)
        task.add_done_callback(self._talks.discard)

    async def _balance(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the next web that takes the connection. With none up the caller is hung up on."""
        ports = list(self.webs.values())
        start = next(self._turn)
        with _hanging_up(writer):
            for place in range(len(ports)):
                try:
                    async with asyncio.timeout(CONNECT_SECONDS):
                        there, back = await asyncio.open_connection("127.0.0.1", ports[(start + place) % len(ports)])
                except (OSError, TimeoutError):
                    continue
                with _hanging_up(back):
                    ways = [asyncio.ensure_future(_pass_on(reader, back)), asyncio.ensure_future(_pass_on(there, writer))]
                    try:
                        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for way in ways:
                            way.cancel()
                return

    async def _witness(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _hanging_up(writer), contextlib.suppress(OSError):
            while line := await reader.readline():
                with self._effects.open("ab") as file:
                    file.write(line)
                writer.write(b"ok\n")
                await writer.drain()


@contextlib.contextmanager
def _hanging_up(writer: asyncio.StreamWriter):
    try:
        yield
    finally:
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
