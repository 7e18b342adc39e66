"""`ssh` passes every check that its bench can stand up, on a real sshd; and the wire: pinned keys, lost hosts, lost answers."""

import asyncio
import base64
import fcntl
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from providers.clock import SYSTEM
from providers.conformance import CHECKS, Check, Missing
from providers.contract import Need, NoCapacity, Phase, Refused, Secret, Throttled, Unclear, Why
from providers.sdk import sdk
from providers.ssh_host_processes import Census
from tests.parts import lacks, sshd
from tests.parts.sshd import new_key
from tests.providers import ssh_bench
from tests.providers.patience import eventually
from tests.providers.ssh_bench import SshBench


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.applies_to(SshBench.faults)], ids=lambda check: check.name
)
async def test_conformance(check: Check) -> None:
    async with ssh_bench.bench() as bench:
        await check.run(bench)


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


async def test_a_host_with_another_key_than_the_pinned_one_is_told_nothing(bench: SshBench) -> None:
    provider, order = bench.ssh({"host_key": new_key()[1]}), bench.order()
    for call in (provider.create(order), provider.offers(Need()), provider.get("rack-1:a")):
        with pytest.raises(Refused, match="another host key than the pinned one") as caught:
            await call
        assert caught.value.why is Why.CREDENTIALS
    with pytest.raises(Unclear, match="2 of 2 hosts could not be listed"):
        await provider.owned(order.owner)
    assert not (await provider.check()).ok
    assert bench.instances() == []


async def test_a_host_that_known_hosts_does_not_name_is_not_trusted_on_first_use(bench: SshBench) -> None:
    (bench.folder / "known_hosts").write_text(f"elsewhere {bench.sshd.host_key}\n")
    with pytest.raises(Refused, match="pinned"):
        await bench.ssh().create(bench.order())
    (bench.folder / "known_hosts").write_text("")  # an empty file is not "no file": nobody is trusted
    with pytest.raises(Refused, match="pinned"):
        await bench.ssh().create(bench.order())


async def test_a_host_key_in_the_settings_needs_no_file(bench: SshBench) -> None:
    provider = bench.ssh({"host_key": bench.sshd.host_key}, known_hosts=None)
    assert len(await provider.offers(Need())) == 2 * ssh_bench.SLOTS


async def test_an_encrypted_key_is_opened_by_its_password(bench: SshBench) -> None:
    key = sdk("asyncssh", "ssh").import_private_key(bench.sshd.private_key)
    locked = key.export_private_key("pkcs8-pem", passphrase="hunter-2-hunter").decode()
    provider = bench.ssh(key=Secret(locked), key_password=Secret("hunter-2-hunter"))
    assert await provider.get("rack-1:nobody") is None
    for password in (None, Secret("wrong")):
        with pytest.raises(ValueError, match="key_password does not open it") as caught:
            bench.ssh(key=Secret(locked), key_password=password)
        assert "hunter" not in str(caught.value) and caught.value.__cause__ is None


async def test_a_refused_login_says_who_was_refused(bench: SshBench) -> None:
    bench.proxy.closed_next = True
    with pytest.raises(Refused, match=f"does not let {bench.sshd.user} in with this key"):
        await bench.ssh().get("rack-1:a")


async def test_a_host_that_hangs_up_at_once_is_throttling(bench: SshBench) -> None:
    bench.proxy.hang_up = 1
    with pytest.raises(Throttled) as caught:
        await bench.ssh().create(bench.order())
    assert caught.value.wait == timedelta(seconds=10)
    assert bench.instances() == []


async def test_a_host_that_is_away_is_no_capacity_and_the_others_go_on(bench: SshBench) -> None:
    tables = {**bench.settings.hosts, "rack-1": {**bench.settings.hosts["rack-1"], "port": 1}}
    provider = bench.ssh(hosts=tables)
    assert {offer.type for offer in await provider.offers(Need())} == {"rack-2"}
    with pytest.raises(NoCapacity, match="rack-1 cannot be reached"):
        await provider.create(bench.order())
    with pytest.raises(Unclear, match="1 of 2 hosts could not be listed: host rack-1") as caught:
        await provider.owned("nobody")
    assert not caught.value.maybe_created
    for call in (provider.get("rack-1:a"), provider.destroy("rack-1:a")):
        with pytest.raises(Unclear, match="rack-1"):
            await call
    health = await provider.check()
    assert not health.ok and health.summary == "1 of 2 hosts cannot be used: rack-1"
    assert "cannot be reached" in health.facts["rack-1"] and "3 of 3 slots free" in health.facts["rack-2"]


