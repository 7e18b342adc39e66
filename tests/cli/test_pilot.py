"""`provider test --paid`: what is shown before money is spent, what is asked for, and what is told of the machine after."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from app.cli import pilot as piloting
from app.web.pilots import PilotReply, PreviewReply
from app.web.schema import Cost, Money
from tests.cli.conftest import Json, Run, Service
from tests.cli.samples import BEGAN, written

OFFER = {
    "id": "sg/h100/spot",
    "type": "gpu_1x_h100",
    "gpu": "h100",
    "gpus": 1,
    "gpu_memory_gib": 80,
    "region": "sg",
    "spot": True,
}
REPORT: Json = {
    "gpu": {
        "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "gpus": 2, "memory_mib": 81559, "free_mib": 80000,
        "to_device_gbs": 54.1, "from_device_gbs": 52.25, "memory_gbs": 3010.5, "fp32_tflops": 51.2, "problem": "",
    },
    "network": {
        "connect_ms": 12.5, "download_bytes": 33554432, "download_mbps": 940.0, "problem": "",
        "hosts": [
            {"host": "github.com:443", "connect_ms": 3.25}, {"host": "gitlab.acme:443", "problem": "no connection: OSError"},
        ],
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other without a pause."""
    monkeypatch.setattr(piloting, "LOOK_SECONDS", 0.0)


def preview(**changed: Any) -> Json:
    dollars = {name: Money(amount=amount, currency="USD") for name, amount in PRICES.items()}
    values: Json = {"provider": "cloud", "pool": "", "offer": OFFER, "seen": 4, "why": "", **dollars}
    return written(PreviewReply, {**values, "lasts_seconds": 120.0, "at_most_seconds": 1200.0, **changed})


PRICES = {"price_per_hour": "2.1900", "expected": "0.1825", "at_most": "0.7300"}


def seen(**changed: Any) -> Json:
    """A pilot that ended well; keys may be changed."""
    values: Json = {
        "id": "p1", "provider": "cloud", "region": "sg", "asked_by": "ada", "asked_at": BEGAN, "lease": "brave-otter-41",
        "state": "released", "note": "cloud no longer has it.", "offer": OFFER, "usable_at": BEGAN, "outcome": "usable",
        "price_per_hour": Money(amount="2.1900", currency="USD"), "cost": Cost(amount="0.0913", currency="USD", estimate=False),
        "accepted_seconds": 2.0, "running_seconds": 61.0, "usable_seconds": 75.5, "gone": True, "report": REPORT,
        "ended_at": BEGAN + timedelta(seconds=150), "schema_version": 1,
    }  # fmt: skip
    return written(PilotReply, values | changed)


def steps(*found: Json) -> Callable[[Json], tuple[int, Json]]:
    """One look after the other; the last for ever."""
    left = list(found)

    def answer(_: Json) -> tuple[int, Json]:
        return 200, left.pop(0) if len(left) > 1 else left[0]

    return answer


@pytest.fixture
def cloud(service: Service) -> Service:
    """A provider with something to rent, and a machine that is good."""
    service.says("GET providers/cloud/pilot", preview())
    service.says("POST providers/cloud/pilot", seen(state="planned", gone=False, ended_at=None, outcome=""))
    early = seen(state="booting", note="Waiting for the node's first call.", gone=False, ended_at=None, outcome="")
    service.says("GET pilots/p1", steps(early, early, seen()))
    return service


def test_it_shows_offer_and_price_and_does_nothing_without_a_yes(sublet: Run, cloud: Service) -> None:
    told = sublet("provider", "test", "cloud", "--paid")
    assert told.code == 2 and told.out == "" and "Say --yes." in told.err
    assert "1 x h100 80 GiB (gpu_1x_h100, spot) in sg of cloud at $2.1900/h" in told.err
    assert "about $0.1825 for five minutes, at most $0.7300" in told.err
    assert "at most 2 min once it is usable" in told.err and "it ends 20 min after its launch" in told.err
    assert [call for call, _ in cloud.asked] == ["GET providers/cloud/pilot"]


