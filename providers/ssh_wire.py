"""A host over SSH: one connection, its key pinned, and the host's side of `ssh` talked to over standard input and output.

Nothing of an order is ever an argument or an environment variable: those are seen by everybody on a host. Whatever fails
before a request was sent is `Away`, so that the caller knows that nothing came of it; afterwards it is `Unclear`.
"""

import asyncio
import contextlib
import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from providers.contract import NoCapacity, ProviderError, Refused, Throttled, Unclear, Why
from providers.sdk import sdk
from providers.ssh_hosts import Host, SshSettings

PARTS = ("ssh_host_processes", "ssh_host_keeper", "ssh_host")
LOADER = """\
import sys, types
for name, text in PARTS:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(text, name, "exec"), module.__dict__)
sys.modules["providers.ssh_host"].serve()
"""
BOOT = "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"
HELLO = b"sublet host 1"
LARGEST = 4 * 1024 * 1024  # bytes of an answer
NOISE = 64 * 1024  # bytes that a login's shell may say before
LINES = 4  # conversations with one host at a time; sshd allows 10 by default
CALM = timedelta(seconds=10)


class Away(Unclear):
    """The host could not be asked; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, maybe_created=False)


class Lost(Unclear):
    """The connection broke after the request was sent."""


def program() -> bytes:
    """The host's side, whole."""
    here = Path(__file__).parent
    parts = [["providers", ""], *([f"providers.{name}", (here / f"{name}.py").read_text("utf-8")] for name in PARTS)]
    return f"PARTS = {parts!r}\n{LOADER}".encode()


