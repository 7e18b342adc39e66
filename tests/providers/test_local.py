"""Real processes: what they are given, how they escape, how they end, and that no stranger is ever ended for them."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from providers import local, local_folders
from providers.clock import SYSTEM
from providers.contract import Instance, Need, NoCapacity, Order, Phase, Refused, Throttled, Unclear
from providers.local import LocalProvider, LocalSettings
from providers.local_folders import Folders
from providers.local_gpus import Gpu, share
from tests.providers.benches import Orders, plain_offer
from tests.providers.patience import eventually


@dataclass
class Yard:
    root: Path

    def __post_init__(self) -> None:
        self.folders = Folders(self.root, "local")
        self.orders = Orders(plain_offer("local", SYSTEM.now()), now=SYSTEM.now())
        self.provider = LocalProvider("local", LocalSettings(self.root, slots=3))

    def order(self, script: str) -> Order:
        return replace(self.orders(), user_data=script)

    async def runs(self, script: str) -> Instance:
        return await self.provider.create(self.order(script))

    def folder(self, instance: Instance) -> Path:
        return self.root.resolve() / instance.tag

    async def shown(self, instance: Instance, phase: Phase) -> Instance:
        """The instance, once it is in that phase."""
        async with asyncio.timeout(5):
            while True:
                now = await self.provider.get(instance.id)
                if now is not None and now.phase is phase:
                    return now
                await asyncio.sleep(0.01)

    async def written(self, instance: Instance, name: str) -> str:
        """The file that the script writes in its folder, once it is whole: its last line is "done"."""
        path = self.folder(instance) / name
        await eventually(lambda: path.exists() and path.read_text().endswith("done\n"), f"{name} written")
        return path.read_text()

    async def destroyed(self, instance: Instance) -> None:
        await self.provider.destroy(instance.id)
        assert await self.provider.get(instance.id) is None
        assert not self.folder(instance).exists()


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    place = Yard(tmp_path / "root")
    yield place
    for tag in place.folders.tags():
        await place.provider.destroy(tag)
        assert not place.folders.processes(tag)


def bearing(word: str) -> list[psutil.Process]:
    """The living processes with this word among their arguments."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def ended(word: str) -> None:
    await eventually(lambda: not bearing(word), f"{word} ended")


def unique() -> str:
    """A number of seconds that no other `sleep` on this machine was given."""
    return f"600.{secrets.randbelow(10**9):09d}"


