"""Starts the service: settings, one socket, web, engine or both; with no settings file, the demo."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from app import demo_service, doorstep
from app.core.model import Reason
from app.forges.registry import ForgeTrouble
from app.kit.alone import alone
from app.kit.telemetry import setup_logging
from app.settings import Loaded, SecretError, SettingsError, load
from app.store import leases
from app.store.db import UNREACHABLE
from app.store.vault import VaultError
from app.web.auth import issue_login_link
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
    new_keys: bool


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
    parser.add_argument("--new-keys", action="store_true", help="go on though the key file is not that of the database")
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
        given.new_keys,
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
    except (SecretError, ProviderTrouble, ForgeTrouble) as error:
        print(f"The settings cannot be used: {error}", file=sys.stderr)
        return 2
    except VaultError as error:
        print(f"The keys cannot be used: {error}", file=sys.stderr)
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
    except UNREACHABLE as error:
        print(f"Cannot start: the database does not answer. {_first_line(error)}", file=sys.stderr)
        return 1


def _first_line(error: Exception) -> str:
    """Without the statement and its values."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [""])[0]


async def _run(flags: Flags) -> int:
    loaded = load(flags.config, _overrides(flags))
    forgeless = not loaded.settings.forges
    demonstrates = flags.demo or (flags.config is None and forgeless)
    _check_role(flags.role, loaded, demonstrates)
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
                service = from_settings(
                    loaded.settings, public_url, demo=demonstrates, role=flags.role, new_keys=flags.new_keys
                )
                _spare_collector()
                try:
                    await _serve(service, loaded, flags, listener, own_url, demo, stopping)
                finally:
                    await service.aclose()
            finally:
                if demo is not None:
                    demo.stop()
    return 0


def _spare_collector() -> None:
    """Python looks for cycles after every 700 new objects, ever so often among all there are, and a webhook makes hundreds.
    What lives as long as the process is left out of it, and it looks less often: a fifth of the processor time is won."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


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
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="web")
    tasks: list[asyncio.Task[Any]] = [serving, asyncio.create_task(service.presence.run(), name="presence")]
    if flags.role != "web":
        tasks.append(asyncio.create_task(service.engine.run(), name="engine"))
    if demo is not None:
        tasks.append(asyncio.create_task(demo.keep_alive(), name="demo"))
    address: Path | None = None
    try:
        while not server.started and not any(task.done() for task in tasks):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # uvicorn has no event for it
        address = await insist(lambda: _announce(service, Path(settings.data), own_url, flags, demo), stopping)
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
        if address is not None:
            doorstep.take_away(address, service.presence.me.name)
        server.should_exit = True
        for task in tasks:
            if task is not serving:  # the web ends by itself, in order
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await service.engine.stop()
        await service.presence.leave()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def insist(announce: Callable[[], Awaitable[Path]], stopping: asyncio.Event, pause: float = 1.0) -> Path | None:
    """Again until the database answers: who serves already does not end because that goes away. None: told to stop meanwhile.

    `pause`: seconds between two tries."""
    while not stopping.is_set():
        try:
            return await announce()
        except UNREACHABLE as error:
            log.error("the database does not answer", error=_first_line(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stopping.wait()
    return None


async def _announce(service: Service, data: Path, own_url: str, flags: Flags, demo: demo_service.Demo | None) -> Path:
    """Say where we are, in the data folder and on the screen. The file that says it."""
    store, name, now = service.deps.store, service.presence.me.name, service.deps.clock.now()
    if flags.role == "engine":
        lines = [f"Engine  {name}   {own_url}/readyz and /metrics, and nothing else"]
    else:
        await store(doorstep.leave_token, service.db, data, now, socket.gethostname())
        lines = [f"Dashboard  {own_url}{await store(issue_login_link, service.db, now)}   valid 15 min, one use"]
    address = doorstep.leave_address(data, flags.role, own_url, name)
    if demo is not None:
        lines += await demo.start(own_url)
        lines.append("Next: open the link. Stop with Ctrl-C; nothing is left running.")
    if not flags.quiet:
        print(*lines, sep="\n", flush=True)
    return address


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


def _check_role(role: str, loaded: Loaded, demonstrates: bool) -> None:
    """Raises SettingsError where one process has to do everything."""
    address = loaded.settings.database.address()
    if role == "all":
        return
    if demonstrates:
        raise SettingsError([f"--role {role}: the demo is one process, which is web and engine"])
    if address is None or address.startswith("sqlite"):
        needs = "needs PostgreSQL ([database] `url`): SQLite serves one process, which is web and engine"
        raise SettingsError([f"--role {role} {needs}"])


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


if __name__ == "__main__":
    sys.exit(main())
