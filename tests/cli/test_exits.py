"""Each exit code once, and who may see which token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.cli.exits import MEANINGS, Exit
from tests.cli import samples
from tests.cli.conftest import TOKEN, Run, Service

ONE = f"leases/{samples.ID}"


def test_0_done(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": []})
    assert sublet("ps").code == 0


def test_2_usage(sublet: Run) -> None:
    assert sublet("ps", "--colour").code == 2
    assert sublet("lease", "logs", "x", "-o", "csv").code == 2


@pytest.mark.parametrize(
    "server", ["http://[::1", "https://ci.acme.example:port", "https://ci.acme.example:99999999", "https://a\nb"]
)
def test_2_an_address_or_a_token_that_cannot_be_one(sublet: Run, server: str) -> None:
    told = sublet("ps", "--server", server, "--token", "t")
    assert told.code == 2 and "address" in told.err
    assert sublet("ps", "--server", "http://127.0.0.1:1", "--token", "töken").code == 2


@pytest.mark.parametrize(
    ("status", "code", "number"),
    [
        (500, "failed", 1),
        (422, "usage", 2),
        (404, "not_found", 3),
        (403, "not_allowed", 4),
        (409, "conflict", 5),
        (409, "no_offer", 6),
        (409, "needs_approval", 7),
        (409, "over_budget", 8),
    ],
)
def test_1_to_8_what_the_service_refuses(sublet: Run, service: Service, status: int, code: str, number: int) -> None:
    service.refuses("GET leases", status, code, number)
    told = sublet("ps")
    assert (told.code, told.out, told.err) == (number, "", f"Error: Refused with {code}.\nTry something else.\n")
    told = sublet("ps", "--json")
    assert told.code == number
    assert told.json["error"] == {
        "code": code,
        "exit": number,
        "message": f"Refused with {code}.",
        "hint": "Try something else.",
    }


def test_6_no_offer_passes(sublet: Run, service: Service) -> None:
    service.says("GET resolve", {"schema_version": 1, "id": samples.ID, "name": "brave-otter-41"})
    service.says(f"GET {ONE}", samples.gone(reason="no_offer", reason_text="3 offers, none passes.", job=None))
    told = sublet("explain", "brave-otter-41")
    assert told.code == 6 and "3 offers, none passes." in told.out


def test_9_the_wait_is_over(sublet: Run, service: Service) -> None:
    service.says("GET resolve", {"schema_version": 1, "id": samples.ID, "name": "brave-otter-41"})
    service.says(f"POST {ONE}/destroy", samples.lease())
    service.says(f"GET {ONE}", samples.lease(state="destroying"))
    told = sublet("lease", "destroy", "brave-otter-41", "--yes", "--wait=0s")
    assert told.code == 9 and "still destroying" in told.err


def test_10_nobody_answers(sublet: Run) -> None:
    told = sublet("ps", "--server", "http://127.0.0.1:1")
    assert told.code == 10 and "sublet up" in told.err


def test_130_interrupted(sublet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*words: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.client.Client.get", interrupt)
    assert sublet("ps").code == 130


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Exit)
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]


def test_what_is_no_service_of_ours_is_said(sublet: Run, service: Service) -> None:
    service.answers["GET leases"] = (200, [])  # pyright: ignore[reportArgumentType]  not what we speak
    told = sublet("ps")
    assert told.code == 1 and "not Sublet" in told.err


def test_the_data_folder_names_the_service_and_holds_the_token(
    sublet: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBLET_URL")
    monkeypatch.delenv("SUBLET_TOKEN")
    service.says("GET leases", {"schema_version": 1, "leases": []})
    told = sublet("ps")
    assert told.code == 10 and "service.json" in told.err
    (tmp_path / "sublet-data").mkdir()
    (tmp_path / "sublet-data/service.json").write_text(json.dumps({"url": service.url, "pid": 1}), encoding="utf-8")
    assert sublet("ps").code == 4
    (tmp_path / "sublet-data/cli-token").write_text(TOKEN, encoding="utf-8")
    assert sublet("ps").code == 0


def test_the_settings_file_says_where_the_data_folder_is(
    sublet: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBLET_URL")
    monkeypatch.delenv("SUBLET_TOKEN")
    service.says("GET leases", {"schema_version": 1, "leases": []})
    (tmp_path / "sublet.toml").write_text('data = "elsewhere"', encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/service.json").write_text(json.dumps({"url": service.url, "pid": 1}), encoding="utf-8")
    (tmp_path / "elsewhere/cli-token").write_text(TOKEN, encoding="utf-8")
    assert sublet("ps").code == 0
    assert sublet("ps", "--data", "sublet-data").code == 10


def test_the_token_of_the_data_folder_goes_nowhere_else(
    sublet: Run, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUBLET_TOKEN")
    (tmp_path / "sublet-data").mkdir()
    (tmp_path / "sublet-data/service.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": 1}), encoding="utf-8")
    (tmp_path / "sublet-data/cli-token").write_text(TOKEN, encoding="utf-8")
    assert sublet("ps", "--server", service.url).code == 4
    assert service.asked == []


def test_no_token_travels_without_tls(sublet: Run) -> None:
    told = sublet("ps", "--server", "http://ci.acme.example")
    assert told.code == 2 and "without TLS" in told.err
