"""The wire that Gitea and Forgejo share: where the token goes, what a proxy may add, and answers that are no good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.forges import gitea_wire
from app.forges.budget import Rank
from app.forges.contract import ForgeDown, ForgeRefused, HeldBack, Pace
from app.forges.gitea_wire import GiteaWire, numbers
from app.forges.payload import rows, table
from providers.contract import Secret
from tests.fakes.loopback import Loopback, Reply, Request
from tests.forges.conftest import ManualClock

TOKEN = "a-token-of-the-tests"


class Site:
    """A server whose answers the test sets: by default rows of numbers, in pages."""

    def __init__(self) -> None:
        self.loopback = Loopback(self._answer)
        self.count = 0
        self.tells = ""  # where the whole number is: "header", "body", or nowhere
        self.etags = False  # as a proxy that hashes bodies does
        self.header_on_304 = True
        self.cap = 50
        self.before: Callable[[Request], Reply | None] = lambda _: None

    def _answer(self, request: Request) -> Reply:
        forced = self.before(request)
        if forced is not None:
            return forced
        size = min(int(request.query.get("limit", "30")), self.cap)
        start = (int(request.query.get("page", "1")) - 1) * size
        found = [{"id": number} for number in range(start, min(start + size, self.count))]
        body: Any = {"jobs": found, "total_count": self.count} if self.tells == "body" else found
        headers = {"X-Total-Count": str(self.count)} if self.tells == "header" else {}
        if self.etags:
            tag = f'"{hash(json.dumps(body))}"'
            if request.headers.get("if-none-match") == tag:
                return Reply(304, None, {"ETag": tag, **(headers if self.header_on_304 else {})})
            headers["ETag"] = tag
        return Reply(200, body, headers)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    found.loopback.start()
    try:
        yield found
    finally:
        found.loopback.stop()


def wire_to(site: Site, clock: ManualClock, **changes: Any) -> GiteaWire:
    values: dict[str, Any] = {"url": site.loopback.url, "token": Secret(TOKEN), "on_rate": None, **changes}
    return GiteaWire("gitea", "Gitea", values["url"], values["token"], timedelta(seconds=2), clock.now, values["on_rate"])


def ids(wire: GiteaWire, **changes: Any) -> list[int] | None:
    def reading(body: object) -> list[int]:
        return [int(str(row["id"])) for row in rows(inside(body), "rows")]

    def inside(body: object) -> object:
        return table(body, "it").get("jobs") if isinstance(body, dict) else body  # pyright: ignore[reportUnknownArgumentType]

    return wire.listing(Rank.POLL, "/orgs/acme/repos", "list them", reading, **changes)


# Where the token goes


def test_the_token_goes_to_the_api_and_not_to_the_runners_service(site: Site, clock: ManualClock) -> None:
    wire = wire_to(site, clock)
    wire.send(Rank.LOOK, "GET", "/user", "look")
    wire.call(Rank.CREDENTIAL, "Register", "register", {"name": "x"})
    api, service = site.loopback.requests
    assert api.headers["authorization"] == f"token {TOKEN}"
    assert (service.path, service.body) == ("/api/actions/runner.v1.RunnerService/Register", {"name": "x"})
    assert "authorization" not in service.headers
    assert TOKEN not in repr(vars(wire))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(site: Site, clock: ManualClock, status: int) -> None:
    other = Site()
    other.loopback.start()
    try:
        site.before = lambda _: Reply(status, None, {"Location": f"{other.loopback.url}/api/v1/user"})
        with pytest.raises(ForgeRefused, match="sends us elsewhere"):
            ids(wire_to(site, clock))
        assert other.loopback.requests == []
    finally:
        other.loopback.stop()
    assert len(site.loopback.requests) == 1


def test_a_netrc_does_not_sign(site: Site, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    wire = wire_to(site, clock)
    wire.send(Rank.LOOK, "GET", "/user", "look")
    wire.call(Rank.CREDENTIAL, "Register", "register", {})
    assert site.loopback.requests[0].headers["authorization"] == f"token {TOKEN}"
    assert "authorization" not in site.loopback.requests[1].headers


def test_addresses_and_tokens_that_cannot_be(site: Site, clock: ManualClock) -> None:
    for url in ("gitea.example", "ftp://gitea.example", "https://", "https://me:secret@gitea.example"):
        with pytest.raises(ValueError, match="Gitea's url") as caught:
            wire_to(site, clock, url=url)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="blank"):
        wire_to(site, clock, token=Secret(" "))
    for odd in ("a\nb", "two words", "t\u00f6ken"):
        with pytest.raises(ValueError, match="no header can carry") as caught:
            wire_to(site, clock, token=Secret(odd))
        assert odd not in str(caught.value)
    wire_to(site, clock, token=Secret(f"{TOKEN}\n")).send(Rank.LOOK, "GET", "/user", "look")
    assert site.loopback.requests[0].headers["authorization"] == f"token {TOKEN}", "as a file ends that an editor wrote"


# Listings


@pytest.mark.parametrize("tells", ["header", "body", ""])
@pytest.mark.parametrize("count", [0, 1, 50, 51, 120])
def test_every_page_is_read(site: Site, clock: ManualClock, tells: str, count: int) -> None:
    site.count, site.tells = count, tells
    assert ids(wire_to(site, clock)) == list(range(count))


@pytest.mark.parametrize("tells", ["header", "body"])
def test_pages_that_are_smaller_than_asked_for(site: Site, clock: ManualClock, tells: str) -> None:
    site.count, site.tells, site.cap = 20, tells, 7
    assert ids(wire_to(site, clock)) == list(range(20))


@pytest.mark.parametrize("tells", ["header", "body"])
def test_fewer_than_the_whole_number_is_no_listing(site: Site, clock: ManualClock, tells: str) -> None:
    short = Reply(200, [{"id": 1}], {"X-Total-Count": "9"})
    if tells == "body":
        short = Reply(200, {"jobs": [{"id": 1}], "total_count": 9})
    empty = Reply(200, [] if tells == "header" else {"jobs": [], "total_count": 9}, short.headers)
    site.before = lambda request: short if request.query["page"] == "1" else empty
    with pytest.raises(ForgeDown, match="gave 1 of 9 entries"):
        ids(wire_to(site, clock))


def test_a_listing_without_end_is_an_error(site: Site, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitea_wire, "PAGES", 3)
    site.before = lambda _: Reply(200, [{"id": 1}] * 50)
    with pytest.raises(ForgeDown, match="more than 3 pages"):
        ids(wire_to(site, clock))
    site.before = lambda _: Reply(200, [], {"Link": '<x>; rel="next"'})
    with pytest.raises(ForgeDown, match="more than 3 pages"):
        ids(wire_to(site, clock), hidden=True)


def test_a_listing_that_shrinks_every_time_is_given_up(site: Site, clock: ManualClock) -> None:
    site.count, site.tells = 500, "header"

    def before(_: Request) -> None:
        site.count -= 1

    site.before = before
    with pytest.raises(ForgeDown, match="changed again and again"):
        ids(wire_to(site, clock))


def test_where_gaps_do_no_harm_a_listing_that_shrinks_every_time_is_read_to_its_end(site: Site, clock: ManualClock) -> None:
    """Rows that move to a page that was read already are in what was read before, most of them."""
    gone = 0

    def before(request: Request) -> Reply:
        nonlocal gone
        start = gone + (int(request.query["page"]) - 1) * site.cap
        found = [{"id": number} for number in range(start, min(start + site.cap, 160))]
        gone += 1
        return Reply(200, found, {"X-Total-Count": str(161 - gone)})

    site.before = before
    found = ids(wire_to(site, clock), gaps=True)
    assert found is not None
    assert [request.query["page"] for request in site.loopback.requests] == [*"12" * 3, *"1234"]
    assert set(found) == set(range(160)) - {107, 158}, "those moved to a page that was read, and no reading before came so far"
    assert found[-1] == 159, "what was read last is told last"


@pytest.mark.parametrize("tells", ["header", "body"])
@pytest.mark.parametrize("cap", [50, 7])
def test_a_listing_of_small_pages_that_shrinks_is_read_to_its_end(site: Site, clock: ManualClock, tells: str, cap: int) -> None:
    site.count, site.tells, site.cap, site.etags = 500, tells, cap, True

    def before(_: Request) -> None:
        site.count -= 1

    site.before = before
    assert set(ids(wire_to(site, clock), gaps=True) or ()) >= set(range(site.count))


@pytest.mark.parametrize("status", [404, 502])
def test_a_listing_with_gaps_lacks_no_whole_page(site: Site, clock: ManualClock, status: int) -> None:
    site.count, site.tells = 500, "header"

    def before(_: Request) -> Reply | None:
        site.count -= 1
        return Reply(status) if site.count < 492 else None  # from the last reading's third page on

    site.before = before
    if status == 404:
        assert ids(wire_to(site, clock), gaps=True) is None
        return
    with pytest.raises(ForgeDown):
        ids(wire_to(site, clock), gaps=True)


# Listings that count what they do not show


def hide(site: Site, shown: set[int], links: str | None = None) -> None:
    """As routers/api/v1/user/repo.go lists an owner's repositories: rows are dropped after they were counted and cut."""

    def before(request: Request) -> Reply:
        page, last = int(request.query["page"]), max(-(-site.count // site.cap), 1)
        start = (page - 1) * site.cap
        found = [{"id": number} for number in range(start, min(start + site.cap, site.count)) if number in shown]
        rels = {"next": page + 1, "last": last} if page < last else {}
        rels |= {"first": 1, "prev": page - 1} if page > 1 else {}
        told = ",".join(f'<{site.loopback.url}/api/v1{request.path}?page={at}>; rel="{rel}"' for rel, at in rels.items())
        link = told if links is None else links
        headers = {"X-Total-Count": str(site.count), "ETag": '"same"'} | ({"Link": link} if link else {})
        return Reply(304 if "if-none-match" in request.headers else 200, found, headers)

    site.before = before


@pytest.mark.parametrize("cap", [50, 7])
@pytest.mark.parametrize("shown", [set[int](), {0}, {70}, {149}, {3, 60, 149}, set(range(150))])
def test_rows_that_are_kept_from_us_end_no_listing(site: Site, clock: ManualClock, cap: int, shown: set[int]) -> None:
    """A page without any row of ours may have others behind it."""
    site.count, site.cap = 150, cap
    hide(site, shown)
    wire = wire_to(site, clock)
    for _ in range(2):  # what is known of a page tells nothing of those behind it
        assert ids(wire, hidden=True) == sorted(shown)
    assert len(site.loopback.requests) == 2 * -(-150 // cap)


@pytest.mark.parametrize("links", ["", "</theme.css>; rel=preload", '<x>; title="next"'])
@pytest.mark.parametrize(("count", "shown"), [(0, set[int]()), (3, {1}), (3, {0, 1, 2}), (120, set(range(110)))])
def test_hidden_rows_where_no_link_leads_on(site: Site, clock: ManualClock, count: int, shown: set[int], links: str) -> None:
    site.count = count
    hide(site, shown, links)
    assert ids(wire_to(site, clock), hidden=True) == sorted(shown)


def test_what_is_absent(site: Site, clock: ManualClock) -> None:
    site.before = lambda _: Reply(404, {"message": "not there"})
    assert ids(wire_to(site, clock)) is None
    site.before = lambda _: Reply(500, {"message": ""})
    assert ids(wire_to(site, clock), absent=(404, 500)) is None
    with pytest.raises(ForgeDown):
        ids(wire_to(site, clock))


# A proxy in front


@pytest.mark.parametrize("tells", ["header", "body", ""])
def test_an_unchanged_page_is_not_sent_again(site: Site, clock: ManualClock, tells: str) -> None:
    site.count, site.tells, site.etags = 60, tells, True
    wire = wire_to(site, clock)
    assert ids(wire) == ids(wire) == list(range(60))
    assert [reply.status for reply in site.loopback.replies] == [200, 200, 304, 304]
    site.count = 61
    assert ids(wire) == list(range(61))


@pytest.mark.parametrize("on_304", [True, False])
@pytest.mark.parametrize("cap", [50, 7])
def test_a_page_that_did_not_change_may_have_another_behind_it(site: Site, clock: ManualClock, cap: int, on_304: bool) -> None:
    """The page is the same, the whole number in its header is not, and a proxy need not send that along with 304."""
    site.count, site.cap, site.tells, site.etags, site.header_on_304 = cap, cap, "header", True, on_304
    wire = wire_to(site, clock)
    assert ids(wire) == list(range(cap))
    site.count = cap + 1
    assert ids(wire) == list(range(cap + 1))


def test_a_304_that_was_not_asked_for_is_no_listing(site: Site, clock: ManualClock) -> None:
    site.before = lambda _: Reply(304)
    with pytest.raises(ForgeRefused, match="HTTP 304"):
        ids(wire_to(site, clock))


def test_a_rate_limit_of_a_proxy_is_told_and_kept(site: Site, clock: ManualClock) -> None:
    told: list[tuple[str, int]] = []
    limits = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "8"}
    limits["X-RateLimit-Reset"] = str(int(clock.now().timestamp()) + 60)
    site.before = lambda _: Reply(200, [], limits)

    def note(name: str, left: int) -> None:
        told.append((name, left))

    wire = wire_to(site, clock, on_rate=note)
    assert wire.pace() is Pace.FREE
    assert ids(wire) == []
    assert told == [("gitea", 8)]
    assert wire.pace() is Pace.STOP
    with pytest.raises(HeldBack):
        ids(wire)
    wire.send(Rank.CREDENTIAL, "POST", "/x", "what matters most", body={})
    clock.forward(timedelta(seconds=61))
    assert ids(wire) == []


# Answers that are no good


def test_more_than_anybody_needs_is_not_read(site: Site, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitea_wire, "LARGEST", 1000)
    site.before = lambda _: Reply(200, raw=b"[" + b" " * 200_000 + b"]")
    with pytest.raises(ForgeDown, match="more than anybody needs"):
        ids(wire_to(site, clock))


@pytest.mark.parametrize("raw", [b"<html>Welcome</html>", b"{", b"[" * 100_000, b"\xff\xfe", b'{"jobs": 5}', b"null", b""])
def test_what_is_no_json_or_other_json(site: Site, clock: ManualClock, raw: bytes) -> None:
    site.before = lambda _: Reply(200, raw=raw)
    with pytest.raises(ForgeDown, match="unreadable"):
        ids(wire_to(site, clock))


def test_a_refusal_that_is_no_json_is_still_a_refusal(site: Site, clock: ManualClock) -> None:
    site.before = lambda _: Reply(403, raw=b"<html>Forbidden</html>")
    with pytest.raises(ForgeRefused, match="HTTP 403"):
        ids(wire_to(site, clock))


# The version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.24.2", (1, 24, 2)),
        ("v1.24.2+dev-89", (1, 24, 2)),
        ("1.27.0+dev-89-gf52b6f3315", (1, 27, 0)),
        ("15.0.1+gitea-1.22.0", (15, 0, 1)),
        ("1.24-rc0", (1, 24)),
        ("dev", ()),
        ("", ()),
        ("1..2", ()),
        ("1." * 9, ()),
        ("\u0661.24", ()),
    ],
)
def test_a_versions_numbers(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text) == expected


def test_the_version_is_kept_for_an_hour(site: Site, clock: ManualClock) -> None:
    versions = iter(["1.24.0", "1.25.0", "1.26.0"])
    site.before = lambda _: Reply(200, {"version": next(versions)})
    wire = wire_to(site, clock)
    assert wire.version() == wire.version() == (1, 24, 0)
    clock.forward(timedelta(minutes=59))
    assert wire.version() == (1, 24, 0)
    clock.forward(timedelta(minutes=2))
    assert wire.version() == (1, 25, 0)
    clock.forward(timedelta(hours=-3))  # a clock set back must not keep it for hours
    assert wire.version() == (1, 26, 0)
    assert len(site.loopback.requests) == 3


def test_a_version_that_could_not_be_told_is_asked_for_again(site: Site, clock: ManualClock) -> None:
    wire = wire_to(site, clock)
    site.before = lambda _: Reply(502, raw=b"bad gateway")
    with pytest.raises(ForgeDown):
        wire.version()
    site.before = lambda _: Reply(200, {"version": "1.25.1"})
    assert wire.version() == (1, 25, 1)
