"""The bench of `ssh`: two hosts behind one real sshd, real processes, and a host's side that stumbles when it is told to."""

import asyncio
import atexit
import contextlib
import itertools
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from providers import ssh_host, ssh_host_processes, ssh_wire
from providers.clock import SYSTEM
from providers.conformance import Fault, Missing
from providers.contract import Order, Phase, Secret
from providers.ssh import SshProvider
from providers.ssh_hosts import SshSettings
from tests.parts import sshd as part
from tests.parts.sshd import Sshd
from tests.providers.benches import Orders, plain_offer
from tests.providers.patience import eventually
from tests.providers.ssh_proxy import Proxy

PYTHON = str(Path(sys.executable).resolve())
SLOTS = 3
STUMBLE = """
import os
host, keeping = sys.modules["providers.ssh_host"], sys.modules["providers.ssh_host_keeper"]
host.GRACE = 0.3
def told(verb):
    try:
        with open(FAULTS + "/" + verb) as file: word = file.read()
        os.unlink(FAULTS + "/" + verb)
        return word
    except FileNotFoundError:
        return ""
def stumbling(verb, call):
    def stumbled(**request):
        word = told(verb)
        if word == "half": keeping.start = lambda *rest: os._exit(0)
        if word == "busy": raise host.No("busy", "another create or destroy is at work on this host")
        if word == "full disk": raise OSError(28, "No space left on device")
        if word == "error": raise RuntimeError
        if word == "stuck": return 2
        if word == "unwiped":
            real = keeping.wipe
            def busy(folder, uid):
                keeping.wipe = real
                raise OSError(16, "Device or resource busy")
            keeping.wipe = busy
        answer = call(**request)
        if word == "lost": os._exit(0)
        if word == "garbage": os.write(1, b"}{\\n"); os._exit(0)
        if word == "strange": os.write(1, b"[7]\\n"); os._exit(0)
        return answer
    return stumbled
host.VERBS = {verb: stumbling(verb, call) for verb, call in host.VERBS.items()}
"""
_running: list[Sshd] = []
_at_exit = contextlib.ExitStack()
atexit.register(_at_exit.close)


def server() -> Sshd:
    """One for this process. Raises `Missing`."""
    if not _running:
        try:
            _running.append(_at_exit.enter_context(part.sshd()))
        except part.NoSshd as lack:
            raise Missing(str(lack)) from None
    return _running[0]


def stumbling_program(faults: Path) -> bytes:
    """The host's side with its faults: the next call of a verb stumbles as a file of its name says."""
    whole = ssh_wire.program()
    last = b'sys.modules["providers.ssh_host"].serve()'
    assert whole.count(last) == 1
    return whole.replace(last, f"FAULTS = {str(faults)!r}\n{STUMBLE}".encode() + last)


