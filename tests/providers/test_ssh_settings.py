"""The settings of `ssh`: hosts as sublet.toml names them, what all have in common, and what makes no sense."""

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers import registry
from providers.contract import Secret
from providers.ssh import SshProvider
from providers.ssh_hosts import SshSettings, State, hosts_of
from providers.ssh_wire import program
from tests.parts.sshd import new_key

PRIVATE, HOST_KEY = new_key()
KEY = Secret(PRIVATE)
PAGE = Path(__file__).parents[2] / "docs/how-to/providers/ssh.md"


def settings(host: dict[str, Any] | None = None, **rest: Any) -> SshSettings:
    return SshSettings(hosts={"rack-1": {"host_key": HOST_KEY, **(host or {})}}, key=KEY, **rest)


def test_a_host_takes_what_it_does_not_say_from_the_provider() -> None:
    made = settings({"gpus": 8, "slot_gpus": 2, "port": 2222}, first_uid=5000, user="ci", price_per_hour=Decimal("0.40"))
    host = hosts_of(made)["rack-1"]
    assert (host.address, host.port, host.user, host.first_uid, host.slots, host.each) == ("rack-1", 2222, "ci", 5000, 4, 2)
    assert (host.price, host.own, host.state) == (Decimal("0.40"), True, State.SERVING)


def test_a_host_without_gpus_has_one_slot_unless_it_says_more() -> None:
    assert hosts_of(settings())["rack-1"].slots == 1
    host = hosts_of(settings({"slots": 5}))["rack-1"]
    assert (host.slots, host.each) == (5, 0)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ({"gpu_count": 8}, "unknown gpu_count; it knows address, "),
        ({"host_key": ""}, "needs a host_key, or the provider a known_hosts file"),
        ({"port": 0.5}, "port is not a int"),
        ({"port": True}, "port is not a int"),
        ({"port": 70000}, "port is 1 to 65535"),
        ({"user": "a\nb"}, "user is empty"),
        ({"root": "/var/../etc"}, "root is a plain absolute path"),
        ({"root": "instances"}, "root is a plain absolute path"),
        ({"root": "/a b"}, "root is a plain absolute path"),
        ({"python": "python3; rm"}, "python is a plain path"),
        ({"nvidia_smi": "a b"}, "nvidia_smi is a plain path"),
        ({"country": "sg"}, "country is two capital letters"),
        ({"gpus": -1}, "gpus and gpu_memory_gib are not negative"),
        ({"gpus": 8, "slot_gpus": 16}, "a slot needs at least slot_gpus GPUs"),
        ({"gpus": 8, "slots": 9}, "9 slots of 1 GPUs are more than it has"),
        ({"slots": 1000}, "slots is 1 to 128"),
        ({"first_uid": 33}, "first_uid is 0, or at least 1000"),
        ({"price_per_hour": "cheap"}, "price_per_hour is not a number"),
        ({"price_per_hour": -1}, "price_per_hour is negative"),
        ({"contracted": True}, "a contracted host has a price_per_hour"),
        ({"state": "asleep"}, "state is one of serving, drained, retired"),
    ],
)
def test_what_makes_no_sense_is_told(host: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match="host rack-1: ") as caught:
        settings(host)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", ["Rack", "a b", "", "-a", "x" * 64, "a:b"])
def test_a_host_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="its name is made of"):
        SshSettings(hosts={name: {"host_key": HOST_KEY}}, key=KEY)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"hosts": {}}, "hosts names no host"),
        ({"key": Secret("")}, "key is empty"),
        ({"min_disk_gib": -1}, "min_disk_gib at least 0"),
        ({"price_per_hour": Decimal(-1)}, "not negative"),
    ],
)
def test_a_provider_needs_hosts_and_a_key(given: dict[str, Any], why: str) -> None:
    sane: dict[str, Any] = {"hosts": {"a": {"host_key": HOST_KEY}}, "key": KEY}
    with pytest.raises(ValueError, match=why):
        SshSettings(**sane | given)


def test_keys_that_are_none_are_told_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key is no private key that can be read") as caught:
        SshProvider("racks", SshSettings(hosts={"a": {"host_key": HOST_KEY}}, key=Secret("hush-hush")))
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="host rack-1: host_key is not a public key"):
        SshProvider("racks", settings({"host_key": "ssh-ed25519 ????"}))
    with pytest.raises(ValueError, match=r"known_hosts .* cannot be read: FileNotFoundError"):
        SshProvider("racks", settings(known_hosts=tmp_path / "missing"))


async def test_the_page_s_example_is_built_through_the_registry(tmp_path: Path) -> None:
    (known := tmp_path / "known_hosts").write_text(f"gpu-rack-1 {HOST_KEY}\n")
    block = PAGE.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    table = tomllib.loads(block)["provider"][0]
    values = {key: value for key, value in table.items() if key not in ("name", "kind")}
    built = registry.build(table["kind"], table["name"], {**values, "key": KEY, "known_hosts": str(known)})
    assert isinstance(built, SshProvider)
    hosts = hosts_of(built.settings)
    assert hosts["rack-1"].slots == 8 and hosts["colo-7"].contracted and not built.traits.own_hardware
    await built.aclose()


def test_the_page_names_every_setting() -> None:
    page = PAGE.read_text("utf-8")
    names = {*SshSettings.__dataclass_fields__, *hosts_of(settings())["rack-1"].__dataclass_fields__} - {"name"}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_what_is_sent_is_the_host_s_side_and_nothing_of_ours() -> None:
    text = program().decode()
    assert "def serve()" in text and "BEGIN OPENSSH" not in text and len(text) < 64 * 1024
    compile(text, "sent", "exec")
