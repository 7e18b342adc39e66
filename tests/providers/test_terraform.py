"""Terraform: the conformance suite, and what it is called with, what it may see, how its errors are sorted, what it keeps."""

import json
import re
import shutil
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers.conformance import CHECKS, Check
from providers.conformance.bench import refusal
from providers.contract import BootsFrom, Need, NoCapacity, Phase, Reach, Refused, Secret, Throttled, Unclear, Why
from providers.registry import Installed, Kind, build
from providers.terraform import TerraformProvider
from providers.terraform_settings import TerraformSettings, patterns
from providers.terraform_words import errors, hidden, shown, sort
from tests.providers.terraform_bench import MODULE, REAL, STAND_IN, TOKEN, TerraformBench, stood_up

SETTINGS: dict[str, Any] = {"root": Path("root"), "module": MODULE, "offers": {"one": {"price_per_hour": 1}}}


@pytest.fixture
async def bench() -> AsyncIterator[TerraformBench]:
    """On the stand-in, which is quick; `real` is for what only the real program can tell."""
    async with stood_up(STAND_IN) as one:
        yield one


@pytest.fixture
async def real() -> AsyncIterator[TerraformBench]:
    async with stood_up(REAL or STAND_IN) as one:
        yield one


def named(check: Check) -> str:
    return check.name


@pytest.mark.parametrize("check", [check for check in CHECKS if check.needs <= TerraformBench.faults], ids=named)
async def test_terraform(check: Check) -> None:
    async with stood_up(STAND_IN) as bench:
        await check.run(bench)


async def test_a_whole_life_and_no_word_of_it_where_everybody_may_look(real: TerraformBench) -> None:
    provider, order = await real.provider(), real.order()
    instance = await provider.create(order)
    assert (instance.phase, instance.region, instance.detail) == (Phase.RUNNING, "yard-1", f"running (m-{order.tag})")
    tag, owner, ends_at = (real.yard / "asked").read_text().split()
    assert (tag, owner, ends_at) == (order.tag, order.owner, order.ends_at.isoformat())
    lease = real.lease(order.tag)
    inputs = json.loads((lease / "order.tfvars.json").read_text())
    assert inputs["user_data"] == order.user_data
    assert "image" not in inputs, "the module does not declare it"
    for path in lease.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, f"{path.name} can be read by others"
    calls = (real.yard / "calls").read_text()
    assert order.user_data.split()[0] not in calls and TOKEN not in calls
    assert order.user_data not in (lease / "shown.json").read_text() or "sensitive" in (lease / "shown.json").read_text()
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None
    assert real.machines == [] and not lease.exists()
    assert len(real.calls("init")) == 1


async def test_what_the_module_reads_may_be_gone_and_the_destroy_still_succeeds(real: TerraformBench) -> None:
    provider, order = await real.provider(), real.order()
    await provider.create(order)
    (real.yard / "machines" / order.tag).unlink()
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None
    assert [("-refresh=false" in call) for call in real.calls("destroy")] == [False, True]


async def test_no_capacity_leaves_nothing_of_what_was_made_before_it(real: TerraformBench) -> None:
    provider, order = await real.provider(), real.order()
    real.strike("no-capacity")
    error = await refusal(provider.create(order))
    assert isinstance(error, NoCapacity) and error.reach is Reach.OFFER
    assert "InsufficientInstanceCapacity" in str(error)
    assert len(real.calls("destroy")) == 1
    assert await provider.owned(order.owner) == [] and not real.lease(order.tag).exists()