async def test_the_script_gets_a_clean_environment_and_its_own_folder(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLET_GITHUB_TOKEN", "sk-live-0123456789")
    instance = await yard.runs("pwd >out; env >>out; echo done >>out; echo to the console; echo and errors >&2; sleep 600")
    lines = (await yard.written(instance, "out")).splitlines()
    folder = yard.folder(instance)
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    assert lines[0] == str(folder)
    assert environment.pop("PATH").split(":")[:2] == [str(Path(sys.executable).parent), "/usr/local/sbin"]
    environment.pop("_", None)
    environment.pop("OLDPWD", None)
    environment.pop("LC_CTYPE", None)  # CPython adds it to its own in a C locale
    assert environment == {
        "HOME": f"{folder}/home",
        "TMPDIR": f"{folder}/tmp",
        "LANG": "C.UTF-8",
        "PWD": str(folder),
        "SUBLET_LOCAL_INSTANCE": str(folder),
    } | {name: environment[name] for name in ("SHLVL", "CUDA_VISIBLE_DEVICES") if name in environment}
    assert (folder / "home").is_dir()
    assert (folder / "tmp").is_dir()
    assert (folder / "console.log").read_text() == "to the console\nand errors\n"


async def test_files_are_private_and_nothing_is_told_by_arguments(yard: Yard) -> None:
    instance = await yard.runs("# hush-hush-token\nsleep 600 & wait\n")
    folder = yard.folder(instance)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert {name: mode for name, mode in modes.items() if name not in ("home", "tmp")} == dict.fromkeys(
        ("instance.json", "start.sh", "process.json", "console.log"), 0o600
    )
    assert (modes["home"], modes["tmp"]) == (0o700, 0o700)
    assert folder.stat().st_mode & 0o777 == 0o711, "a runner that drops its rights may pass through, and list nothing"
    for process in yard.folders.processes(instance.tag):
        assert "hush-hush-token" not in " ".join(process.cmdline())


async def test_a_script_that_ends_takes_all_it_started_along(yard: Yard) -> None:
    seconds = unique()
    instance = await yard.runs(f"setsid sleep {seconds} & (setsid sh -c 'sleep {seconds} & sleep {seconds}' &) ; exit 3")
    stopped = await yard.shown(instance, Phase.STOPPED)
    assert stopped.detail.startswith("the script ended with 3")
    await ended(seconds)
    await yard.destroyed(instance)


async def test_the_hard_end_comes_without_any_service(yard: Yard) -> None:
    seconds = unique()
    order = replace(yard.order(f"trap '' TERM; sleep {seconds}"), ends_at=SYSTEM.now() + timedelta(seconds=0.5))
    instance = await yard.provider.create(order)
    assert bearing(seconds) or (await yard.provider.get(instance.id)) is not None
    stopped = await yard.shown(instance, Phase.STOPPED)
    assert stopped.detail.startswith("its hard end came")
    await ended(seconds)


@pytest.mark.parametrize(
    "escape",
    [
        "setsid sleep {s} &",
        "(setsid sh -c '(setsid sleep {s} &)' &)",
        "(cd / && setsid env -i /bin/sleep {s} >/dev/null 2>&1 </dev/null &)",
        "trap '' TERM; sleep {s} &",
        "(trap '' TERM HUP INT; nohup setsid sleep {s} >/dev/null 2>&1 &)",
        "for i in 1 2 3 4 5 6 7 8 9 10; do (setsid sh -c 'trap \"\" TERM; sleep {s}' &) ; done",
    ],
)
async def test_whoever_escapes_is_found_and_ended(yard: Yard, escape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE", 0.1)
    seconds = unique()
    instance = await yard.runs(escape.format(s=seconds) + "\necho done >out\nsleep 600 & wait\n")
    await yard.written(instance, "out")
    await eventually(lambda: bool(bearing(seconds)), "the escape")
    await yard.destroyed(instance)
    assert bearing(seconds) == []


async def test_a_process_whose_first_thread_has_ended_is_no_zombie(yard: Yard) -> None:
    hide = (
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "open('out', 'w').write(f'{os.getpid()}\\ndone\\n')\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    instance = await yard.runs(f"cat >hide.py <<'PY'\n{hide}PY\n{sys.executable} -I hide.py & sleep 600\n")
    hidden = psutil.Process(int((await yard.written(instance, "out")).split()[0]))
    await eventually(lambda: hidden.status() == psutil.STATUS_ZOMBIE, "its first thread ended")
    assert hidden.pid in {process.pid for process in yard.folders.processes(instance.tag)}
    await yard.destroyed(instance)
    await eventually(lambda: not hidden.is_running() or hidden.num_threads() < 2, "all its threads ended")


async def test_a_gentle_script_may_end_by_itself(yard: Yard, tmp_path: Path) -> None:
    bye = tmp_path / "bye"
    instance = await yard.runs(f"trap 'echo bye >{bye}; exit 0' TERM\necho done >out\nsleep 600 & wait\n")
    await yard.written(instance, "out")
    await yard.destroyed(instance)
    assert bye.read_text() == "bye\n"


async def test_with_its_keeper_killed_an_instance_is_off_but_its_processes_are_still_found(yard: Yard) -> None:
    seconds = unique()
    instance = await yard.runs(f"env -u SUBLET_LOCAL_INSTANCE sleep {seconds} &\necho done >out\nwait\n")
    await yard.written(instance, "out")
    keeper = json.loads((yard.folder(instance) / "process.json").read_text())
    psutil.Process(keeper["pid"]).kill()
    stopped = await yard.shown(instance, Phase.STOPPED)
    assert stopped.detail == "ended from outside; 2 of its processes are left"
    await yard.destroyed(instance)
    assert bearing(seconds) == []


async def test_a_stranger_under_a_reused_pid_is_never_ended(yard: Yard) -> None:
    instance = await yard.runs("exit 0")
    await yard.shown(instance, Phase.STOPPED)
    stranger = await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    try:
        path = yard.folder(instance) / "process.json"
        keeper = json.loads(path.read_text())
        with contextlib.suppress(psutil.NoSuchProcess):  # what it wrote last it wrote while it was there
            psutil.Process(keeper["pid"]).wait(10)
        path.write_text(json.dumps({"pid": stranger.pid, "created": keeper["created"] - 100}))
        (yard.folder(instance) / "ended.json").unlink()
        now = await yard.provider.get(instance.id)
        assert now is not None
        assert (now.phase, now.detail) == (Phase.STOPPED, "ended from outside")
        await yard.destroyed(instance)
        assert stranger.returncode is None, "the stranger lives"
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_folder_that_somebody_removed_does_not_hide_its_processes(yard: Yard) -> None:
    order = yard.order("echo done >out\nsleep 600 & wait\n")
    instance = await yard.provider.create(order)
    await yard.written(instance, "out")
    shutil.rmtree(yard.folder(instance))
    now = await yard.provider.get(instance.id)
    assert now is not None
    assert now.phase is Phase.DESTROYING
    with pytest.raises(Unclear, match="left without their folder"):
        await yard.provider.create(order)
    await yard.destroyed(instance)


async def test_a_job_that_takes_its_own_rights_away_does_not_keep_its_folder(yard: Yard) -> None:
    instance = await yard.runs("mkdir -p a/b; touch a/b/c; ln -s / a/slash; chmod 0 a/b; echo done >out; sleep 600")
    await yard.written(instance, "out")
    await yard.destroyed(instance)
    assert [entry.name for entry in yard.root.iterdir()] == [".lock"]


async def test_slots_are_offered_while_they_are_free(yard: Yard) -> None:
    offers = await yard.provider.offers(Need())
    assert [offer.id for offer in offers] == ["slot-1", "slot-2", "slot-3"]
    assert all(offer.own and offer.price_per_hour == 0 and offer.memory_gib for offer in offers)
    second = replace(yard.orders(), offer=offers[1])
    await yard.provider.create(second)
    assert [offer.id for offer in await yard.provider.offers(Need())] == ["slot-1", "slot-3"]
    await yard.provider.create(replace(yard.orders(), offer=offers[1]))
    assert [offer.id for offer in await yard.provider.offers(Need())] == ["slot-3"], "an equal slot serves as well"
    assert (await yard.provider.check()).summary == "1 of 3 slots are free on this machine"


async def test_two_services_never_fill_more_slots_than_there_are(yard: Yard) -> None:
    other = LocalProvider("local", LocalSettings(yard.root, slots=3))
    results = await asyncio.gather(
        *(provider.create(yard.orders()) for provider in (yard.provider, other) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Instance"] * 3 + ["NoCapacity"] * 3
    assert len({yard.folders.record(tag) for tag in yard.folders.tags()}) == 3
    assert len(yard.folders.taken()) == 3


async def test_a_name_that_is_not_ours_is_refused(yard: Yard) -> None:
    order = yard.orders()
    await yard.provider.create(order)
    with pytest.raises(Refused, match="not ours"):
        await yard.provider.create(replace(order, owner="stranger"))


async def test_while_another_one_works_a_create_is_put_off(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_folders, "PATIENCE", 0.05)
    yard.root.mkdir()
    lock = os.open(yard.root / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with pytest.raises(Throttled) as caught:
            await yard.provider.create(yard.orders())
        assert caught.value.wait == timedelta(seconds=2)
    finally:
        os.close(lock)


async def test_a_root_that_cannot_be_written_is_not_healthy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    provider = LocalProvider("local", LocalSettings(tmp_path / "file" / "root"))
    with pytest.raises(Unclear):
        await provider.check()
    with pytest.raises(Unclear):
        await provider.create(Orders(plain_offer("local", SYSTEM.now()), now=SYSTEM.now())())


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="slots"):
        LocalSettings(tmp_path, slots=0)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi tells of two GPUs, in the form that it really has."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'GPU-aaaa, NVIDIA H100 80GB HBM3, 81559'\necho 'GPU-bbbb, NVIDIA H100 80GB HBM3, 81559'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


async def test_gpus_are_shared_out_among_the_slots_and_seen_by_theirs_alone(yard: Yard, two_gpus: None) -> None:
    offers = await yard.provider.offers(Need())
    assert [(offer.gpu, offer.gpus, offer.gpu_memory_gib) for offer in offers] == [
        ("NVIDIA H100 80GB HBM3", 1, 79),
        ("NVIDIA H100 80GB HBM3", 1, 79),
        (None, 0, 0),
    ]
    script = 'echo "$CUDA_VISIBLE_DEVICES" >out; echo done >>out; sleep 600'
    seen: list[str] = []
    for offer in offers:
        instance = await yard.provider.create(replace(yard.order(script), offer=offer))
        seen.append((await yard.written(instance, "out")).split()[0])
    assert seen == ["GPU-aaaa", "GPU-bbbb", "-1"]
    with pytest.raises(NoCapacity):
        await yard.provider.create(replace(yard.orders(), offer=offers[0]))


def test_an_even_share_of_the_gpus() -> None:
    gpus = tuple(Gpu(f"GPU-{number}", "H100", 80) for number in range(8))
    assert [len(share(gpus, slot, 2)) for slot in (1, 2)] == [4, 4]
    assert [len(share(gpus[:1], slot, 3)) for slot in (1, 2, 3)] == [1, 0, 0]
    assert len({gpu.uuid for slot in range(1, 5) for gpu in share(gpus, slot, 4)}) == 8


async def test_a_signal_to_the_service_does_not_reach_its_instances(yard: Yard) -> None:
    instance = await yard.runs("sleep 600 & wait\n")
    groups = {os.getpgid(process.pid) for process in yard.folders.processes(instance.tag)}
    sessions = {os.getsid(process.pid) for process in yard.folders.processes(instance.tag)}
    assert os.getpgid(0) not in groups
    assert os.getsid(0) not in sessions
    for number in (signal.SIGHUP, signal.SIGINT):
        os.kill(json.loads((yard.folder(instance) / "process.json").read_text())["pid"], number)
    now = await yard.provider.get(instance.id)
    assert now is not None
    assert now.phase is Phase.RUNNING
