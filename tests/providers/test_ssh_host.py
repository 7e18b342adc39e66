"""The host's side of `ssh` on a real host: slots and their GPUs, claims, the hard end, and the wipe, whatever a job tries."""

import ast
import asyncio
import ctypes
import itertools
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from providers import ssh_host, ssh_host_keeper, ssh_host_processes
from providers.clock import SYSTEM
from providers.conformance import Missing
from providers.contract import Instance, Need, NoCapacity, Order, Phase, Provider, ProviderError, Refused, Unclear
from providers.ssh_host_processes import Census, Keeper
from tests.parts import lacks, sshd
from tests.providers import ssh_bench
from tests.providers.patience import eventually
from tests.providers.ssh_bench import SshBench

WHOLE = "sleep 600 & echo up >$HOME/up; wait\n"
_users = itertools.count(1_000_000 + (os.getpid() % 100_000) * 100, 10)


@pytest.fixture(autouse=True)
def sshd_is_here() -> None:
    try:
        ssh_bench.server()
    except Missing as lack:
        lacks(sshd.PART, str(lack))


@pytest.fixture
async def bench() -> AsyncIterator[SshBench]:
    async with ssh_bench.bench() as made:
        yield made


@pytest.fixture
def first_uid() -> int:
    """Ten user numbers that nobody has."""
    if os.geteuid() != 0:
        lacks("root", "run as root, so that slots can have users of their own")
    return next(_users)


def smi(bench: SshBench, cards: int, *, busy: Iterable[int] = (), fails: bool = False) -> str:
    """A stand-in for nvidia-smi that lists so many GPUs. Gives its path."""
    program = bench.folder / "nvidia-smi"
    listed = "\n".join(f"{card}, GPU-{card:04}, NVIDIA H200, 143771, 570.86" for card in reversed(range(cards)))
    used = "\n".join(f"GPU-{card:04}" for card in busy)
    program.write_text(
        "#!/bin/sh\n" + ("exit 9\n" if fails else f'case $1 in *compute-apps*) echo "{used}";; *) echo "{listed}";; esac\n')
    )
    program.chmod(0o755)
    return str(program)


async def ends(provider: Provider, instance: Instance) -> Instance:
    for _ in range(500):
        now = await provider.get(instance.id)
        assert now is not None
        if now.phase is Phase.STOPPED and "left" not in now.detail:
            return now
        await asyncio.sleep(0.01)
    raise AssertionError("it does not end")


def running(order: Order, script: str) -> Order:
    return replace(order, user_data=script)


def tree(root: Path) -> list[str]:
    """Every name below, also while somebody removes them."""
    found = [Path(folder) / name for folder, folders, files in os.walk(root) for name in (*folders, *files)]
    return sorted(str(path.relative_to(root)) for path in found if path.name != ".lock")


async def test_a_host_with_eight_gpus_has_eight_slots_and_each_sees_its_own(bench: SshBench) -> None:
    provider = bench.ssh({"gpus": 8, "slots": 0, "nvidia_smi": smi(bench, 8)})
    offers = {offer.id: offer for offer in await provider.offers(Need())}
    assert len(offers) == 16
    offer = offers["rack-1/slot-3"]
    assert (offer.gpu, offer.gpus, offer.gpu_memory_gib) == ("NVIDIA H200", 1, 140)
    script = f"env >{bench.folder}/new; mv {bench.folder}/new {bench.folder}/seen; sleep 600\n"
    await provider.create(running(replace(bench.order(), offer=offer), script))
    await eventually((bench.folder / "seen").exists, "the environment written")
    seen = dict(line.split("=", 1) for line in (bench.folder / "seen").read_text().splitlines())
    assert seen["CUDA_VISIBLE_DEVICES"] == seen["NVIDIA_VISIBLE_DEVICES"] == "GPU-0002"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    left = {offer.id for offer in await provider.offers(Need())}
    assert left == offers.keys() - {"rack-1/slot-3"}
    assert "7 of 8 slots free; 8 × NVIDIA H200, driver 570.86" in (await provider.check()).facts["rack-1"]


def test_slots_of_several_gpus_and_hosts_without_nvidia_smi() -> None:
    cards = {"cards": [{"uuid": f"GPU-{number}"} for number in range(8)]}
    order = {"gpus": 4}
    assert ssh_host.visible(cards, order, 2, "-1") == "GPU-4,GPU-5,GPU-6,GPU-7"
    assert ssh_host.visible({"cards": []}, order, 2, "-1") == "4,5,6,7"
    assert ssh_host.visible({}, {"gpus": 0}, 2, "void") == "void"


