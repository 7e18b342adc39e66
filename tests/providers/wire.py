"""A server on loopback that answers exactly what a test scripted, byte by byte."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

HANG = b"HANG"
"""Read the request, then say nothing until the client goes."""


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """A whole HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Wire:
    """What was asked, and what will be answered: the last answer again and again."""

    answers: list[bytes]
    requests: list[bytes] = field(default_factory=list[bytes])
    url: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    @property
    def lines(self) -> list[str]:
        """The request lines so far."""
        return [request.split(b"\r\n", 1)[0].decode() for request in self.requests]

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0)
        self.requests.append(head + await reader.readexactly(length))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == HANG:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()


@contextlib.asynccontextmanager
async def wire(*answers: bytes, socket: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Wire, None]:
    """Serve on a port of the system's choice, or on a unix socket."""
    line = Wire(list(answers))
    if socket is not None:
        server = await asyncio.start_unix_server(line.accept, socket)
    else:
        server = await asyncio.start_server(line.accept, "127.0.0.1", 0, ssl=tls)
        port = server.sockets[0].getsockname()[1]
        line.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield line
    finally:
        server.close()
        await server.wait_closed()
        for task in line.tasks:
            task.cancel()
        await asyncio.gather(*line.tasks, return_exceptions=True)