async def test_a_no_whose_clean_up_fails_is_no_definite_no(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    bench.strike("no-capacity")
    bench.before_the_program('[ "$1" = destroy ] && exit 1')
    error = await refusal(provider.create(order))
    assert isinstance(error, Unclear) and error.maybe_created
    assert [one.phase for one in await provider.owned(order.owner)] == [Phase.DESTROYING]


async def test_a_destroy_that_fails_keeps_the_state_and_succeeds_later(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    bench.before_the_program('[ "$1" = destroy ] && { echo "InternalError: it does not go" >&2; exit 1; }')
    error = await refusal(provider.destroy(order.tag))
    assert isinstance(error, Unclear) and "it does not go" in str(error)
    there = await provider.get(order.tag)
    assert there is not None and (there.phase, there.detail) == (Phase.DESTROYING, "terraform destroy did not succeed yet")
    assert (bench.lease(order.tag) / "terraform.tfstate").exists()
    again = await refusal(provider.create(order))
    assert isinstance(again, Unclear) and not again.maybe_created, "nothing is made anew under a name that is ending"
    bench.before_the_program("")
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None


async def test_terraform_sees_what_the_settings_name_and_nothing_of_the_service(
    bench: TerraformBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "not for others")
    monkeypatch.setenv("CLOUD_REGION", "yard-1")
    bench.before_the_program(f"env >{bench.yard}/environment")
    provider = bench.another(pass_environment=("CLOUD_REGION", "NOT_SET"), environment={"PLAIN": "x"})
    order = bench.order()
    await provider.create(order)
    seen = bench.environment()
    assert (seen["VENDOR_TOKEN"], seen["CLOUD_REGION"], seen["PLAIN"]) == (TOKEN, "yard-1", "x")
    assert (seen["TF_WORKSPACE"], seen["TF_INPUT"], seen["CHECKPOINT_DISABLE"]) == (order.tag, "0", "1")
    assert "SERVICE_SECRET" not in seen and "NOT_SET" not in seen and seen["HOME"] == str(bench.settings.root)


async def test_machines_are_asked_about_at_the_allowed_rate_only(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    for _ in range(5):
        assert await provider.get(order.tag)
    assert len(bench.calls("apply")) == 1
    await bench.clock.sleep(3601)
    for _ in range(5):
        assert await provider.get(order.tag)
    assert len(bench.calls("apply")) == 2
    never = bench.another(refresh_every=timedelta(0))
    await bench.clock.sleep(10_000)
    assert await never.get(order.tag)
    assert len(bench.calls("apply")) == 2


async def test_a_refresh_that_fails_is_unclear_and_absence_is_not_concluded(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    assert await provider.get(order.tag)
    (bench.yard / "machines" / order.tag).unlink()
    await bench.clock.sleep(3601)
    error = await refusal(provider.get(order.tag))
    assert isinstance(error, Unclear) and "Unable to find remote state" in str(error) and not error.maybe_created
    there = await provider.get(order.tag)
    assert there is not None and there.phase is Phase.RUNNING, "the next look says what was known last"


async def test_a_reclaimed_machine_is_told_by_the_modules_output(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    await bench.put(order.tag, "reclaimed")
    taken = await provider.get(order.tag)
    assert taken is not None and (taken.phase, taken.preempted) == (Phase.STOPPED, True)


async def test_leases_go_on_with_the_module_that_made_them(bench: TerraformBench, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(MODULE, module)
    provider, old, new = bench.another(module=module), bench.order(), bench.order()
    await provider.create(old)
    (module / "vendor.sh").write_text((module / "vendor.sh").read_text().replace("tell running", "tell stopped"))
    assert (await provider.create(new)).phase is Phase.STOPPED
    shutil.rmtree(module)
    versions = [path for path in (bench.settings.root / "modules").iterdir() if re.fullmatch("[0-9a-f]{20}", path.name)]
    assert len(versions) == 2 and len(bench.calls("init")) == 2
    for order in (old, new):
        await provider.destroy(order.tag)
        assert await provider.get(order.tag) is None
    assert bench.machines == []


async def test_a_version_that_is_lost_keeps_its_leases(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    shutil.rmtree(bench.settings.root / "modules")
    error = await refusal(provider.destroy(order.tag))
    assert isinstance(error, Unclear) and "not under" in str(error)
    assert (await provider.owned(order.owner))[0].phase is Phase.DESTROYING


async def test_a_data_folder_that_moved_is_prepared_again(bench: TerraformBench, tmp_path: Path) -> None:
    order = bench.order()
    await (await bench.provider()).create(order)
    moved = bench.settings.root.rename(tmp_path / "elsewhere")
    provider = bench.another(root=moved)
    assert (await provider.create(order)).phase is Phase.RUNNING
    await provider.destroy(order.tag)
    assert await provider.get(order.tag) is None and bench.machines == []
    assert len(bench.calls("init")) == 2


async def test_an_order_that_cannot_be_read_is_shown_to_whoever_asks(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    (bench.lease(order.tag) / "order.json").write_text("{")
    assert [one.phase for one in await provider.owned("anybody")] == [Phase.FAILED]
    assert isinstance(await refusal(provider.destroy(order.tag)), Unclear)
    assert bench.machines == [order.tag]


async def test_slots_and_runs_at_once_are_limited(bench: TerraformBench) -> None:
    provider = bench.another(slots=1)
    await provider.create(bench.order())
    error = await refusal(provider.create(bench.order()))
    assert isinstance(error, NoCapacity) and error.reach is Reach.PROVIDER
    assert await provider.offers(Need()) == []
    bench.strike("slow")
    busy = bench.another(at_once=1, wait=timedelta(milliseconds=1))
    order = bench.order()
    await busy.create(order)
    error = await refusal(busy.create(bench.order()))
    assert isinstance(error, Throttled) and error.wait == timedelta(seconds=5)
    (bench.yard / "go").touch()
    provider = await bench.provider()
    assert (await provider.create(order)).phase is Phase.RUNNING


async def test_offers_are_what_the_settings_list(bench: TerraformBench) -> None:
    offers = {
        "spot": {
            "price_per_hour": 0.9,
            "region": "ap-1",
            "country": "ID",
            "type": "vr.1",
            "gpu": "VR200",
            "gpus": 1,
            "gpu_memory_gib": 288,
            "memory_gib": 480,
            "disk_gib": 900,
            "architecture": "arm64",
            "spot": True,
        }
    }
    provider = bench.another(offers=offers, spot_notice=timedelta(seconds=30))
    (offer,) = await provider.offers(Need())
    assert (offer.id, offer.price_per_hour, offer.country, offer.architecture) == ("spot", Decimal("0.9"), "ID", "arm64")
    assert (offer.type, offer.spot, offer.notice, offer.gpu_memory_gib) == ("vr.1", True, timedelta(seconds=30), 288)
    assert offer.seen_at == bench.clock.now() and provider.traits.spot
    assert isinstance(await refusal(provider.create(bench.order())), Refused), "an offer that is no longer listed"


@pytest.mark.parametrize(
    ("lacking", "sentence"),
    [
        (("", ""), "no Terraform module"),
        (("variable", "user_data"), "declares no variable user_data"),
        (("output", "id"), "has no output id"),
    ],
)
async def test_a_folder_that_is_no_module_of_ours_is_refused(
    bench: TerraformBench, tmp_path: Path, lacking: tuple[str, str], sentence: str
) -> None:
    module = tmp_path / "module"
    shutil.copytree(MODULE, module)
    rewrite(module, *lacking)
    provider = bench.another(module=module)
    error = await refusal(provider.create(bench.order()))
    assert isinstance(error, Refused) and sentence in str(error)
    assert not (await provider.check()).ok and sentence in (await provider.check()).summary


def rewrite(module: Path, kind: str, name: str) -> None:
    path = module / "main.tf.json"
    if not kind:
        path.unlink()
        return
    content = json.loads(path.read_text())
    del content[kind][name]
    path.write_text(json.dumps(content))


async def test_a_module_that_cannot_be_prepared_or_planned(real: TerraformBench, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(MODULE, module)
    provider = real.another(module=module, variables={})
    error = await refusal(provider.create(real.order()))
    assert isinstance(error, Refused) and "No value for required variable" in str(error) and error.why is Why.REQUEST
    assert list((real.settings.root / "leases").glob("sublet-*")) == []
    (module / "main.tf.json").write_text((module / "main.tf.json").read_text()[:-3] + ",")
    shutil.copy(MODULE / "main.tf.json", module / "good.tf.json")
    error = await refusal(provider.create(real.order()))
    assert isinstance(error, Unclear) and not error.maybe_created and "init failed" in str(error)


async def test_without_the_program_nothing_is_asked_for(bench: TerraformBench) -> None:
    provider = bench.another(binary="no-such-terraform")
    assert isinstance(await refusal(provider.create(bench.order())), Refused)
    assert (await provider.check()).summary == "the program no-such-terraform is not installed on the service's machine"


async def test_modules_in_terraforms_own_language_are_read(bench: TerraformBench, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(
        'variable "tag" {}\n  variable "owner" { type = string }\nvariable ends_at {\n}\n'
        'variable "user_data" {\n  sensitive = true\n}\n'
        'output "id" {\n  value = var.tag\n}\n# variable "commented" {}\n'
    )
    provider = bench.another(module=tmp_path)
    health = await provider.check()
    assert "init failed" in health.summary, "it got as far as the program, which here knows no such language"


def test_errors_are_sorted_by_what_must_be_done_next() -> None:
    table = patterns(TerraformSettings(**SETTINGS))
    for text, kind, why in (
        ("creating EC2 Instance: InsufficientInstanceCapacity: We currently do not have", NoCapacity, None),
        ("500-InternalError, Out of host capacity.", NoCapacity, None),
        ("api error VcpuLimitExceeded: You have requested more vCPU capacity", Refused, Why.QUOTA),
        ("googleapi: Error 403: Quota exceeded for quota metric", Refused, Why.QUOTA),
        ("api error UnauthorizedOperation: You are not authorized", Refused, Why.CREDENTIALS),
        ("401 Unauthorized; InsufficientInstanceCapacity", Refused, Why.CREDENTIALS),
        ("api error RequestLimitExceeded: Request limit exceeded.", Throttled, None),
        ("Error 429: Too many requests", Throttled, None),
        ("timeout while waiting for state to become running", type(None), None),
    ):
        error = sort([text], "said", table)
        assert isinstance(error, kind), text
        assert getattr(error, "why", None) is why, text
    assert isinstance(
        sort(["Ausverkauft"], "", patterns(TerraformSettings(**SETTINGS, no_capacity=("ausverkauft",)))), NoCapacity
    )


def test_what_terraform_says_is_made_safe_to_show() -> None:
    said = b'{"diagnostic":{"severity":"warning","summary":"w"}}\n'
    said += b'{"diagnostic":{"severity":"error","summary":"S","detail":"D"}}\nx'
    assert errors(said) == ["S: D"]
    assert errors(b"plain trouble\n{}\n[1]") == ["plain trouble"]
    assert errors(b"") == []
    secrets = hidden("#!/bin/sh\nexport TOKEN=abcdef\n", ["key-123"])
    assert shown(["at key-123: export TOKEN=abcdef\x1b[0m\nx"], secrets) == "at ***: *** [0m x"
    assert len(shown(["x" * 5000], [])) < 500


async def test_a_state_that_cannot_be_read_proves_nothing(bench: TerraformBench) -> None:
    provider, order = await bench.provider(), bench.order()
    await provider.create(order)
    for content in ("", "{", "[]", '{"values": 7}', '{"values":{"outputs":{"id":{}}}}'):
        (bench.lease(order.tag) / "shown.json").write_text(content)
        there = await provider.get(order.tag)
        assert there is not None and there.phase is Phase.UNKNOWN, content


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"offers": {}}, "at least one offer"),
        ({"offers": {"a": {}}}, "no price_per_hour"),
        ({"offers": {"a": {"price_per_hour": "cheap"}}}, "a number that is not negative"),
        ({"offers": {"a": {"price_per_hour": -1}}}, "a number that is not negative"),
        ({"offers": {"a": {"price_per_hour": 1, "gpu_count": 2}}}, "unknown key 'gpu_count'"),
        ({"offers": {"a": {"price_per_hour": 1, "gpus": True}}}, "gpus of the offer a"),
        ({"offers": {"a": {"price_per_hour": 1, "variables": {"tag": "x"}}}}, "filled in by Sublet"),
        ({"variables": {"user_data": "x"}}, "filled in by Sublet"),
        ({"secrets": {"TF_WORKSPACE": Secret("x")}}, "Sublet's own"),
        ({"environment": {"TF_CLI_ARGS_apply": "-lock=false"}}, "Sublet's own"),
        ({"phases": {"up": "ended"}}, "a phase is one of"),
        ({"phases": {"up": "jolly"}}, "a phase is one of"),
        ({"boots_from": BootsFrom.PROCESS}, "machine-image or container-image"),
        ({"slots": 0}, "at least 1"),
        ({"wait": timedelta(0)}, "longer than nothing"),
        ({"no_capacity": ("[",)}, "no pattern"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        TerraformSettings(**{**SETTINGS, **changes})


def test_it_is_built_from_what_a_settings_file_can_say(tmp_path: Path) -> None:
    known = Installed({"terraform": Kind("terraform", TerraformProvider, TerraformSettings, "sublet")}, {})
    values = {
        "root": str(tmp_path),
        "module": str(MODULE),
        "offers": {"one": {"price_per_hour": 9.2, "gpus": 1}},
        "secrets": {"VENDOR_TOKEN": Secret("x")},
        "wait": "30 s",
        "boots_from": "container-image",
    }
    provider = build("terraform", "mine", values, known)
    assert isinstance(provider, TerraformProvider) and provider.traits.boots_from is BootsFrom.CONTAINER_IMAGE
    assert "VENDOR_TOKEN" not in repr(provider) and "x)" not in repr(provider.settings)