@pytest.mark.parametrize(
    ("cards", "fails", "why"),
    [(7, False, "nvidia-smi lists 7 of 8 GPUs"), (8, True, "nvidia-smi could not be asked: CalledProcessError")],
)
async def test_a_host_whose_gpus_are_not_well_is_left_out(bench: SshBench, cards: int, fails: bool, why: str) -> None:
    provider = bench.ssh({"gpus": 8, "slots": 0, "nvidia_smi": smi(bench, cards, fails=fails)})
    with pytest.raises(NoCapacity, match=why):
        await provider.offers(Need())
    health = await provider.check()
    assert not health.ok and health.facts["rack-2"] == why


async def test_gpus_by_the_settings_where_nvidia_smi_is_not_there(bench: SshBench) -> None:
    provider = bench.ssh({"gpus": 2, "slots": 0, "gpu": "MI300X", "gpu_memory_gib": 192, "nvidia_smi": "/nowhere/smi"})
    offers = await provider.offers(Need())
    assert [(offer.gpu, offer.gpu_memory_gib) for offer in offers] == [("MI300X", 192)] * 4
    assert "2 GPUs by the settings: nvidia-smi is not there" in (await provider.check()).facts["rack-1"]


async def test_a_slot_whose_gpu_somebody_else_uses_is_not_given_away(bench: SshBench) -> None:
    provider = bench.ssh({"gpus": 2, "slots": 0, "nvidia_smi": smi(bench, 2, busy=[0])})
    assert {offer.id for offer in await provider.offers(Need())} == {"rack-1/slot-2", "rack-2/slot-2"}
    assert "1 of 2 slots free and 1 whose GPUs another program uses" in (await provider.check()).facts["rack-1"]
    order = bench.order()  # for slot 1, by an offer that is older than the other program
    await provider.create(order)
    assert bench.there(order.tag).slot == 2
    with pytest.raises(NoCapacity, match="another program computes on GPU-0000 of slot 1"):
        await provider.create(replace(bench.order(), offer=order.offer))


async def test_a_full_or_foreign_host_is_left_out_with_its_reason(bench: SshBench) -> None:
    with pytest.raises(NoCapacity, match="min_disk_gib is 1000000000"):
        await bench.ssh(min_disk_gib=10**9).offers(Need())
    shutil.rmtree(bench.roots["rack-1"])
    bench.roots["rack-1"].write_text("no folder")
    provider = bench.ssh()
    assert {offer.type for offer in await provider.offers(Need())} == {"rack-2"}
    assert "cannot be written: File exists" in (await provider.check()).facts["rack-1"]
    bench.roots["rack-1"].unlink()