class SshBench:
    name = "ssh"
    faults: frozenset[Fault] = frozenset(Fault) - {Fault.QUOTA}
    states: Mapping[str, Phase] = {
        "running": Phase.RUNNING,
        "ended": Phase.STOPPED,
        "killed": Phase.STOPPED,
        "not started": Phase.FAILED,
        "unreadable": Phase.FAILED,
        "folder removed": Phase.DESTROYING,
    }
    crowd = SLOTS + 1  # a host is a page of the listing

    def __init__(self, sshd: Sshd, folder: Path, proxy: Proxy) -> None:
        self.sshd, self.folder, self.proxy = sshd, folder, proxy
        folder.chmod(0o711)  # a slot's own user passes through
        self.stumbles = folder / "stumbles"
        self.stumbles.mkdir()
        self.roots = {name: folder / name / "instances" for name in ("rack-1", "rack-2")}
        self.settings = SshSettings(
            hosts={name: {"root": str(root), "slots": SLOTS} for name, root in self.roots.items()},
            key=Secret(sshd.private_key),
            known_hosts=folder / "known_hosts",
            user=sshd.user,
            port=proxy.port,
            python=PYTHON,
            min_disk_gib=0,
        )
        names = ",".join([*self.roots, *(f"[{name}]:{proxy.port}" for name in self.roots), f"[127.0.0.1]:{proxy.port}"])
        (folder / "known_hosts").write_text(f"{names} {sshd.host_key}\n")
        self.settings = replace(
            self.settings, hosts={name: {**host, "address": "127.0.0.1"} for name, host in self.settings.hosts.items()}
        )
        self.secrets: Sequence[str] = (sshd.private_key, sshd.private_key.splitlines()[2])
        self._orders = Orders(plain_offer(self.name, SYSTEM.now()), now=SYSTEM.now())
        self._slots = itertools.cycle([f"{name}/slot-1" for name in self.roots])
        self._providers: list[SshProvider] = []

    def order(self) -> Order:
        """Of one host and the other in turn."""
        order = self._orders()
        return replace(order, offer=replace(order.offer, id=next(self._slots)))

    async def provider(self) -> SshProvider:
        return self.ssh()

    def ssh(self, every: Mapping[str, str | int | float | bool] | None = None, **changes: Any) -> SshProvider:
        """With other settings: `every` for each host, `changes` for the provider."""
        tables = {name: {**table, **(every or {})} for name, table in self.settings.hosts.items()}
        settings = replace(self.settings, **{"hosts": tables, **changes})
        provider = SshProvider(self.name, settings, host_program=stumbling_program(self.stumbles))
        self._providers.append(provider)
        return provider

    def there(self, tag: str) -> ssh_host.There:
        return next(there for root in self.roots.values() for there in ssh_host.instances(root) if there.tag == tag)

    async def cause(self, fault: Fault) -> None:
        words = {
            Fault.LOST_REPLY: "lost",
            Fault.HALF_CREATED: "half",
            Fault.MALFORMED: "garbage",
            Fault.SERVER_ERROR: "error",
            Fault.THROTTLED: "busy",
        }
        match fault:
            case Fault.CREDENTIALS:
                await self.proxy.cut()
                self.proxy.closed_next = True
            case Fault.BROKEN_LIST:
                self.stumble("listing", "error")
            case Fault.NO_CAPACITY:
                for _ in range(len(self.roots) * SLOTS):
                    await self._providers[0].create(self.order())
            case Fault.PREEMPTED:
                for folder in self.instances():
                    self.kill(folder)
            case _:
                self.stumble("create", words[fault])

    def stumble(self, verb: str, word: str) -> None:
        (self.stumbles / verb).write_text(word)

    async def put(self, instance_id: str, state: str) -> None:
        host, _, tag = instance_id.partition(":")
        there = ssh_host.find(self.roots[host], tag)
        assert there is not None
        match state:
            case "ended":
                keeper = ssh_host.keeper_of(there)
                assert keeper is not None
                census = ssh_host_processes.Census()
                script = [seen for seen in census.all.values() if seen.parent == keeper.pid]
                ssh_host_processes.tell(script, signal.SIGTERM)
            case "killed" | "not started":
                self.kill(there.folder)
                if state == "not started":
                    (there.folder / "process.json").unlink()
            case "unreadable":
                (there.folder / "instance.json").write_text("{")
            case "folder removed":
                await eventually(lambda: len(self.living()) > 1, "the script at work")
                shutil.rmtree(there.folder.parent)
            case _:
                pass

    async def pause(self) -> None:
        await asyncio.sleep(0.02)

    def instances(self) -> list[Path]:
        return [there.folder for root in self.roots.values() for there in ssh_host.instances(root)]

    def living(self) -> list[int]:
        """Every process of every instance of this bench."""
        census = ssh_host_processes.Census()
        return [seen.pid for root in self.roots.values() for ours in census.marked(str(root)).values() for seen in ours]

    def kill(self, folder: Path) -> None:
        there = next(there for root in self.roots.values() for there in ssh_host.instances(root) if there.folder == folder)
        keeper = ssh_host.keeper_of(there)
        assert ssh_host_processes.end(str(folder), keeper, ssh_host.user_of(there, 0), 10.0) == 0

    async def aclose(self) -> None:
        """Ends what is left of this bench, and proves it."""
        for provider in self._providers:
            await provider.aclose()
        await self.proxy.aclose()
        for root in self.roots.values():
            with ssh_host.locked(root):  # a create that was given up on is over then
                for there in ssh_host.instances(root):
                    self.kill(there.folder)
        assert not self.living()


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[SshBench, None]:
    sshd = server()
    with tempfile.TemporaryDirectory(prefix="sublet-ssh-") as folder:
        made = SshBench(sshd, Path(folder), await Proxy.before(sshd))
        try:
            yield made
        finally:
            await made.aclose()
