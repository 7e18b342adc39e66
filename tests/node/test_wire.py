"""The way back: verified TLS, no redirects, no proxies, and only the service's own word counts."""

from pathlib import Path

import pytest

from app.node.agent.settings import Unusable, take
from app.node.agent.wire import Away, Wire, seconds
from tests.node.certificates import authority, pem, server_side
from tests.node.service import Service, serving


def test_a_pinned_ca_is_trusted_and_nothing_else(tmp_path: Path) -> None:
    """Its own CA: yes. The system's trust: no. Another CA: no. The right CA for another name: no."""
    context, ca = server_side(tmp_path)
    mine, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    mine.write_text(ca)
    other.write_text(pem(authority("somebody else's")[1]))
    with serving(context) as service:
        assert Wire(service.url, str(mine)).post("/node/facts", {}).body == {"ok": True}
        for wire in (Wire(service.url), Wire(service.url, str(other))):
            with pytest.raises(Away, match="CERTIFICATE_VERIFY_FAILED"):
                wire.post("/node/facts", {})
        assert len(service.seen) == 1
    wrong_name, ca = server_side(tmp_path, "127.0.0.2")
    mine.write_text(ca)
    with serving(wrong_name) as service, pytest.raises(Away, match="CERTIFICATE_VERIFY_FAILED"):
        Wire(service.url, str(mine)).post("/node/facts", {})


@pytest.mark.parametrize(
    "url",
    [
        "http://ci.acme.example",
        "http://10.0.0.1:8080",
        "ftp://127.0.0.1",
        "https://",
        "nonsense",
        "https://u:p@host",
        "http://[::",
    ],
)
def test_only_https_or_loopback(url: str) -> None:
    """A network that is not ours never carries the session in the clear."""
    with pytest.raises(Unusable):
        Wire(url)


@pytest.mark.parametrize(
    "url", ["https://ci.acme.example/sublet", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"]
)
def test_these_addresses_are_fine(url: str) -> None:
    Wire(url)


def test_a_ca_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(Unusable, match="pinned CA"):
        Wire("https://ci.acme.example", str(tmp_path / "ca.pem"))


@pytest.mark.parametrize("status", [301, 307, 429, 500, 502, 503])
def test_a_redirect_or_a_proxys_trouble_is_no_answer(service: Service, status: int) -> None:
    """The session is never carried to where a redirect points."""
    service.script.refuse["/node/facts"] = status, {"error": {"code": "x", "message": "y"}}
    with pytest.raises(Away, match=str(status)):
        Wire(service.url).post("/node/facts", {})


@pytest.mark.parametrize(("text", "wait"), [("3", 3.0), ("1e999", 60.0), ("-5", 0.0), ("soon", 0.0), ("nan", 0.0)])
def test_how_long_to_stay_away_is_a_number_that_can_be_waited(text: str, wait: float) -> None:
    """A thread that waits for NaN seconds ends with an error, and with it the heartbeats."""
    assert seconds(text) == wait


def test_a_no_counts_only_in_the_services_own_words(service: Service) -> None:
    """A proxy's 401 page would otherwise power off the whole fleet."""
    wire = Wire(service.url)
    service.script.refuse["/node/facts"] = 401, {"detail": "log in to the proxy first"}
    with pytest.raises(Away):
        wire.post("/node/facts", {})
    service.script.refuse["/node/facts"] = 410, {"error": {"code": "ended", "message": "over"}}
    answer = wire.post("/node/facts", {})
    assert (answer.final, answer.unknown, answer.code, answer.message) == (True, False, "ended", "over")
    service.script.refuse["/node/facts"] = 401, {"error": {"code": "no_session", "message": ""}}
    again = wire.post("/node/facts", {})
    assert (again.final, again.unknown) == (False, True)


def test_only_an_answer_counts_as_hearing_from_the_service(service: Service) -> None:
    wire = Wire(service.url)
    wire.heard = 0.0
    service.script.away = True
    with pytest.raises(Away):
        wire.post("/node/heartbeat", {})
    assert wire.heard == 0.0
    service.script.away = False
    wire.post("/node/heartbeat", {})
    assert wire.heard > 0


def test_what_the_script_gave_leaves_the_environment(tmp_path: Path) -> None:
    """So that no child of the agent ever sees the token."""
    environ = {
        "SUBLET_URL": "https://x/",
        "SUBLET_LEASE": "l",
        "SUBLET_TOKEN": "t",
        "SUBLET_FOLDER": str(tmp_path),
        "PATH": "/bin",
    }
    settings = take(environ, "agent.pyz")
    assert environ == {"PATH": "/bin"}
    assert (settings.url, settings.kind, settings.ca) == ("https://x", "process", None)
    assert "token" not in repr(settings)


@pytest.mark.parametrize("missing", ["SUBLET_URL", "SUBLET_TOKEN", "SUBLET_FOLDER"])
def test_a_start_without_what_it_needs_is_refused(tmp_path: Path, missing: str) -> None:
    whole = {"SUBLET_URL": "https://x", "SUBLET_LEASE": "l", "SUBLET_TOKEN": "t", "SUBLET_FOLDER": str(tmp_path)}
    with pytest.raises(Unusable, match=missing):
        take({name: value for name, value in whole.items() if name != missing}, "agent.pyz")
    with pytest.raises(Unusable, match="SUBLET_POWER_OFF"):
        take({**whole, "SUBLET_POWER_OFF": "maybe"}, "agent.pyz")
