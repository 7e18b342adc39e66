"""How long a job's webhook is on its way to the provider: queued -> create, and its end -> destroy."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.deliveries import Deliveries, http
from tests.bench.ground import Running, milliseconds, runner_of, serving, session_of
from tests.bench.load import status_of

MATRIX = 250  # jobs of one run; GitHub's limit is 256
CONNECTIONS = 64
PACE = 0.05  # seconds between two that come alone


def measure(folder: Path, jobs: int, alone: int) -> dict[str, Any]:
    """Medians are of jobs that come one after the other, 20 a second; the 99th of a burst that comes as fast as it is taken."""
    with serving(folder / "starts") as service:
        made = Deliveries()
        steady = _starts_alone(service, made, alone)
        burst = _starts_at_once(service, made, folder, jobs)
    start_tolls = service.tolls(jobs)
    with serving(folder / "ends", seeded=2 * jobs + 2 * alone) as service:
        made = Deliveries()
        quiet = _ends_alone(service, made, range(alone))
        exits = _exits(service, folder, range(alone, 2 * alone), 1)
        ends = _ends_at_once(service, made, folder, range(2 * alone, 2 * alone + jobs))
        exits_burst = _exits(service, folder, range(2 * alone + jobs, 2 * alone + 2 * jobs), CONNECTIONS)
    return {
        "start_cpu_us": start_tolls,
        "end_cpu_us": service.tolls(2 * jobs + 2 * alone),
        "queued_to_create_p50_ms": milliseconds(steady, 0.5),
        "queued_to_create_p99_ms": milliseconds(burst, 0.99),
        "queued_to_create_alone_p99_ms": milliseconds(steady, 0.99),
        "queued_to_create_burst_p50_ms": milliseconds(burst, 0.5),
        "end_to_destroy_p50_ms": milliseconds(quiet, 0.5),
        "end_to_destroy_p99_ms": milliseconds(ends, 0.99),
        "end_to_destroy_alone_p99_ms": milliseconds(quiet, 0.99),
        "end_to_destroy_burst_p50_ms": milliseconds(ends, 0.5),
        "exit_to_destroy_p50_ms": milliseconds(exits, 0.5),
        "exit_to_destroy_p99_ms": milliseconds(exits_burst, 0.99),
    }


def _starts_alone(service: Running, made: Deliveries, count: int) -> list[float]:
    took: list[float] = []
    with Line(service.port) as line:
        for number in range(1, count + 1):
            began = time.perf_counter()
            line.send(made.request(number, run_id=number // MATRIX + 1))
            assert service.until(lambda number=number: len(service.created) >= number, 30), "a job got no machine"
            took.append(service.created[number - 1][0] - began)
            threading.Event().wait(PACE)
    return took[1:]  # the first asks the forge for its run, and compiles every statement


def _starts_at_once(service: Running, made: Deliveries, folder: Path, count: int) -> list[float]:
    """Supply is counted, not paired: the nth machine is the nth job's."""
    before = len(service.created)
    left = count - before  # the pool's ceiling
    told = service.send(folder, (made.request(10_000 + n, run_id=9_000 + n // MATRIX) for n in range(left)), CONNECTIONS)
    assert service.until(lambda: len(service.created) >= before + left, 120), f"{len(service.created)} of {before + left}"
    created = sorted(at for at, *_ in service.created[before:])
    return [at - sent for sent, at in zip(sorted(told["sent"]), created, strict=True)]


def _ends_alone(service: Running, made: Deliveries, numbers: range) -> list[float]:
    took: list[float] = []
    with Line(service.port) as line:
        for number in numbers:
            began = time.perf_counter()
            line.send(_completed(made, number))
            assert service.until(lambda number=number: f"i-{number}" in service.destroyed, 30), "a machine was kept"
            took.append(service.destroyed[f"i-{number}"] - began)
            threading.Event().wait(PACE)
    return took[1:]


def _ends_at_once(service: Running, made: Deliveries, folder: Path, numbers: range) -> list[float]:
    told = service.send(folder, (_completed(made, number) for number in numbers), CONNECTIONS)
    return _until_destroyed(service, told, numbers)


def _exits(service: Running, folder: Path, numbers: range, connections: int) -> list[float]:
    told = service.send(
        folder, (node(number, "event", kind="runner_exited", data={"exit": 0}) for number in numbers), connections
    )
    return _until_destroyed(service, told, numbers)


def _until_destroyed(service: Running, told: Mapping[str, Any], numbers: range) -> list[float]:
    names = [f"i-{number}" for number in numbers]
    assert service.until(lambda: all(name in service.destroyed for name in names), 120), "machines were kept"
    return [service.destroyed[name] - sent for name, sent in zip(names, told["sent"], strict=True)]


def _completed(made: Deliveries, number: int) -> bytes:
    ended = {"conclusion": "success", "runner_name": runner_of(number), "runner_id": number + 1}
    return made.request(number + 1, "completed", completed_at="2026-11-21T12:10:00Z", **ended)


def node(number: int, path: str, **body: Any) -> bytes:
    """A request of the seeded node of this number."""
    headers = {"Authorization": f"Bearer {session_of(number)}", "Content-Type": "application/json"}
    return http(f"POST /node/{path}", headers, json.dumps(body).encode())


class Line:
    """One kept connection; `send` returns once the answer has come."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __enter__(self) -> Line:
        self._socket = socket.create_connection(("127.0.0.1", self._port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        got = b""
        while status_of(got) is None:
            more = self._socket.recv(65536)
            if not more:
                raise ConnectionError("the service closed the connection")
            got += more
        return got
