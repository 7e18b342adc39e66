"""Command: the conformance suite on the worked example, and programs that do not keep to the protocol."""

import asyncio
import json
import logging
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from providers import command_calls
from providers.command import CommandProvider, CommandSettings
from providers.command_answers import Unreadable, instances_of
from providers.conformance import CHECKS, Check
from providers.conformance.bench import refusal
from providers.contract import ImageLogin, Need, NoCapacity, Phase, Reach, Refused, Secret, Throttled, Unclear, Why
from providers.registry import Installed, Kind, build
from tests.providers.command_bench import EXAMPLE, TOKEN, CommandBench, bench, validator
from tests.providers.patience import eventually

PROGRAM = Path(__file__).parent / "command_program.py"
INSTANCE = {"id": "b-1", "tag": "sublet-1", "owner": "ours", "phase": "running"}


def named(check: Check) -> str:
    return check.name


@pytest.fixture
async def portal() -> AsyncIterator[CommandBench]:
    async with bench() as one:
        yield one


def program(*words: str, **changes: Any) -> CommandProvider:
    settings = CommandSettings(Path(sys.executable), ("-I", "-S", str(PROGRAM), *words), idempotent_create=True)
    return CommandProvider("command", replace(settings, **changes))


def printing(text: str) -> CommandProvider:
    return program(program=Path("/bin/sh"), arguments=("-c", 'cat >/dev/null; printf %s "$1"', "sh", text))


def answering(**answer: object) -> CommandProvider:
    return printing(json.dumps({"protocol": 1, **answer}))


@pytest.mark.parametrize("check", [check for check in CHECKS if check.needs <= CommandBench.faults], ids=named)
async def test_command(check: Check) -> None:
    async with bench() as one:
        await check.run(one)


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.name.startswith("one_key") or check.name.startswith("lost_reply")], ids=named
)
async def test_a_portal_that_honours_no_key_is_asked_what_it_has_before_it_is_asked_for_more(check: Check) -> None:
    async with bench() as one:
        one.settings = replace(one.settings, idempotent_create=False, unique_names=False, knows_at_once=False)
        await check.run(one)
        verbs = [question["verb"] for question, _ in one.exchanged()]
        assert verbs.count("create") <= 1 and verbs.index("owned") == 0


async def test_what_is_asked_is_the_whole_order_and_nothing_secret_is_an_argument(portal: CommandBench) -> None:
    provider = await portal.provider()
    order = replace(portal.order(), login=ImageLogin("registry.example", Secret("hush-login"), "robot"), image="r/i@sha256:0")
    instance = await provider.create(order)
    assert instance.detail == "on (gpu-1)" and instance.created_at is not None
    question, _ = portal.exchanged()[0]
    assert question["order"]["login"] == {"registry": "registry.example", "username": "robot", "password": "hush-login"}
    assert question["order"]["user_data"] == order.user_data and question["order"]["ends_at"] == order.ends_at.isoformat()
    assert question["secrets"] == {"token": TOKEN}
    assert (portal.folder / "seeds" / "gpu-1" / "user-data").read_text() == order.user_data
    assert "hush" not in repr(provider.settings) and "hush" not in repr(instance)


async def test_offers_of_the_example(portal: CommandBench) -> None:
    provider = await portal.provider()
    (offer,) = await provider.offers(Need(gpu="h100", regions=frozenset({"b", "a"}), max_price_per_hour=Decimal("2.50")))
    assert (offer.id, offer.price_per_hour, offer.gpu, offer.own) == ("h100", Decimal("1.90"), "H100", True)
    question, _ = portal.exchanged()[0]
    assert question["need"]["regions"] == ["a", "b"] and question["need"]["max_price_per_hour"] == "2.50"


