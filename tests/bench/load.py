"""Sends prepared requests over kept connections as fast as they are answered: one process, sockets only, little CPU.

`python -m tests.bench.load PORT CONNECTIONS FILE` prints one JSON object when all are answered. The file holds the requests,
each behind its length in eight digits. Times are of the machine's monotonic clock, the same in every process.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Line:
    """One connection: a request is out, and so much of its answer has come."""

    socket: socket.socket
    sent_at: float = 0.0
    got: bytes = b""


def pack(path: Path, requests: Iterable[bytes]) -> None:
    """Write the file."""
    path.write_bytes(b"".join(f"{len(request):08d}".encode() + request for request in requests))


def unpack(path: Path) -> Iterator[bytes]:
    """Read the file."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        end = place + 8 + int(content[place : place + 8])
        yield content[place + 8 : end]
        place = end


def status_of(answer: bytes) -> str | None:
    """The status of a whole answer; None while a part is missing."""
    head, found, content = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    if not found or (length is not None and len(content) < int(length[1])):
        return None
    return head[9:12].decode()


def drive(port: int, connections: int, requests: list[bytes]) -> dict[str, object]:
    """All requests, each sent when the one before it on its connection is answered."""
    queue, selector = iter(requests), selectors.DefaultSelector()
    statuses: dict[str, int] = {}
    sent: list[float] = []
    waits: list[float] = []

    def send(line: Line) -> bool:
        request = next(queue, None)
        if request is None:
            return False
        line.got, line.sent_at = b"", time.perf_counter()
        sent.append(line.sent_at)
        line.socket.sendall(request)
        return True

    began, worked = time.perf_counter(), time.process_time()
    for _ in range(min(connections, len(requests))):
        line = Line(socket.create_connection(("127.0.0.1", port)))
        line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send(line)
        selector.register(line.socket, selectors.EVENT_READ, line)
    while selector.get_map():
        for key, _ in selector.select():
            line: Line = key.data
            line.got += line.socket.recv(65536) or b"HTTP/1.1 000 broken off\r\n\r\n"
            status = status_of(line.got)
            if status is None:
                continue
            statuses[status] = statuses.get(status, 0) + 1
            waits.append(time.perf_counter() - line.sent_at)
            if status == "000" or not send(line):
                selector.unregister(line.socket)
                line.socket.close()
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"seconds": seconds, "cpu_s": cpu, "statuses": statuses, "sent": sent, "waits": waits}


if __name__ == "__main__":
    port, connections, file = sys.argv[1:]
    print(json.dumps(drive(int(port), int(connections), list(unpack(Path(file))))))