class Access:
    """What all hosts of a provider are reached with. Raises ValueError with a sentence."""

    def __init__(self, settings: SshSettings) -> None:
        # It tells each connection and each command at INFO: nothing that anybody needs, every few seconds.
        logging.getLogger("asyncssh").setLevel(logging.WARNING)
        self.ssh = sdk("asyncssh", "ssh")
        password = None if settings.key_password is None else settings.key_password.reveal()
        try:
            self.key = self.ssh.import_private_key(settings.key.reveal(), password)
        except (self.ssh.KeyImportError, self.ssh.KeyEncryptionError):
            raise ValueError(
                "key is no private key that can be read, or key_password does not open it; an encrypted one is in PKCS#8 form"
            ) from None
        self._known: Any = None
        if settings.known_hosts is not None:
            try:
                self._known = self.ssh.import_known_hosts(settings.known_hosts.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(f"known_hosts {settings.known_hosts} cannot be read: {type(error).__name__}") from None
        self.connect_timeout = settings.connect_timeout.total_seconds()
        self.call_timeout = settings.call_timeout.total_seconds()

    def known(self, host: Host) -> Any:
        """The pinned keys of a host; never None, which would mean to trust anybody."""
        if not host.host_key:
            return self._known
        try:
            return ([self.ssh.import_public_key(host.host_key)], [], [])
        except self.ssh.KeyImportError:
            raise ValueError(f'host {host.name}: host_key is not a public key, "ssh-ed25519 AAAA…"') from None


class Line:
    """One conversation: a request, its answer, the next request."""

    def __init__(self, process: Any) -> None:
        self._process, self._rest = process, b""

    async def hello(self, text: bytes) -> str:
        """Send the host's side, and wait until it speaks. Else what was said instead."""
        with contextlib.suppress(BrokenPipeError):  # it may have ended already: what it said is read below
            self._process.stdin.write(b"%d\n" % len(text) + text)
        said = b""
        while len(said) < NOISE:
            line = await self._line(NOISE)
            if line == HELLO:
                return ""
            if not line and self._process.stdout.at_eof():
                break
            said += line + b"\n"
        said += await self._process.stderr.read(2000)
        return " ".join(said.decode(errors="replace").split())[-200:] or "it said nothing"

    async def ask(self, request: bytes) -> Any:
        """Raises EOFError if the line broke, ValueError if the answer makes no sense."""
        self._process.stdin.write(b"%d\n" % len(request) + request)
        await self._process.stdin.drain()
        line = await self._line(LARGEST)
        if not line:
            raise EOFError
        return json.loads(line)

    async def _line(self, most: int) -> bytes:
        while b"\n" not in self._rest:
            piece: bytes = await self._process.stdout.read(65536)
            if not piece or len(self._rest) > most:
                return b""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    @property
    def alive(self) -> bool:
        return not self._process.is_closing() and not self._process.stdout.at_eof()

    def drop(self) -> None:
        self._process.close()


class Wire:
    """A host. Connects when it is first asked, and anew when the connection is gone. Belongs to one event loop."""

    def __init__(self, host: Host, access: Access, text: bytes) -> None:
        self.host = host
        self._access, self._text = access, text
        self._known = access.known(host)
        self._connection: Any = None
        self._connecting = asyncio.Lock()
        self._room = asyncio.Semaphore(LINES)
        self._idle: list[Line] = []

    async def ask(self, verb: str, *, creates: bool = False, **request: Any) -> Any:
        """The host's answer. Raises `Away` before anything was sent; `Unclear` once it was, and the answer is missing.

        What creates nothing is asked again, once, if the connection turns out to be dead."""
        words = json.dumps({"verb": verb, **request}).encode()
        async with self._room:
            try:
                return await self._once(verb, words, creates)
            except Lost:
                if creates:
                    raise
            return await self._once(verb, words, creates)

    async def aclose(self) -> None:
        connection, self._connection, self._idle = self._connection, None, []
        if connection is not None:
            connection.close()
            with contextlib.suppress(OSError, self._access.ssh.Error):
                await connection.wait_closed()

    async def _once(self, verb: str, words: bytes, creates: bool) -> Any:
        what = f"host {self.host.name}: {verb}"
        line, done = await self._line(), False
        try:
            async with asyncio.timeout(self._access.call_timeout):
                answer = await line.ask(words)
            done = isinstance(answer, dict)
        except TimeoutError:
            raise Unclear(f"{what}: no answer within {self._access.call_timeout:g} s", maybe_created=creates) from None
        except (OSError, EOFError, self._access.ssh.Error):
            raise Lost(f"{what}: the connection was lost", maybe_created=creates) from None
        except ValueError:
            raise Unclear(f"{what}: the answer is not JSON", maybe_created=creates) from None
        finally:
            if done:
                self._idle.append(line)
            else:
                line.drop()  # also when nobody waits any more: its answer would be taken for another one's
        if not done:
            raise Unclear(f"{what}: the answer is no object", maybe_created=creates)
        return _sorted(what, cast("dict[str, Any]", answer), creates)

    async def _line(self) -> Line:
        while self._idle:
            line = self._idle.pop()
            if line.alive:
                return line
            line.drop()
        ssh, host = self._access.ssh, self.host
        try:
            async with asyncio.timeout(2 * self._access.connect_timeout):
                connection = await self._connected()
                sudo = "sudo -n " if host.sudo else ""
                process = await connection.create_process(
                    f"exec {sudo}{host.python} -I -S -c '{BOOT}'", encoding=None, request_pty=False
                )
                line = Line(process)
                said = await line.hello(self._text)
        except (OSError, EOFError, ssh.Error) as error:
            raise self._no_way(error) from None
        if said:
            line.drop()
            raise Away(f"host {host.name}: its side does not start: {said}")
        return line

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._access.ssh.connect(
                    self.host.address,
                    self.host.port,
                    username=self.host.user,
                    client_keys=[self._access.key],
                    known_hosts=self._known,
                    config=None,  # nothing of the service user's own ~/.ssh
                    agent_path=None,
                    agent_forwarding=False,
                    preferred_auth="publickey",
                    password=None,
                    gss_host=None,
                    x509_trusted_certs=None,
                    connect_timeout=self._access.connect_timeout,
                    keepalive_interval=15,
                    keepalive_count_max=3,
                )
            return self._connection

    def _no_way(self, error: BaseException) -> ProviderError:
        """Why no conversation came about. Nothing of an order has been sent."""
        ssh, name = self._access.ssh, f"host {self.host.name}"
        if isinstance(error, ssh.PermissionDenied):
            return Refused(f"{name} does not let {self.host.user} in with this key", why=Why.CREDENTIALS)
        if isinstance(error, ssh.HostKeyNotVerifiable):
            return Refused(f"{name} shows another host key than the pinned one", why=Why.CREDENTIALS)
        if isinstance(error, ssh.KeyExchangeFailed):
            return Refused(f"{name} and this service have no algorithm in common")
        # MaxStartups, PerSourcePenalties and MaxSessions all show as an end without a word.
        if isinstance(error, ssh.ConnectionLost | ssh.ChannelOpenError | ConnectionResetError | BrokenPipeError):
            return Throttled(f"{name} closed the connection at once: it has too many, or goes down", wait=CALM)
        if isinstance(error, TimeoutError):
            return Away(f"{name} does not answer")
        word = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Away(f"{name} cannot be reached: {word}"[:300])


def _sorted(what: str, answer: dict[str, Any], creates: bool) -> Any:
    """The host's yes; its no as the contract sorts them."""
    if "yes" in answer:
        return answer["yes"]
    text = f"{what}: {' '.join(str(answer.get('text', '')).split())[:300]}"
    match answer.get("no"):
        case "full" | "unfit":
            raise NoCapacity(text)
        case "taken":
            raise Refused(text)
        case "busy":
            raise Throttled(text, wait=timedelta(seconds=2))
        case _:
            raise Unclear(text, maybe_created=creates)