async def test_a_machine_that_cannot_be_switched_off_stays_booked(portal: CommandBench) -> None:
    provider, order = await portal.provider(), portal.order()
    instance = await provider.create(order)
    switch = portal.folder / "power"
    switch.write_text("#!/bin/sh\nexit 1\n")
    switch.chmod(0o700)
    error = await refusal(provider.destroy(instance.id))
    assert isinstance(error, Unclear) and not error.maybe_created and "cannot be switched off" in str(error)
    assert await provider.get(instance.id) is not None
    switch.write_text(f'#!/bin/sh\necho "$1 $2" >>{portal.folder}/switched\n')
    await provider.destroy(instance.id)
    assert await provider.get(instance.id) is None
    assert (portal.folder / "switched").read_text() == "off gpu-1\n"


# A program that does not keep to the protocol


@pytest.mark.parametrize(
    ("error", "kind", "shown"),
    [
        ({"kind": "no_capacity", "message": "full", "reach": "region"}, NoCapacity, {"reach": Reach.REGION}),
        ({"kind": "no_capacity", "message": "full"}, NoCapacity, {"reach": Reach.OFFER}),
        ({"kind": "refused", "message": "no", "why": "funds"}, Refused, {"why": Why.FUNDS}),
        ({"kind": "refused", "message": ""}, Refused, {"why": Why.REQUEST}),
        ({"kind": "throttled", "message": "slow", "wait_seconds": 7}, Throttled, {"wait": timedelta(seconds=7)}),
        ({"kind": "throttled", "message": "slow", "wait_seconds": 1e9}, Throttled, {"wait": timedelta(hours=1)}),
        ({"kind": "unclear", "message": "hm"}, Unclear, {"maybe_created": True}),
        ({"kind": "unclear", "message": "hm", "maybe_created": False}, Unclear, {"maybe_created": False}),
        ({"kind": "no_capacity", "message": "full", "reach": "moon"}, Unclear, {"maybe_created": True}),
        ({"kind": "sorry", "message": "hm"}, Unclear, {"maybe_created": True}),
        ({"message": "hm"}, Unclear, {"maybe_created": True}),
        ("no", Unclear, {"maybe_created": True}),
    ],
)
async def test_errors_are_what_the_program_says(portal: CommandBench, error: Any, kind: type[Exception], shown: Any) -> None:
    found = await refusal(answering(error=error).create(portal.order()))
    assert type(found) is kind and str(found)
    assert {name: getattr(found, name) for name in shown} == shown


@pytest.mark.parametrize(
    "instance",
    [
        None,
        [],
        {},
        {**INSTANCE, "tag": "another"},
        {**INSTANCE, "owner": "others"},
        {**INSTANCE, "id": "../up"},
        {**INSTANCE, "id": ""},
        {**INSTANCE, "id": 7},
        {**INSTANCE, "phase": True},
        {**INSTANCE, "created_at": "yesterday"},
        {**INSTANCE, "created_at": "2027-01-01T00:00:00"},
        {**INSTANCE, "key": "of another attempt"},
    ],
)
async def test_an_answer_to_create_that_makes_no_sense_is_unclear(portal: CommandBench, instance: object) -> None:
    order = replace(portal.order(), tag="sublet-1", owner="ours")
    error = await refusal(answering(instance=instance).create(order))
    assert isinstance(error, Unclear) and error.maybe_created


async def test_an_answer_that_makes_sense(portal: CommandBench) -> None:
    order = replace(portal.order(), tag="sublet-1", owner="ours")
    instance = await answering(instance={**INSTANCE, "phase": "rebooting", "preempted": True}).create(order)
    assert (instance.id, instance.phase, instance.detail, instance.preempted) == ("b-1", Phase.UNKNOWN, "rebooting", True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"protocol": 2, "instance": null}',
        '{"protocol": true, "instance": null}',
        "\udcff",
        "[" * 9999,
    ],
)
async def test_what_is_no_answer_of_the_protocol_proves_nothing(text: str) -> None:
    error = await refusal(printing(text).get("b-1"))
    assert isinstance(error, Unclear) and not error.maybe_created