async def test_no_host_at_all_is_no_empty_list_of_offers(bench: SshBench) -> None:
    with pytest.raises(Unclear, match="cannot be reached"):
        await bench.ssh({"port": 1}).offers(Need())


async def test_a_drained_host_is_looked_after_and_gets_nothing_new(bench: SshBench) -> None:
    order = bench.order()
    created = await bench.ssh().create(order)
    drained = bench.ssh({"state": "drained"})
    assert await drained.offers(Need()) == []
    with pytest.raises(NoCapacity, match="no slot of a host that serves"):
        await drained.create(bench.order())
    assert [found.id for found in await drained.owned(order.owner)] == [created.id]
    assert "drained" in (await drained.check()).facts["rack-1"]
    await drained.destroy(created.id)
    assert await drained.get(created.id) is None


async def test_a_retired_host_is_not_asked_and_a_forgotten_one_proves_nothing(bench: SshBench) -> None:
    created = await bench.ssh().create(bench.order())
    retired = bench.ssh({"state": "retired", "port": 1})
    assert await retired.get(created.id) is None
    await retired.destroy(created.id)
    assert await retired.owned("nobody") == [] == await retired.offers(Need())
    assert (await retired.check()).facts == {"rack-1": "retired", "rack-2": "retired"}
    forgotten = bench.ssh(hosts={"rack-2": bench.settings.hosts["rack-2"]})
    for call in (forgotten.get(created.id), forgotten.destroy(created.id)):
        with pytest.raises(Unclear, match="rack-1 is not in the settings any more"):
            await call
    assert len(bench.instances()) == 1