async def test_many_at_once_never_share_a_slot(bench: SshBench) -> None:
    providers = [bench.ssh({"slots": 2}) for _ in range(2)]
    orders = [replace(order, offer=replace(order.offer, id="rack-1/slot-1")) for order in (bench.order() for _ in range(4))]
    orders[1] = replace(orders[1], owner="another")
    calls = [providers[number % 2].create(order) for number, order in enumerate(orders)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    made = [result for result in results if isinstance(result, Instance)]
    assert len(made) == 2 and sum(isinstance(result, NoCapacity) for result in results) == 2
    assert {bench.there(instance.tag).slot for instance in made} == {1, 2}


async def test_a_tag_that_is_taken_stays_with_whom_it_belongs_to(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(order)
    with pytest.raises(Unclear, match="of another attempt is there"):
        await provider.create(replace(order, key="another"))
    with pytest.raises(Refused, match="an instance that is not ours"):
        await provider.create(replace(order, owner="another"))
    assert [found.id for found in await provider.owned(order.owner)] == [created.id]
    assert len(bench.instances()) == 1


async def test_what_a_killed_host_side_left_is_swept_by_the_next_create(bench: SshBench) -> None:
    provider, order, root = bench.ssh({"slots": 1}), bench.order(), bench.roots["rack-1"]
    (root / "slot-1" / ".new" / "work").mkdir(parents=True)
    (root / ".gone-1-1" / "work").mkdir(parents=True)
    assert [offer.id for offer in await provider.offers(Need()) if offer.type == "rack-1"] == ["rack-1/slot-1"]
    assert await provider.owned(order.owner) == []
    await provider.create(order)
    assert {path.name for path in root.iterdir()} == {".lock", "slot-1"}
    assert [path.name for path in (root / "slot-1").iterdir()] == [f"{order.owner}.{order.tag}"]


async def test_at_its_hard_end_it_ends_and_is_wiped_though_no_service_is_there(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    order = replace(running(order, WHOLE), ends_at=SYSTEM.now() + timedelta(seconds=0.7))
    created = await provider.create(order)
    folder = bench.there(order.tag).folder
    await provider.aclose()
    await eventually((folder / "ended.json").exists, "its hard end")
    await eventually(lambda: tree(folder) == ["console.log", "ended.json", "instance.json", "process.json"], "wiped")
    assert bench.living() == []
    ended = await bench.ssh().get(created.id)
    assert ended is not None and (ended.phase, ended.detail) == (Phase.STOPPED, "its hard end came")


async def test_an_order_that_is_over_already_ends_at_once(bench: SshBench) -> None:
    provider = bench.ssh()
    created = await provider.create(replace(bench.order(), ends_at=SYSTEM.now() - timedelta(hours=1)))
    assert (await ends(provider, created)).detail == "its hard end came"


async def test_what_a_job_leaves_behind_is_ended_and_removed(bench: SshBench) -> None:
    provider, order, mark = bench.ssh(), bench.order(), bench.folder / "fled"
    script = (
        f"(setsid env -i /bin/sh -c 'trap \"\" TERM HUP; echo $$ >{mark}.new; mv {mark}.new {mark}; sleep 600; exit' &)\n"
        "mkdir -p $HOME/closed/in; echo secret >$HOME/closed/in/file; chmod 000 $HOME/closed\nsleep 600\n"
    )
    created = await provider.create(running(order, script))
    await eventually(mark.exists, "a process that hides")
    fled = int(mark.read_text())
    await provider.destroy(created.id)
    assert ssh_host_processes.see(fled) is None
    assert await provider.get(created.id) is None and tree(bench.roots["rack-1"]) == []


async def test_a_script_that_ends_takes_all_it_started_along(bench: SshBench) -> None:
    provider = bench.ssh()
    created = await provider.create(running(bench.order(), "setsid sleep 600 &\nexit 3\n"))
    assert (await ends(provider, created)).detail == "the script ended with 3"
    assert bench.living() == [] and not (bench.there(created.tag).folder / "work").exists()


async def test_a_keeper_that_is_killed_takes_the_script_along(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(running(order, "exec sleep 600\n"))
    keeper = ssh_host.keeper_of(bench.there(order.tag))
    assert keeper is not None
    await eventually(lambda: bench.living() != [], "the script at work")
    os.kill(keeper.pid, signal.SIGKILL)
    assert (await ends(provider, created)).detail == "ended from outside"


async def test_a_record_of_another_boot_names_no_process_of_this_one(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(order)
    there = bench.there(order.tag)
    bench.kill(there.folder)
    mine = ssh_host_processes.see(os.getppid())
    assert mine is not None
    (there.folder / "process.json").write_text(f'{{"pid": {mine.pid}, "start": {mine.start}, "boot": "another"}}')
    (there.folder / "ended.json").unlink(missing_ok=True)  # a keeper that is ended last may still have written it
    now = await provider.get(created.id)
    assert now is not None and (now.phase, now.detail) == (Phase.STOPPED, "the host was started anew")
    await provider.destroy(created.id)
    assert ssh_host_processes.see(mine.pid) is not None and await provider.get(created.id) is None


def test_a_reused_pid_is_a_stranger() -> None:
    mine = ssh_host_processes.see(os.getpid())
    assert mine is not None and ssh_host_processes.alive(Keeper(mine.pid, mine.start, ssh_host_processes.boot()))
    assert not ssh_host_processes.alive(Keeper(mine.pid, mine.start + 1, ssh_host_processes.boot()))
    other = ssh_host_processes.see(os.getppid())
    assert other is not None
    ssh_host_processes.tell([other._replace(start=other.start + 1)], signal.SIGKILL)
    assert Census().of("/nowhere", Keeper(other.pid, other.start + 1, ssh_host_processes.boot())) == []


async def test_a_slot_has_a_user_of_its_own_who_owns_nothing_afterwards(bench: SshBench, first_uid: int) -> None:
    provider, order, uid = bench.ssh({"first_uid": first_uid}), bench.order(), first_uid + 1
    order = replace(order, offer=replace(order.offer, id="rack-1/slot-2"))
    scratch = Path(f"/dev/shm/sublet-{uid}")
    script = (
        f"mkdir {scratch}; echo secret >{scratch}/file; cat /proc/self/status >$HOME/new; mv $HOME/new $HOME/status\n"
        "(setsid env -i /bin/sh -c 'trap \"\" TERM; sleep 600' &) ; sleep 600\n"
    )
    created = await provider.create(running(order, script))
    folder = bench.there(order.tag).folder
    await eventually((folder / "work/home/status").exists, "the script at work")
    status = dict(line.split(":\t", 1) for line in (folder / "work/home/status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(uid)] * 4 and status["Gid"].split() == [str(uid)] * 4
    assert status["NoNewPrivs"] == "1" and int(status["CapEff"], 16) == 0
    segment = _shared_memory(uid)
    assert scratch in rest_of(uid) and segment in rest_of(uid)
    keeper = ssh_host.keeper_of(bench.there(order.tag))
    assert keeper is not None and ssh_host_processes.see(keeper.pid).uids == {0}  # pyright: ignore[reportOptionalMemberAccess]
    os.kill(keeper.pid, signal.SIGKILL)  # now nothing but the user tells whose processes they are
    await provider.destroy(created.id)
    assert rest_of(uid) == []
    assert not any(uid in seen.uids for seen in Census().all.values())
    assert tree(bench.roots["rack-1"]) == []


def rest_of(uid: int) -> list[Path | int]:
    """What a user has left in the places where everybody may leave something."""
    files = [path for path in Path("/dev/shm").iterdir() if path.lstat().st_uid == uid]
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()]
    return [*files, *(int(row[1]) for row in rows[1:] if row[rows[0].index("uid")] == str(uid))]


def _shared_memory(uid: int) -> int:
    """A System V segment of that user's, which outlives its processes."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setresuid(uid, uid, uid)
        os.write(writer, str(ctypes.CDLL(None).shmget(0, 4096, 0o1600)).encode())
        os._exit(0)
    os.wait()
    return int(os.read(reader, 20))


async def test_a_user_for_each_slot_needs_root(bench: SshBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    order = {"tag": "a", "seconds": 1, "gpus": 0}
    with pytest.raises(ssh_host.No, match="needs root"):
        ssh_host.create(order, str(bench.roots["rack-1"]), 1, 5000, [], "nvidia-smi")


async def test_processes_without_a_folder_are_shown_and_block_their_tag(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(order)
    await eventually(lambda: len(bench.living()) > 1, "the script at work")
    shutil.rmtree(bench.there(order.tag).folder.parent)
    with pytest.raises(Unclear, match="are left without their folder"):
        await provider.create(order)
    await provider.destroy(created.id)
    assert await provider.get(created.id) is None and bench.living() == []
    await provider.create(order)


async def test_what_does_not_end_is_told(bench: SshBench) -> None:
    provider = bench.ssh()
    created = await provider.create(bench.order())
    bench.stumble("destroy", "stuck")
    with pytest.raises(Unclear, match=r"2 processes of .* do not end"):
        await provider.destroy(created.id)


async def test_a_claim_that_could_not_be_wiped_stays_taken(bench: SshBench) -> None:
    provider, order = bench.ssh({"slots": 1}), bench.order()
    created = await provider.create(order)
    bench.stumble("destroy", "unwiped")
    with pytest.raises(ProviderError, match="Device or resource busy"):
        await provider.destroy(created.id)
    with pytest.raises(NoCapacity, match="all 1 slots of this host are taken"):
        await provider.create(replace(bench.order(), offer=order.offer))
    await provider.destroy(created.id)
    assert tree(bench.roots["rack-1"]) == []


@pytest.mark.parametrize("module", [ssh_host, ssh_host_keeper, ssh_host_processes], ids=lambda module: module.__name__)
def test_a_host_may_have_python_3_8(module: object) -> None:
    """Its syntax; annotations are never evaluated."""
    path = Path(str(getattr(module, "__file__", "")))
    text = path.read_text("utf-8")
    ast.parse(text, feature_version=(3, 8))
    assert "from __future__ import annotations" in text