@pytest.mark.parametrize("instance", ["gone", {**INSTANCE, "id": "b-2"}, {"id": "b-1"}])
async def test_get_says_none_only_for_null(instance: object) -> None:
    assert await answering(instance=None).get("b-1") is None
    assert isinstance(await refusal(answering(instance=instance).get("b-1")), Unclear)
    assert isinstance(await refusal(answering(instances=[]).get("b-1")), Unclear)


@pytest.mark.parametrize("rows", [None, {}, [None], [{**INSTANCE, "owner": None}], [INSTANCE, {"id": "x"}]])
async def test_a_list_with_one_bad_row_is_unknown_as_a_whole(rows: object) -> None:
    assert isinstance(await refusal(answering(instances=rows).owned("ours")), Unclear)


def test_a_list_has_an_end() -> None:
    with pytest.raises(Unreadable, match="more than 10000 rows"):
        instances_of({"instances": [INSTANCE] * 10_001}, re.compile(".*"))


async def test_a_list_may_hold_more_than_was_asked_for() -> None:
    rows = [INSTANCE, {**INSTANCE, "id": "b-2", "owner": "others"}]
    assert [one.id for one in await answering(instances=rows).owned("ours")] == ["b-1"]


GOOD = {"id": "a", "region": "r", "price_per_hour": "1"}


@pytest.mark.parametrize(
    "offer",
    [
        {"id": "a", "region": "r"},
        {**GOOD, "price_per_hour": 1},
        {**GOOD, "price_per_hour": "NaN"},
        {**GOOD, "price_per_hour": "-1"},
        {**GOOD, "price_per_hour": "one"},
        {**GOOD, "currency": "EUR"},
        {**GOOD, "gpus": "1"},
        {**GOOD, "memory_gib": -4},
        {**GOOD, "availability": "perhaps"},
        {**GOOD, "id": ""},
        7,
    ],
)
async def test_prices_are_not_guessed(offer: object) -> None:
    assert len(await answering(offers=[GOOD]).offers(Need())) == 1
    assert isinstance(await refusal(answering(offers=[offer]).offers(Need())), Unclear)


async def test_two_offers_of_one_name_are_none() -> None:
    assert isinstance(await refusal(answering(offers=[GOOD, GOOD]).offers(Need())), Unclear)


async def test_a_status_that_is_not_zero_is_no_answer() -> None:
    error = await refusal(program("status", "3").get("b-1"))
    assert "ended with 3" in str(error)
    assert await program("status", "0").get("b-1") is None


async def test_a_program_that_is_not_there() -> None:
    provider = program(program=Path("/no/such/program"))
    error = await refusal(provider.get("b-1"))
    assert "cannot be started" in str(error)
    assert not (await provider.check()).ok


async def test_an_answer_without_end_is_cut_off() -> None:
    error = await refusal(program("long", answer_limit=4096).get("b-1"))
    assert "longer than 4096 bytes" in str(error)


def living(path: Path) -> bool:
    try:
        return psutil.Process(int(path.read_text())).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, FileNotFoundError, ValueError):
        return False


async def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    error = await refusal(program("forever", str(tmp_path / "pid"), timeout=timedelta(seconds=0.5)).get("b-1"))
    assert "took too long" in str(error) and not living(tmp_path / "pid")


async def test_a_program_that_is_given_up_on_is_ended(tmp_path: Path) -> None:
    asking = asyncio.create_task(program("forever", str(tmp_path / "pid")).get("b-1"))
    await eventually(lambda: living(tmp_path / "pid"), "it runs")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await eventually(lambda: not living(tmp_path / "pid"), "it has ended")


async def test_what_a_program_leaves_behind_is_ended_with_it_and_is_not_waited_for(tmp_path: Path) -> None:
    assert await program("leaves children", str(tmp_path / "pid")).get("b-1") is None
    await eventually(lambda: not living(tmp_path / "pid-child"), "its child gone")
    apart = psutil.Process(int((tmp_path / "pid-apart").read_text()))
    apart.kill()  # whoever leaves the session is out of reach, and held us up no longer than a moment


