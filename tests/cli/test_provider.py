"""`provider list|test|pause|resume`: what a terminal shows of providers, and what is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from app.web.providers import StandingReply
from app.web.providers_views import BriefOffer, ProbeReply, ProvidersReply, ProviderView, StandingView, SurveyView
from app.web.schema import CooldownView
from tests.cli.conftest import Json, Run, Service
from tests.cli.samples import BEGAN


def standing(state: str, **changed: Any) -> StandingView:
    values: Json = {
        "state": state, "sentence": "", "since": None, "until": None, "by": "", "failures": 0, "trouble": "",
        "trouble_at": None,
    }  # fmt: skip
    return StandingView(**values | changed)


def view(name: str, **changed: Any) -> ProviderView:
    values: Json = {
        "name": name, "kind": "aws", "package": "sublet 0.1.0", "own_hardware": False, "standing": standing("well"),
        "cooldowns": [], "offers": 41, "passing": 3, "offers_seen_at": BEGAN, "cheapest_passing": None, "live_leases": 2,
        "cheapest": BriefOffer(id="a", title="a", region="sg", spot=True, price_per_hour="1.3100", currency="USD"),
        "sweep": SurveyView(at=BEGAN, listed=2, owned=2, held=0, trouble=""),
    }  # fmt: skip
    return ProviderView(**values | changed)


COLD = CooldownView(
    provider="cloud-a", region="sg", type="p5", offer="", since=BEGAN, until=BEGAN, failures=2, why="2 failed lately"
)


def test_list_tells_how_each_stands(sublet: Run, service: Service) -> None:
    away = standing("away", sentence="the key has expired", until=BEGAN)
    found = [view("cloud-a", cooldowns=[COLD]), view("cloud-b", standing=away, offers_seen_at=None, cheapest=None, sweep=None)]
    service.says("GET providers", ProvidersReply(providers=found).model_dump(mode="json"))
    told = sublet("provider", "list")
    header, first, second, _, cooling, cold = told.out.splitlines()
    assert header.split() == [
        "PROVIDER", "KIND", "STATE", "UNTIL", "OFFERS", "PASS", "CHEAPEST/H", "SEEN", "LEASES", "COOLING", "TROUBLE",
    ]  # fmt: skip
    assert first.split()[:7] == ["cloud-a", "aws", "well", "-", "41", "3", "$1.3100"]
    assert second.split()[:7] == ["cloud-b", "aws", "away", "12:00:00", "41", "3", "-"] and "not yet" in second
    assert second.endswith("the key has expired") and cooling.startswith("COOLING DOWN")
    assert cold.split()[:4] == ["cloud-a", "sg", "p5", "12:00:00"]
    assert sublet("provider", "list", "--json").json["providers"][1]["standing"]["state"] == "away"
    assert len(sublet("provider", "list", "-o", "csv").out.splitlines()) == 3


def test_without_a_provider_it_says_how_to_add_one(sublet: Run, service: Service) -> None:
    service.says("GET providers", ProvidersReply(providers=[]).model_dump(mode="json"))
    told = sublet("provider", "list")
    assert (told.code, told.out) == (0, "") and "sublet provider add KIND NAME" in told.err


@pytest.mark.parametrize(("ok", "code", "word"), [(True, 0, "OK"), (False, 1, "FAILED")])
def test_a_test_prints_what_the_provider_says(sublet: Run, service: Service, ok: bool, code: int, word: str) -> None:
    probe = ProbeReply(provider="cloud-a", ok=ok, summary="41 offers\x1b[2J now.", facts={"quota": "8 of 16"}, seconds=0.4)
    service.says("POST providers/cloud-a/test", probe.model_dump(mode="json"))
    told = sublet("provider", "test", "cloud-a")
    assert told.code == code and told.out.splitlines()[0] == f"cloud-a  {word}  41 offers [2J now."
    assert [line.split("  ")[0] for line in told.out.splitlines()[1:]] == ["FACT", "quota", "took"]
    told = sublet("provider", "test", "cloud-a", "--json")
    assert (told.code, told.json["ok"]) == (code, ok)


def test_what_is_for_a_pilot_is_refused_without_it(sublet: Run, service: Service) -> None:
    for words in (("--gpu", "h100"), ("--yes",), ("--max-price", "1.50"), ("--reason", "x")):
        told = sublet("provider", "test", "cloud-a", *words)
        assert told.code == 2 and "--paid" in told.err, words
    assert service.asked == []


def test_paid_shows_the_price_and_rents_nothing_without_a_yes(sublet: Run, service: Service) -> None:
    cost = {"amount": "0.1825", "currency": "USD"}
    shown: Json = {
        "provider": "cloud-a", "pool": "", "price_per_hour": {"amount": "2.1900", "currency": "USD"}, "expected": cost,
        "at_most": cost, "lasts_seconds": 120.0, "at_most_seconds": 1200.0, "seen": 3, "why": "",
        "offer": {"id": "x", "gpu": "h100", "gpus": 1, "gpu_memory_gib": 80, "region": "sg"},
    }  # fmt: skip
    service.says("GET providers/cloud-a/pilot", shown)
    told = sublet("provider", "test", "cloud-a", "--paid", "--gpu", "h100")
    assert told.code == 2 and "about $0.1825 for five minutes" in told.err and "--yes" in told.err
    assert [call for call, _ in service.asked] == ["GET providers/cloud-a/pilot"]


def test_pause_and_resume_say_what_they_did(sublet: Run, service: Service) -> None:
    paused = StandingReply(provider="cloud-a", standing=standing("paused", sentence="Paused by admin: x", by="admin"))
    service.says("POST providers/cloud-a/pause", paused.model_dump(mode="json"))
    told = sublet("provider", "pause", "cloud-a", "--reason", "quarter's end")
    assert told.out == "Nothing new is rented at cloud-a; what lives there goes on to its end.\n"
    assert service.asked[-1] == ("POST providers/cloud-a/pause", {"reason": "quarter's end"})
    sublet("provider", "pause", "cloud-a")
    assert service.asked[-1][1] == {"reason": "paused on the command line"}
    assert sublet("provider", "pause", "cloud-a", "--json").json["standing"]["state"] == "paused"
    well = StandingReply(provider="cloud-a", standing=standing("well"))
    service.says("POST providers/cloud-a/resume", well.model_dump(mode="json"))
    assert sublet("provider", "resume", "cloud-a").out == "cloud-a may be rented from again.\n"


@pytest.mark.parametrize(("status", "word", "code"), [(404, "not_found", 3), (403, "not_allowed", 4), (409, "conflict", 5)])
def test_refusals_have_their_exit_codes(sublet: Run, service: Service, status: int, word: str, code: int) -> None:
    for verb in ("test", "pause", "resume"):
        service.refuses(f"POST providers/cloud%2Fb/{verb}", status, word, code)
        assert sublet("provider", verb, "cloud/b").code == code, verb
