"""Starts the service: settings, one socket, web and engine in one process; with no settings file, the demo."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from app import demo_service
from app.core.model import Reason
from app.kit.alone import alone
from app.kit.telemetry import setup_logging
from app.settings import Loaded, SecretError, SettingsError, load
from app.store import leases
from app.web.auth import issue_cli_token, issue_login_link
from app.wiring import Service, from_settings
from providers.registry import ProviderTrouble

CONFIG = "sublet.toml"
PATIENCE = timedelta(seconds=25)
"""How long the demo waits at its end until every instance is proven gone."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Flags:
    """The command line, parsed."""

    config: Path | None
    data: Path | None
    host: str | None
    port: int | None
    role: str
    demo: bool
    demo_provider: str
    quiet: bool


def parse(arguments: Sequence[str] | None = None) -> Flags:
    """Flags of `python -m app.main`; people call it through `sublet up`."""
    parser = argparse.ArgumentParser(prog="sublet up", description="Start the service.")
    parser.add_argument("--config", type=Path, help=f"settings file (default: ./{CONFIG} if it is there; else the demo starts)")
    parser.add_argument("--data", type=Path, help="folder for database and keys (default: sublet-data)")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 8080; 0: any free one)")
    parser.add_argument("--role", choices=("all", "web", "engine"), default="all", help="what this process does (default: all)")
    parser.add_argument("--demo", action="store_true", help="run the demo even if there is a settings file")
    parser.add_argument("--demo-provider", choices=("local", "docker"), default="local", help="where the demo's job runs")
    parser.add_argument("--quiet", action="store_true", help="print no welcome")
    given = parser.parse_args(arguments)
    config = given.config or (Path(CONFIG) if Path(CONFIG).exists() and not given.demo else None)
    return Flags(
        config,
        given.data,
        given.host,
        given.port,
        given.role,
        given.demo,
        given.demo_provider,
        given.quiet,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 after an orderly stop, 2 for settings that cannot be used, 1 for anything else that stops the start."""
    flags = parse(arguments)
    os.umask(0o077)  # database, keys and logs are nobody else's to read
    try:
        return asyncio.run(_run(flags))
    except SettingsError as error:
        print("The settings cannot be used:", *(f"  {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    except (SecretError, ProviderTrouble) as error:
        print(f"The settings cannot be used: {error}", file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"There is no file {error.filename}.", file=sys.stderr)
        return 2
    except demo_service.DemoTrouble as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return 1


async def _run(flags: Flags) -> int:
    loaded = load(flags.config, _overrides(flags))
    forgeless = loaded.settings.github is None and loaded.settings.gitlab is None
    demonstrates = flags.demo or (flags.config is None and forgeless)
    quiet = demonstrates and loaded.source("log.level") == "default"  # a newcomer's screen shows the welcome, not every request
    setup_logging("warning" if quiet else loaded.settings.log.level, _form(loaded.settings.log.format))
    for warning in loaded.warnings if not demonstrates else ():
        log.warning("settings", text=warning)
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    with _listen(loaded) as listener:
        port = int(listener.getsockname()[1])
        scheme = "https" if loaded.settings.server.tls_certificate else "http"
        own_url = f"{scheme}://{_reachable(loaded.settings.server.host)}:{port}"
        public_url = loaded.settings.public_url or own_url
        demo = None
        if demonstrates:
            demo = await demo_service.prepare(loaded, public_url, flags.demo_provider)
            loaded = demo.loaded
        with _sole(loaded):
            try:
                service = from_settings(loaded.settings, public_url, demo=demonstrates)
                try:
                    await _serve(service, loaded, flags, listener, own_url, demo, stopping)
                finally:
                    await service.aclose()
            finally:
                if demo is not None:
                    demo.stop()
    return 0


async def _serve(
    service: Service,
    loaded: Loaded,
    flags: Flags,
    listener: socket.socket,
    own_url: str,
    demo: demo_service.Demo | None,
    stopping: asyncio.Event,
) -> None:
    settings = loaded.settings
    config = uvicorn.Config(
        service.web,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        ssl_certfile=settings.server.tls_certificate,
        ssl_keyfile=settings.server.tls_key,
    )
    server = _Server(config)
    tasks: list[asyncio.Task[Any]] = []
    if flags.role != "engine":
        tasks.append(asyncio.create_task(server.serve(sockets=[listener]), name="web"))
    if flags.role != "web":
        tasks.append(asyncio.create_task(service.engine.run(), name="engine"))
    if demo is not None:
        tasks.append(asyncio.create_task(demo.keep_alive(), name="demo"))
    ready = Path(settings.data) / "service.json"
    try:
        while flags.role != "engine" and not server.started and not any(task.done() for task in tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn has no event for it
        await _announce(service, ready, own_url, flags, demo)
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if demo is not None:
            _say(flags, "\nStopping: the demo's machines are being ended. Ctrl-C again stops at once.")
            left = await _end_all(service)
            _say(
                flags, "Nothing is left running." if not left else f"{left} machines are not proven gone yet; see `sublet ps`."
            )
    finally:
        with contextlib.suppress(FileNotFoundError):
            ready.unlink()
        server.should_exit = True
        for task in tasks[1:] if flags.role != "engine" else tasks:  # the web ends by itself, in order
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await service.engine.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _announce(service: Service, ready: Path, own_url: str, flags: Flags, demo: demo_service.Demo | None) -> None:
    now = service.deps.clock.now()
    link = await service.deps.store(issue_login_link, service.db, now)
    token = await service.deps.store(issue_cli_token, service.db, now)
    _write_private(ready.parent / "cli-token", token.reveal())
    _write_private(ready, json.dumps({"url": own_url, "pid": os.getpid()}))
    lines = [f"Dashboard  {own_url}{link}   valid 15 min, one use"]
    if demo is not None:
        lines += await demo.start(own_url)
        lines.append("Next: open the link. Stop with Ctrl-C; nothing is left running.")
    if not flags.quiet:
        print(*lines, sep="\n", flush=True)


async def _end_all(service: Service) -> int:
    """The demo leaves nothing behind: every lease is ended, and its instance proven gone, before the service stops.

    Returns how many were not proven gone in time."""
    deps = service.deps
    service.engine.planning = False
    asked: set[str] = set()
    end = deps.clock.monotonic() + PATIENCE.total_seconds()
    while live := await deps.store(leases.listing, service.db, which="live", limit=1000, before=None):
        if deps.clock.monotonic() > end:
            break
        for lease in live:
            if lease.id not in asked:
                now, text = deps.clock.now(), "The demo ends."
                await deps.store(leases.ask, service.db, lease.id, "destroy", Reason.SHUTDOWN, text, "demo", now)
                asked.add(lease.id)
        deps.bell.ring()
        await deps.clock.sleep(0.05)
    return len(live)


def _say(flags: Flags, text: str) -> None:
    if not flags.quiet:
        print(text, flush=True)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the service decides what a signal means."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():  # the second Ctrl-C does not wait
            os._exit(130)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


@contextlib.contextmanager
def _listen(loaded: Loaded) -> Generator[socket.socket]:
    server = loaded.settings.server
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        listener = socket.create_server((server.host, server.port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"{server.host}:{server.port} cannot be listened on: {error.strerror}. Try --port.") from None
    # Connections inherit it. asyncio sets it only for sockets that name their protocol, which this one does not; without
    # it the body of each answer waits 40 ms for the acknowledgement of its head (Nagle against delayed ACK).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


@contextlib.contextmanager
def _sole(loaded: Loaded) -> Generator[None]:
    """SQLite serves one process: a second one on the same data folder is refused. PostgreSQL serves many.

    The lock is the kernel's, so it ends with the process, however that ends. Raises OSError."""
    address = loaded.settings.database.address()
    if address is not None and not address.startswith("sqlite"):
        yield
        return
    data = Path(loaded.settings.data)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(alone(data))
        except BlockingIOError:
            raise OSError(f"another Sublet works on {data.absolute()}. Stop it, or use PostgreSQL for several.") from None
        yield


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _overrides(flags: Flags) -> dict[str, Any]:
    server = {key: value for key, value in (("host", flags.host), ("port", flags.port)) if value is not None}
    found: dict[str, Any] = {"server": server} if server else {}
    if flags.data is not None:
        found["data"] = flags.data.absolute()
    return found


def _form(wanted: str) -> str:
    if wanted == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return "console" if wanted == "text" else "json"


def _write_private(path: Path, text: str) -> None:
    """0600 from the first byte, and never half-written."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
