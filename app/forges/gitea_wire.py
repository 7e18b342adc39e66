"""HTTP requests to Gitea or Forgejo, which share their API's manners, and the answers as plain values.

Both page by `page` and `limit` and tell the whole number in `X-Total-Count`, or only in the body (`total_count`: Gitea's
jobs before 1.26, and its runners); neither sends an ETag or a rate limit of its own,
but a proxy in front may do both, so they are honoured. Redirects are not followed: `requests` would carry the token along.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar, cast
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from app.forges.answers import Answer, OnRate, failure, remaining, silence, unreadable
from app.forges.budget import Budget, Rank
from app.forges.contract import ForgeDown, Pace
from app.forges.payload import Table, Unreadable, quoted, table
from app.forges.remembered import Remembered
from providers.contract import Secret

PAGE = 50  # the greatest `limit` that both take unless their admin allows more (MAX_RESPONSE_ITEMS)
PAGES = 400
READINGS = 3  # of a listing of several pages that changes while it is read
LARGEST = 32 << 20  # bytes of one answer
VERSION_KEPT = timedelta(hours=1)

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_REL = re.compile(r'\brel="?([a-z ]+)')
_OF_PAGES = frozenset({"next", "prev", "first", "last"})

T = TypeVar("T")
Query = Mapping[str, str | int | tuple[str, ...]]  # several values: the name is given once for each


class GiteaWire:
    """Requests to one instance. Safe to share between threads."""

    def __init__(
        self,
        forge: str,
        title: str,
        url: str,
        token: Secret,
        timeout: timedelta,
        now: Callable[[], datetime],
        on_rate: OnRate | None,
    ) -> None:
        """`title` is what people call the forge: "Gitea". Raises ValueError for an address or a token that cannot be one."""
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError(f"{title}'s url is not a web address.")
        if parts.username or parts.password:
            raise ValueError(f"{title}'s url must not carry a user or a password.")
        if not token.reveal().strip():
            raise ValueError(f"{title}'s token is blank.")
        if not _TOKEN.fullmatch(token.reveal().strip()):
            raise ValueError(f"{title}'s token holds characters that no header can carry.")
        self.forge, self.title, self.url, self.now = forge, title, url.rstrip("/"), now
        self._token, self._timeout, self._on_rate = token, timeout.total_seconds(), on_rate
        self._budget, self._local, self._pages = Budget(forge), threading.local(), Remembered()
        self._lock = threading.Lock()
        self._version: tuple[datetime, tuple[int, ...]] | None = None

    def pace(self) -> Pace:
        return self._budget.pace(self.now())

    def send(
        self,
        rank: Rank,
        verb: str,
        path: str,
        deed: str,
        *,
        query: Query | None = None,
        body: Mapping[str, object] | None = None,
        etag: str = "",
    ) -> Answer:
        """Ask once, at `/api/v1` + path, if the budget has room.

        Whatever the forge answers comes back, refusals too; no answer is ForgeDown, not asked is HeldBack."""
        headers = {"Authorization": f"token {self._token.reveal().strip()}", **({"If-None-Match": etag} if etag else {})}
        return self._ask(rank, verb, f"{self.url}/api/v1{path}", deed, query, body, headers)

    def call(self, rank: Rank, method: str, deed: str, body: Mapping[str, object]) -> Answer:
        """One call of the runners' own service, by the Connect protocol in JSON, without our token."""
        address = f"{self.url}/api/actions/runner.v1.RunnerService/{method}"
        return self._ask(rank, "POST", address, deed, None, body, {"Connect-Protocol-Version": "1"})

    def read(self, answer: Answer, wanted: tuple[int, ...], deed: str, reading: Callable[[Table], T]) -> T:
        """The content of a success that is an object. Raises what any other answer means."""
        return self.content(answer, wanted, deed, lambda body: reading(table(body, "the answer")))

    def content(self, answer: Answer, wanted: tuple[int, ...], deed: str, reading: Callable[[object], T]) -> T:
        """The content of a success. Raises what any other answer means."""
        if answer.status not in wanted:
            raise failure(self.forge, deed, answer, self.now())
        try:
            return reading(answer.body)
        except Unreadable as error:
            raise unreadable(self.forge, deed, error) from None

    def listing(
        self,
        rank: Rank,
        path: str,
        deed: str,
        reading: Callable[[object], list[T]],
        query: Query | None = None,
        absent: tuple[int, ...] = (404,),
        *,
        gaps: bool = False,
        hidden: bool = False,
    ) -> list[T] | None:
        """Every page of a listing, or an error: half a listing is none. `reading` takes one page's body.

        None: the forge answers with a status of `absent`.
        An unchanged page is not sent again where somebody on the way gives ETags. What grows fewer between two pages is
        read again from the first, because a row may have moved to a page that was read before.
        `gaps`: what never stops growing fewer is then read to its end all the same, and comes with all that was read
        before, the oldest first; a row may be missing or come twice. Only for who takes no row's absence for its end.
        `hidden`: the forge counts rows that it keeps from us; the whole number of them is no reason to miss any."""
        earlier: list[T] = []
        for _ in range(READINGS):
            found, shrunk = self._pass(rank, path, deed, reading, query, absent, counted=not hidden)
            if not shrunk:
                return found
            earlier += found or []
        if not gaps:
            raise ForgeDown(f"What {self.forge} lists changed again and again when asked to {deed}")
        found, _ = self._pass(rank, path, deed, reading, query, absent, counted=False, steady=False)
        return None if found is None else earlier + found

    def _pass(
        self,
        rank: Rank,
        path: str,
        deed: str,
        reading: Callable[[object], list[T]],
        query: Query | None,
        absent: tuple[int, ...],
        *,
        counted: bool,
        steady: bool = True,
    ) -> tuple[list[T] | None, bool]:
        """One reading of every page, and whether the listing grew fewer meanwhile; not asked unless it must be `steady`.

        `counted`: as many rows must come as the forge counts. Else a page's links say whether another follows it, since it
        may be short or empty by what is kept from us; of a listing of one page, and by a proxy that drops them, there are
        none, and an empty page is the last, or the one that completes the number (never too early: no page shows more rows
        than were counted for it)."""
        found: list[T] = []
        totals: list[int] = []
        for page in range(1, PAGES + 1):
            asked = {**(query or {}), "limit": PAGE, "page": page}
            one = self._page(rank, path, deed, reading, asked, absent, remember=counted)
            if one is None:
                return None, False
            more, total, onward = one
            found += more
            totals += [] if total is None else [total]
            if steady and totals and totals[-1] < totals[0]:
                return found, True
            last = not more or (len(found) >= total if total is not None else len(more) < PAGE)
            if not counted and onward is not None:
                last = not onward
            if last and counted and total is not None and len(found) < total:
                raise ForgeDown(f"{self.forge} gave {len(found)} of {total} entries when asked to {deed}")
            if last:
                return found, False
        raise ForgeDown(f"{self.forge} gave more than {PAGES} pages when asked to {deed}")

    def _page(
        self,
        rank: Rank,
        path: str,
        deed: str,
        reading: Callable[[object], list[T]],
        asked: Query,
        absent: tuple[int, ...],
        *,
        remember: bool,
    ) -> tuple[list[T], int | None, bool | None] | None:
        """One page, how many entries there are in all, and whether its links lead to another.

        None: the forge answers with a status of `absent`.
        A page that did not change may have others behind it now: a whole number that only a header told is asked anew. Its
        links are not kept with it, so where they count, a page must not be remembered."""
        question = (path, tuple(sorted(asked.items())))
        etag, known = self._pages.find(question) if remember else ("", None)
        answer = self.send(rank, "GET", path, deed, query=asked, etag=etag)
        if answer.status == 304 and etag:
            kept, inside, by_header = cast("tuple[list[T], int | None, bool]", known)
            total = _headed(answer) if by_header else inside
            if total is not None or not by_header:
                return kept, total, None
            answer = self.send(rank, "GET", path, deed, query=asked)
        if answer.status in absent:
            return None
        more, inside, headed = self.content(answer, (200,), deed, reading), _inside(answer.body), _headed(answer)
        if remember:
            self._pages.keep(question, answer.headers.get("etag", ""), (more, inside, headed is not None))
        return more, inside if headed is None else headed, _onward(answer)

    def version(self) -> tuple[int, ...]:
        """The server's version as numbers, (1, 24, 2); empty where it tells none. Kept for an hour."""
        now = self.now()
        with self._lock:
            known = self._version
        if known is None or not timedelta(0) <= now - known[0] < VERSION_KEPT:
            deed = "tell its version"
            answer = self.send(Rank.LOOK, "GET", "/version", deed)
            told = self.read(answer, (200,), deed, lambda body: str(body.get("version", "")))
            known = (now, numbers(told))
            with self._lock:
                self._version = known
        return known[1]

    def _ask(
        self,
        rank: Rank,
        verb: str,
        address: str,
        deed: str,
        query: Query | None,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> Answer:
        return self._budget.spend(lambda: self._request(verb, address, deed, query, body, headers), rank, deed, self.now)

    def _request(
        self,
        verb: str,
        address: str,
        deed: str,
        query: Query | None,
        body: Mapping[str, object] | None,
        headers: Mapping[str, str],
    ) -> Answer:
        try:
            response = self._session().request(
                verb,
                address,
                params=dict(query or {}),
                json=None if body is None else dict(body),
                headers={"Accept": "application/json"},
                auth=_Signed(headers),
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            with response:
                raw = _whole(response)
        except (requests.RequestException, OSError, ValueError, ArithmeticError) as error:
            raise silence(self.forge, deed, error) from None
        if raw is None:
            raise unreadable(self.forge, deed, "more than anybody needs")
        told = {name.lower(): value for name, value in response.headers.items()}
        left = remaining(told)
        if left is not None and self._on_rate:
            self._on_rate(self.forge, left)
        content, broken = None, False
        try:
            content = json.loads(raw) if raw.strip() else None
        except (ValueError, RecursionError):
            broken = True
        return Answer(response.status_code, told, content, _message(content), broken)

    def _session(self) -> requests.Session:
        found: requests.Session | None = getattr(self._local, "session", None)
        if found is None:
            found = self._local.session = requests.Session()
            found.headers["User-Agent"] = "sublet"
        return found


class _Signed(AuthBase):
    """Our own headers, set last: a .netrc on this machine would otherwise sign in our stead."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


def _whole(response: requests.Response) -> bytes | None:
    """The body, if it is not larger than any that we ask for. Raises requests' errors."""
    raw = bytearray()
    for piece in response.iter_content(1 << 16):
        raw += piece
        if len(raw) > LARGEST:
            return None
    return bytes(raw)


def numbers(text: str) -> tuple[int, ...]:
    """The dotted numbers that a version begins with: "v1.24.2+dev-89" gives (1, 24, 2)."""
    head = text.strip().removeprefix("v").split("+")[0].split("-")[0]
    return tuple(int(part) for part in head.split(".")) if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,5})*", head) else ()


def _headed(answer: Answer) -> int | None:
    """How many entries the whole listing has, if a header says so."""
    told = answer.headers.get("x-total-count", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else None


def _onward(answer: Answer) -> bool | None:
    """Whether another page follows this one; None where no link tells of pages."""
    told = re.sub("<[^>]*>", "", answer.headers.get("link", "").lower())
    rels = {rel for rels in _REL.findall(told) for rel in rels.split()}
    return "next" in rels if rels & _OF_PAGES else None


def _inside(body: object) -> int | None:
    """How many entries the whole listing has, if the page itself says so."""
    told = cast("Table", body).get("total_count") if isinstance(body, dict) else None
    return told if isinstance(told, int) and not isinstance(told, bool) and told >= 0 else None


def _message(content: object) -> str:
    """The forge's own words for an error."""
    return quoted(cast("Table", content).get("message")) if isinstance(content, dict) else ""