def test_it_rents_waits_and_shows_what_was_measured(sublet: Run, cloud: Service) -> None:
    told = sublet("provider", "test", "cloud", "--paid", "--yes", "--reason", "new in town")
    assert told.code == 0
    assert ("POST providers/cloud/pilot", {"max_price_per_hour": "2.1900", "reason": "new in town"}) in cloud.asked
    assert told.err.count("brave-otter-41 booting: Waiting for the node's first call.") == 1
    shown = [line.split("  ", 1) for line in told.out.splitlines()[1:]]
    assert {name.strip(): value.strip() for name, value in shown} == {
        "outcome": "usable",
        "machine": "1 x h100 80 GiB (gpu_1x_h100, spot)",
        "region": "sg",
        "price": "$2.1900/h",
        "accepted after": "2 s",
        "running after": "1 min 1 s",
        "usable after": "1 min 16 s",
        "GPU": "NVIDIA H100 80GB HBM3 · 9.0 (1 of 2)",
        "GPU memory": "80 GiB, 78 GiB free",
        "to the GPU": "54.1 GB/s",
        "from the GPU": "52.25 GB/s",
        "GPU memory moves": "3010.5 GB/s",
        "FP32": "51.2 TFLOPS",
        "to the service": "12.5 ms",
        "to github.com:443": "3.25 ms",
        "to gitlab.acme:443": "no connection: OSError",
        "from the service": "940 Mbit/s",
        "cost": "$0.0913",
        "destroyed": "confirmed gone at 12:02:30 UTC",
        "lease": "brave-otter-41",
    }


def test_what_is_wanted_goes_to_the_preview_and_to_the_pilot(sublet: Run, cloud: Service) -> None:
    words = ("--gpu", "H100", "--region", "sg", "--pool", "train", "--max-price", "3.5")
    told = sublet("provider", "test", "cloud", "--paid", "--yes", "--json", *words)
    assert told.code == 0 and told.json["report"]["gpu"]["fp32_tflops"] == 51.2
    wanted = {"gpu": "H100", "region": "sg", "pool": "train", "max_price_per_hour": "3.5"}
    assert cloud.asked[0] == ("GET providers/cloud/pilot", wanted)
    assert cloud.asked[1] == ("POST providers/cloud/pilot", {**wanted, "reason": "asked on the command line"})


def test_a_machine_that_was_not_usable_ends_with_1(sublet: Run, cloud: Service) -> None:
    bad = seen(outcome="boot timeout: Overdue in booting.", usable_seconds=None, running_seconds=None, report=None)
    cloud.says("GET pilots/p1", bad)
    told = sublet("provider", "test", "cloud", "--paid", "--yes")
    assert told.code == 1 and "boot timeout: Overdue in booting." in told.out and "FP32" not in told.out
    assert sublet("provider", "test", "cloud", "--paid", "--yes", "--json").code == 1


def test_nothing_to_rent_and_a_no_of_the_service_have_their_codes(sublet: Run, cloud: Service) -> None:
    cloud.refuses("POST providers/cloud/pilot", 409, "conflict", 5)
    assert sublet("provider", "test", "cloud", "--paid", "--yes").code == 5
    none = {"price_per_hour": None, "expected": None, "at_most": None}
    cloud.says("GET providers/cloud/pilot", preview(offer=None, why="No offer passes: 3 price.", **none))
    told = sublet("provider", "test", "cloud", "--paid", "--yes")
    assert told.code == 6 and "No offer passes: 3 price." in told.err
    assert sublet("provider", "test", "nowhere", "--paid", "--yes").code == 3


@pytest.mark.parametrize("amount", ["cheap", "-1", "NaN", "Infinity"])
def test_a_price_is_a_number(sublet: Run, cloud: Service, amount: str) -> None:
    assert sublet("provider", "test", "cloud", "--paid", "--yes", "--max-price", amount).code == 2
    assert cloud.asked == []


def test_a_service_that_starts_again_meanwhile_is_waited_for(sublet: Run, cloud: Service) -> None:
    """It answers like a proxy without a backend for a moment; the pilot goes on anyway."""
    looks = steps(seen(gone=False, ended_at=None, outcome=""), seen())
    away = [True, True]

    def answer(words: Json) -> tuple[int, Json]:
        if away:
            away.pop()
            return 503, {"error": {"code": "failed", "exit": 10, "message": "away", "hint": ""}}
        return looks(words)

    cloud.says("GET pilots/p1", answer)
    assert sublet("provider", "test", "cloud", "--paid", "--yes").code == 0


def test_whoever_stops_waiting_is_told_that_it_goes_on(sublet: Run, cloud: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(piloting.time, "sleep", interrupted)
    cloud.says("GET pilots/p1", seen(state="booting", gone=False, ended_at=None, outcome=""))
    told = sublet("provider", "test", "cloud", "--paid", "--yes")
    assert told.code == 130 and "The pilot brave-otter-41 goes on and ends by itself." in told.err


def test_a_destroy_without_end_is_not_waited_for_without_end(
    sublet: Run, cloud: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piloting, "LONGEST_WAIT", 0.0)
    cloud.says("GET pilots/p1", seen(state="destroying", gone=False, ended_at=None))
    told = sublet("provider", "test", "cloud", "--paid", "--yes")
    assert told.code == 9 and "brave-otter-41 is still destroying." in told.err