async def test_a_program_that_does_not_listen_may_still_answer(portal: CommandBench) -> None:
    big = replace(portal.order(), user_data="#" * 60_000)
    assert isinstance(await refusal(program("deaf").create(big)), Unclear), "it answers, but with no instance"
    assert await program("deaf").get("b-1") is None


async def test_a_program_that_answers_and_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    error = await refusal(program("closes its output", timeout=timedelta(seconds=0.5)).get("b-1"))
    assert "did not end" in str(error)


async def test_what_it_says_beside_its_answer_is_shown_safely(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    provider = program("chatty", secrets={"token": Secret(TOKEN)})
    error = await refusal(provider.get("b-1"))
    assert isinstance(error, Refused) and (str(error), error.why) == ("not with ***", Why.FUNDS)
    assert "the token is *** [0m and so on" in caplog.text
    assert TOKEN not in caplog.text and len(caplog.text) < 1000
    assert command_calls.ERRORS_KEPT < 100_000


async def test_a_program_sees_what_the_settings_name_and_nothing_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "not for others")
    monkeypatch.setenv("SITE", "east")
    health = await program("environment", pass_environment=("SITE", "NOT_SET"), environment={"PLAIN": "x"}).check()
    seen = {name: value for name, value in health.facts.items() if name not in ("LC_CTYPE", "__CF_USER_TEXT_ENCODING")}
    assert seen.keys() == {"PATH", "LANG", "SITE", "PLAIN", "cwd"}
    assert (seen["SITE"], seen["PLAIN"], seen["cwd"]) == ("east", "x", "/")


async def test_settings_reach_the_program_as_they_are() -> None:
    health = await program("echo", settings={"folder": "/srv/portal", "racks": [1, 2]}).check()
    assert health.facts["question"].startswith('{"protocol": 1, "verb": "check", "provider": "command", "settings": {"folder":')


async def test_ids_of_another_form_never_reach_the_program() -> None:
    provider = program(program=Path("/no/such/program"))
    for hostile in ("", "../up", "a b", "-rf", "x" * 129, "ä", "a\nb"):
        assert await provider.get(hostile) is None
        await provider.destroy(hostile)


# The page


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"program": Path("portal")}, "a full path"),
        ({"timeout": timedelta(0)}, "longer than nothing"),
        ({"answer_limit": 10}, "at least 1024"),
        ({"at_once": 0}, "at least 1"),
        ({"tag_limit": 5}, "20 to 63"),
        ({"id_pattern": "["}, "no pattern"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    values: dict[str, Any] = {"program": Path("/usr/bin/portal"), **changes}
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CommandSettings(**values)


def test_it_is_built_from_what_a_settings_file_can_say() -> None:
    known = Installed({"command": Kind("command", CommandProvider, CommandSettings, "sublet")}, {})
    values = {
        "program": "/usr/local/bin/portal",
        "settings": {"folder": "/srv/portal", "quota": 5},
        "secrets": {"token": Secret("x")},
        "create_timeout": "90 s",
        "boots_from": "container-image",
    }
    provider = build("command", "mine", values, known)
    assert isinstance(provider, CommandProvider) and provider.settings.create_timeout == timedelta(seconds=90)


def test_the_schema_refuses_what_the_wrapper_refuses() -> None:
    answers = validator("answer")
    wrongs: list[Any] = [
        {},
        {"protocol": 2},
        {"protocol": 1, "instance": {"id": "x"}},
        {"protocol": 1, "error": {"kind": "sorry"}},
    ]
    for wrong in wrongs:
        assert not answers.is_valid(wrong), wrong  # pyright: ignore[reportUnknownMemberType]
    assert answers.is_valid({"protocol": 1, "instance": INSTANCE})  # pyright: ignore[reportUnknownMemberType]
    assert (EXAMPLE / "portal.py").exists()