async def test_a_connection_that_broke_meanwhile_is_made_anew(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(order)
    await bench.proxy.cut()
    assert (await provider.create(order)).id == created.id
    await bench.proxy.cut()
    running = await provider.get(created.id)
    assert running is not None and running.phase is Phase.RUNNING
    assert bench.proxy.connections == 3


async def test_a_look_whose_connection_breaks_underway_is_asked_again(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    created = await provider.create(order)
    bench.stumble("look", "lost")
    assert await provider.get(created.id) is not None
    bench.stumble("destroy", "lost")
    await provider.destroy(created.id)
    assert await provider.get(created.id) is None


async def test_cut_off_in_the_middle_of_a_create_it_goes_on_and_is_found_by_its_tag(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    assert await provider.get("rack-1:a") is None  # connected
    root = bench.roots["rack-1"]
    root.mkdir(parents=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        creating = asyncio.create_task(provider.create(order))
        await eventually(lambda: waits_for_the_lock(root), "the host's side at the lock")
        await bench.proxy.cut()
        with pytest.raises(Unclear, match="the connection was lost") as caught:
            await creating
        assert caught.value.maybe_created
        assert await provider.owned(order.owner) == []
    await eventually(lambda: len(bench.living()) > 0, "made by the host's side alone")
    found = await provider.create(order)
    assert [instance.id for instance in await provider.owned(order.owner)] == [found.id]


def waits_for_the_lock(root: Path) -> bool:
    """Whether another process has the lock's file open."""
    return any(holds(pid, root / ".lock") for pid in Census().all if pid != os.getpid())


def holds(pid: int, path: Path) -> bool:
    try:
        return any(entry.readlink() == path for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


async def test_a_host_that_does_not_answer_is_given_up_on(bench: SshBench) -> None:
    provider, order = bench.ssh(call_timeout=timedelta(seconds=0.3)), bench.order()
    root = bench.roots["rack-1"]
    root.mkdir(parents=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unclear, match=r"no answer within 0\.3 s") as caught:
            await provider.create(order)
        assert caught.value.maybe_created
    await eventually(lambda: len(bench.living()) > 0, "it came all the same")


@pytest.mark.parametrize("word", ["garbage", "strange", "error"])
async def test_what_a_host_says_is_not_believed(bench: SshBench, word: str) -> None:
    provider = bench.ssh()
    bench.stumble("listing", word)
    with pytest.raises(Unclear):
        await provider.owned("nobody")
    assert await provider.owned("nobody") == []


async def test_a_full_disk_is_no_capacity(bench: SshBench) -> None:
    bench.stumble("create", "full disk")
    with pytest.raises(NoCapacity, match="No space left on device"):
        await bench.ssh().create(bench.order())


async def test_a_login_that_talks_first_and_a_host_without_python(bench: SshBench) -> None:
    talker = bench.folder / "talker"
    talker.write_text(f'#!/bin/sh\necho Welcome; echo to this host\nexec {ssh_bench.PYTHON} "$@"\n')
    talker.chmod(0o755)
    assert await bench.ssh({"python": str(talker)}).get("rack-1:a") is None
    with pytest.raises(NoCapacity, match=r"its side does not start: .*no-python"):
        await bench.ssh({"python": "/nowhere/no-python"}).create(bench.order())


async def test_with_sudo_the_host_s_side_runs_under_it_and_never_waits_for_a_password(bench: SshBench) -> None:
    sudo, said = bench.sshd.folder / "bin" / "sudo", bench.folder / "said"
    sudo.write_text(f'#!/bin/sh\necho "$1 $2 $3" >{said}\n[ "$1" = -n ] && shift && exec "$@"\n')
    sudo.chmod(0o755)
    assert await bench.ssh(sudo=True).get("rack-1:a") is None
    assert said.read_text() == f"-n {ssh_bench.PYTHON} -I\n"
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    with pytest.raises(NoCapacity, match="its side does not start: sudo: a password is required"):
        await bench.ssh({"sudo": True}).create(bench.order())
    sudo.unlink()


async def test_nothing_of_an_order_is_an_argument_or_in_the_environment_and_the_key_goes_nowhere(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    secret = "join-token-" + base64.b32encode(os.urandom(10)).decode()
    order = replace(order, user_data=f"# {secret}\n{order.user_data}")
    await provider.create(order)
    await eventually(lambda: len(bench.living()) > 1, "the script at work")
    words = [read(pid, name) for pid in Census().all for name in ("cmdline", "environ")]
    assert not any(secret in word for word in words if str(bench.folder) in word or "sublet" in word)
    assert secret in (bench.there(order.tag).folder / "start.sh").read_text()
    assert (bench.there(order.tag).folder / "start.sh").stat().st_mode & 0o077 == 0
    assert "agent" not in bench.sshd.log().lower().replace("useragent", "")


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def test_a_script_sees_a_clean_environment(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    await provider.create(
        replace(order, user_data=f"env >{bench.folder}/seen.new; mv {bench.folder}/seen.new {bench.folder}/seen\nsleep 600\n")
    )
    await eventually((bench.folder / "seen").exists, "the environment written")
    names = {line.partition("=")[0] for line in (bench.folder / "seen").read_text().splitlines()}
    ours = {"PATH", "HOME", "TMPDIR", "LANG", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {*ours, "SUBLET_SSH_INSTANCE"}


async def test_ids_of_another_shape_are_nobodys(bench: SshBench) -> None:
    provider = bench.ssh()
    for stranger in ("rack-1", "rack-1:", "rack-1:Upper", "rack-1:a/b", ":a", "rack-1:a:b", "rack_1:a", "rack-1/../x:a"):
        assert await provider.get(stranger) is None
        await provider.destroy(stranger)
    assert bench.proxy.connections == 0


async def test_orders_for_what_is_no_slot_are_no_capacity(bench: SshBench) -> None:
    provider, order = bench.ssh(), bench.order()
    for strange in ("slot-1", "rack-9/slot-1", "rack-1/slot-x", "../slot-1"):
        with pytest.raises(NoCapacity, match="no slot of a host that serves"):
            await provider.create(replace(order, offer=replace(order.offer, id=strange)))


async def test_offers_are_own_and_priced_by_the_settings(bench: SshBench) -> None:
    before = SYSTEM.now()
    tables = {
        **bench.settings.hosts,
        "rack-1": {**bench.settings.hosts["rack-1"], "contracted": True, "price_per_hour": "2.50"},
    }
    provider = bench.ssh(hosts=tables, currency="SGD", country="SG", region="kulai")
    offers = {offer.id: offer for offer in await provider.offers(Need())}
    own, rented = offers["rack-2/slot-3"], offers["rack-1/slot-3"]
    assert (own.own, own.price_per_hour, rented.own, str(rented.price_per_hour)) == (True, 0, False, "2.50")
    assert (own.currency, own.country, own.region, own.gpu, own.gpus, own.type) == ("SGD", "SG", "kulai", None, 0, "rack-2")
    assert own.seen_at >= before and own.memory_gib and own.disk_gib
    assert not provider.traits.own_hardware and bench.ssh().traits.own_hardware
