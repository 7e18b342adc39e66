"""What a pilot measures: the first GPU in a process of its own, and the network to the service and to the forges.

Nothing here fails: what cannot be measured is a sentence where the numbers would be.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import sys
from typing import Any, NamedTuple, Sequence

from . import benchmark_gpu, clock, command, shape
from .benchmark_driver import Failed, load
from .wire import Away, Wire

GPU_PATIENCE = 60.0
"""Seconds for the process that measures the GPU, the driver's own start included."""
CONNECTS = 5
CONNECT_PATIENCE = 5.0
MOST_HOSTS = 4
LONGEST_FETCH = 15.0
"""Seconds for the sample. A slow line is measured by what came until then."""
MOST_BYTES = 32 << 20


class Asked(NamedTuple):
    """What the service wants to know."""

    size: int  # bytes that it gives for measuring
    hosts: Sequence[str]  # "name:port", to connect to


def asked(told: object) -> Asked | None:
    """What the join answer asks for; None: this is no pilot."""
    wanted = shape.table(told)
    if not wanted:
        return None
    size, hosts = wanted.get("bytes"), [host for host in shape.items(wanted.get("hosts")) if isinstance(host, str)]
    return Asked(min(size, MOST_BYTES) if isinstance(size, int) and size > 0 else 0, hosts[:MOST_HOSTS])


def run(wanted: Asked, wire: Wire, program: Sequence[str], patience: float = GPU_PATIENCE) -> dict[str, Any]:
    """Everything, one after the other, so that nothing is in the other's way."""
    return {"gpu": gpu(program, patience), "network": network(wanted, wire)}


def gpu(program: Sequence[str], patience: float = GPU_PATIENCE) -> dict[str, Any]:
    """`program` is this agent; it starts itself with the verb `benchmark`. A driver that hangs is left behind."""
    told = command.run([*program, "benchmark"], patience)
    if told.problem:
        return {"problem": f"the GPU's benchmark {told.problem}"}
    try:
        return shape.table(json.loads(told.text)) or {"problem": "the GPU's benchmark said nothing"}
    except ValueError:
        return {"problem": "the GPU's benchmark said nothing that can be read"}


def main() -> int:
    """The process that meets the driver: one line of JSON on standard output."""
    try:
        told = benchmark_gpu.measure(load())
    except Failed as failed:
        told = {"problem": str(failed)[:200]}
    except Exception as error:
        told = {"problem": f"the GPU could not be measured: {type(error).__name__}"}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def network(wanted: Asked, wire: Wire) -> dict[str, Any]:
    """Round trips as TCP sees them, and how fast the service's sample comes."""
    found: dict[str, Any] = {"hosts": [_host(name) for name in wanted.hosts]}
    try:
        found["connect_ms"] = connect(wire.host, wire.port)
    except OSError as error:
        found["problem"] = f"no connection to the service: {type(error).__name__}"
    if wanted.size:
        try:
            size, seconds = wire.fetch("/node/sample", wanted.size, LONGEST_FETCH)
        except Away as away:
            found.setdefault("problem", f"the sample could not be fetched: {away}"[:200])
        else:
            found.update(download_bytes=size, download_mbps=round(size * 8 / max(seconds, 1e-6) / 1e6, 2))
    return found


def connect(host: str, port: int) -> float:
    """Milliseconds for one TCP connection, about one round trip: the median of a few. The name is looked up before.

    Raises OSError."""
    with contextlib.closing(socket.create_connection((host, port), CONNECT_PATIENCE)) as first:
        family, address = first.family, first.getpeername()
    took: list[float] = []
    for _ in range(CONNECTS):
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as line:
            line.settimeout(CONNECT_PATIENCE)
            began = clock.monotonic()
            line.connect(address)
            took.append((clock.monotonic() - began) * 1000)
    return round(statistics.median(took), 3)


def _host(name: str) -> dict[str, Any]:
    host, _, port = name.rpartition(":")
    try:
        return {"host": name[:200], "connect_ms": connect(host.strip("[]"), int(port))}
    except (OSError, ValueError, OverflowError) as error:
        return {"host": name[:200], "problem": f"no connection: {type(error).__name__}"}
