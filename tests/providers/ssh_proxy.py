"""A wire between a provider and a real sshd that can be cut, led astray, or hung up before a word was said."""

from __future__ import annotations

import asyncio
import contextlib

from tests.parts.sshd import Sshd


class Proxy:
    """Passes bytes on. `closed_next` leads the next connection to the port that lets nobody in; `hang_up` closes that many."""

    def __init__(self, sshd: Sshd) -> None:
        self._sshd = sshd
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.closed_next = False
        self.hang_up = 0
        self.connections = 0
        self.port = 0

    @classmethod
    async def before(cls, sshd: Sshd) -> Proxy:
        proxy = cls(sshd)
        proxy._server = await asyncio.start_server(proxy._connected, "127.0.0.1", 0)
        proxy.port = proxy._server.sockets[0].getsockname()[1]
        return proxy

    async def cut(self) -> None:
        """Break every connection, as a network does, and let both ends notice."""
        for writer in self._writers:
            writer.transport.abort()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()
        if self._server is not None:
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.hang_up > 0:
            self.hang_up -= 1
            writer.write(b"Exceeded MaxStartups\r\n")  # as sshd does
            writer.close()
            return
        port, self.closed_next = (self._sshd.closed if self.closed_next else self._sshd.port), False
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while piece := await source.read(65536):
                    sink.write(piece)
                    await sink.drain()
        finally:
            sink.close()
            self._writers.discard(sink)
