"""The commands that ask the service: what they send, what they print, and in which form."""

from __future__ import annotations

import csv
import io
import json

import pytest

from tests.cli import samples
from tests.cli.conftest import Run, Service

ONE = f"leases/{samples.ID}"


@pytest.fixture
def otter(service: Service) -> Service:
    service.says("GET resolve", {"schema_version": 1, "id": samples.ID, "name": "brave-otter-41"})
    service.says(f"GET {ONE}", samples.lease())
    return service


def test_help_names_every_command(sublet: Run) -> None:
    told = sublet("--help")
    assert told.code == 0
    for name in ("up", "ps", "lease", "queue", "explain", "doctor", "config", "demo", "login", "version", "completion"):
        assert f"\n  {name} " in told.out


def test_ps_is_an_aligned_table_without_boxes(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": [samples.lease(), samples.lease(name="a-b-1", job=None)]})
    told = sublet("ps")
    header, first, second = told.out.splitlines()
    assert header.split("  ")[0].startswith("NAME")
    place = header.index("STATE")
    assert first[place:].startswith("busy") and second[place:].startswith("busy")
    assert "acme/train · gpu-eval" in first and "$0.0042" in first and "$2.19" in first
    assert service.asked[0] == ("GET leases", {"which": "live", "limit": "50"})


def test_every_form_carries_the_same_leases(sublet: Run, service: Service) -> None:
    reply = {"schema_version": 1, "leases": [samples.lease()]}
    service.says("GET leases", reply)
    assert sublet("ps", "--json").json == reply
    assert [json.loads(line) for line in sublet("ps", "-o", "ndjson").out.splitlines()] == reply["leases"]
    (row,) = csv.DictReader(io.StringIO(sublet("ps", "-o", "csv").out))
    assert (row["name"], row["state"], row["job"]) == ("brave-otter-41", "busy", "acme/train · gpu-eval")


def test_a_job_name_is_no_formula_in_a_spreadsheet(sublet: Run, service: Service) -> None:
    job = {**samples.lease()["job"], "repository": "=HYPERLINK(1)", "name": "x"}
    service.says("GET leases", {"schema_version": 1, "leases": [samples.lease(job=job)]})
    (row,) = csv.DictReader(io.StringIO(sublet("ps", "-o", "csv").out))
    assert row["job"] == "'=HYPERLINK(1) · x"


def test_an_empty_list_is_said_to_people_and_is_nothing_to_programs(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": []})
    told = sublet("ps")
    assert (told.out, told.err) == ("", "Nothing is rented now.\n")
    assert sublet("ps", "-o", "ndjson").out == ""


def test_a_list_can_be_filtered_as_its_page_can(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": []})
    told = sublet("lease", "list", "--which", "all", "--text", "gpu-eval")
    assert service.asked[0] == ("GET leases", {"which": "all", "limit": "50", "text": "gpu-eval"})
    assert told.err == "None of them holds 'gpu-eval'.\n"


def test_all_means_live_and_past(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": []})
    for words in (("ps", "-a"), ("lease", "list", "--all"), ("lease", "list", "-a")):
        assert sublet(*words).err == "There has been no lease yet.\n"
        assert service.asked[-1] == ("GET leases", {"which": "all", "limit": "50"})


def test_a_full_list_says_how_to_see_more(sublet: Run, service: Service) -> None:
    service.says("GET leases", {"schema_version": 1, "leases": [samples.lease()], "more": True})
    assert "sublet lease list --which past --limit 4" in sublet("lease", "list", "--which", "past", "--limit", "1").err


def test_what_strangers_wrote_cannot_steer_the_terminal(sublet: Run, service: Service) -> None:
    nasty = samples.job(name="\x1b]0;owned\x07\x1b[2J\ngpu").model_dump(mode="json")
    service.says("GET leases", {"schema_version": 1, "leases": [samples.lease() | {"job": nasty}]})
    for form in ("table", "csv", "json"):
        out = sublet("ps", "-o", form).out
        assert "\x1b" not in out and "\x07" not in out


def test_show_tells_a_lease_whole_by_any_reference(sublet: Run, otter: Service) -> None:
    url = "https://github.com/acme/train/actions/runs/9/job/30021"
    told = sublet("lease", "show", url)
    assert ("GET resolve", {"ref": url}) in otter.asked
    for text in ("brave-otter-41", "$0.0042 (estimate)", "asks for no GPU", "PHASE", "registering", "1 s"):
        assert text in told.out
    assert sublet("lease", "show", "brave-otter-41", "--json").json == samples.lease()


def test_logs_come_whole_and_once(sublet: Run, otter: Service) -> None:
    lines = [{"seq": number, "at": "2026-03-01T12:00:04Z", "source": "agent", "line": f"line {number}"} for number in (1, 2, 3)]

    def some(words: dict[str, str]) -> tuple[int, dict[str, object]]:
        return 200, {"schema_version": 1, "lines": [line for line in lines if int(str(line["seq"])) > int(words["after"])][:2]}

    otter.says(f"GET {ONE}/logs", some)
    assert sublet("lease", "logs", "brave-otter-41").out.splitlines() == [
        f"12:00:04 agent  line {number}" for number in (1, 2, 3)
    ]
    otter.says(f"GET {ONE}", samples.gone())
    followed = sublet("lease", "logs", "-f", "--json", "brave-otter-41")
    assert [json.loads(line)["seq"] for line in followed.out.splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("what", ["drain", "destroy"])
def test_ending_a_lease_needs_a_yes_and_tells_the_reason(sublet: Run, otter: Service, what: str) -> None:
    otter.says(f"POST {ONE}/{what}", samples.lease(note="asked"))
    told = sublet("lease", what, "brave-otter-41")
    assert told.code == 2 and "--yes" in told.err
    assert "Would do" in sublet("lease", what, "brave-otter-41", "--dry-run").out
    assert not any(call.startswith("POST") for call, _ in otter.asked)
    told = sublet("lease", what, "brave-otter-41", "--yes", "--reason", "flaky host", "--json")
    assert told.code == 0 and told.json["note"] == "asked"
    assert otter.asked[-1] == (f"POST {ONE}/{what}", {"reason": "flaky host"})


def test_wait_ends_when_the_machine_is_proven_gone(sublet: Run, otter: Service) -> None:
    otter.says(f"POST {ONE}/destroy", samples.lease())
    otter.says(f"GET {ONE}", samples.gone())
    told = sublet("lease", "destroy", "brave-otter-41", "--yes", "--wait")
    assert told.code == 0 and "It is gone." in told.out


def test_queue_has_a_sentence_for_every_wait(sublet: Run, service: Service) -> None:
    service.says("GET queue", {"schema_version": 1, "jobs": [samples.waiting()]})
    told = sublet("queue")
    assert "The pool demo is at its ceiling of 1." in told.out and "4 min 10 s" in told.out
    assert service.asked[0][1]["tab"] == "waiting"


def test_explain_tells_why_a_job_waits(sublet: Run, service: Service) -> None:
    service.says("GET queue", {"schema_version": 1, "jobs": [samples.waiting()]})
    told = sublet("explain", "https://github.com/acme/train/actions/runs/9/job/30021")
    assert told.out.splitlines() == ["QUEUED 4 min 10 s  acme/train · gpu-eval", "The pool demo is at its ceiling of 1."]


def test_explain_shows_every_offer_that_was_looked_at(sublet: Run, otter: Service) -> None:
    verdict = {"provider": "mine", "offer": "o-1", "title": "1×H100", "region": "here", "price_per_hour": "2.19"}
    verdicts = [verdict | {"passed": True}, verdict | {"passed": False, "rule": "price", "detail": "over the cap of 1.00"}]
    decision = {"seen": 2, "passed": 1, "chosen": {"provider": "mine", "offer": "o-1"}, "verdicts": verdicts}
    otter.says(f"GET {ONE}", samples.lease() | {"decision": decision})
    told = sublet("explain", "brave-otter-41")
    assert "Looked at 2 offers, 1 passed." in told.out and "chosen" in told.out
    assert "rejected: price" in told.out and "over the cap of 1.00" in told.out


def test_doctor_ends_with_1_if_a_check_fails(sublet: Run, service: Service) -> None:
    good = {"name": "forge", "status": "ok", "text": "It answers.", "fix": ""}
    service.says("GET doctor", {"schema_version": 1, "checks": [good]})
    assert sublet("doctor").code == 0
    service.says("GET doctor", {"schema_version": 1, "checks": [good | {"status": "fail", "fix": "a new key"}]})
    told = sublet("doctor", "--json")
    assert told.code == 1
    assert [check["name"] for check in told.json["checks"]] == ["settings", "service", "forge"]


def test_doctor_says_so_when_nobody_answers(sublet: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBLET_URL", "http://127.0.0.1:1")
    told = sublet("doctor")
    assert told.code == 1 and "does not answer" in told.out and "sublet up" in told.out


def test_login_prints_nothing_but_the_link(sublet: Run, service: Service) -> None:
    link = f"{service.url}/login?once=abc"
    service.says("POST login-links", {"schema_version": 1, "url": link, "expires_at": "2026-03-01T12:15:00Z"})
    assert sublet("login").out == f"{link}\n"


def test_version_and_completion(sublet: Run) -> None:
    assert sublet("version", "--json").json["version"] in sublet("version").out
    for shell in ("bash", "zsh", "fish"):
        assert "_SUBLET_COMPLETE" in sublet("completion", shell).out
