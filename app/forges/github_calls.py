"""Requests to GitHub by whichever of our credentials has most left, and what comes back as values or as an error."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from app.core.model import Scope
from app.forges.answers import Answer, failure, stay_away, unreadable
from app.forges.budget import Rank
from app.forges.contract import ForgeDown, ForgeError, ForgeRefused, HeldBack
from app.forges.github_auth import GitHubAuth, Identity, Purpose
from app.forges.github_wire import GitHubWire
from app.forges.payload import Table, Unreadable, number, rows, table
from app.forges.remembered import Remembered

PAGE = 100
PAGES = 200  # a group holds at most 10,000 runners; more pages than this is a listing that never ends

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One thing to ask, whoever asks it."""

    scope: Scope
    purpose: Purpose
    rank: Rank
    deed: str  # completes "would not ..."
    installation: str = ""


class GitHubCalls:
    """Asks, and asks another credential where one may not. Safe to share between threads."""

    def __init__(self, wire: GitHubWire, auth: GitHubAuth) -> None:
        self.wire, self.auth = wire, auth
        self._pages = Remembered()

    def ask(
        self,
        call: Call,
        verb: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
        creates: bool = False,
    ) -> Answer:
        """The answer of the first credential that may ask: one that is refused by its budget or throttled did nothing."""
        return self._ask(call, verb, path, query, body, creates, lambda _: "")[0]

    def page(
        self,
        call: Call,
        path: str,
        query: Mapping[str, str | int],
        reading: Callable[[Answer], T],
        wanted: tuple[int, ...] = (200,),
    ) -> T:
        """One page of a poll. What an unchanged page told before is remembered, so that asking again costs no quota."""
        held: dict[str, tuple[str, object]] = {}

        def question(name: str) -> Hashable:
            return name, call.scope, path, tuple(sorted(query.items()))  # one address may show each installation its own

        def etag(name: str) -> str:
            held[name] = self._pages.find(question(name))
            return held[name][0]

        answer, name = self._ask(call, "GET", path, query, None, False, etag)
        if answer.status == 304 and held[name][0]:
            return cast(T, held[name][1])
        found = self._content(answer, wanted, call.deed, reading)
        self._pages.keep(question(name), answer.headers.get("etag", ""), found)
        return found

    def read(self, answer: Answer, wanted: int, deed: str, reading: Callable[[Table], T]) -> T:
        """The content of a success that is an object. Raises what any other answer means."""
        return self._content(answer, (wanted,), deed, lambda answer: reading(table(answer.body, "the answer")))

    def _content(self, answer: Answer, wanted: tuple[int, ...], deed: str, reading: Callable[[Answer], T]) -> T:
        if answer.status not in wanted:
            raise failure(self.wire.forge, deed, answer, self.wire.now())
        try:
            return reading(answer)
        except Unreadable as error:
            raise unreadable(self.wire.forge, deed, error) from None

    def listing(self, call: Call, path: str, key: str, reading: Callable[[Table], T], name: str = "") -> list[T]:
        """Every page of a listing, or an error: half a listing is none."""
        found: list[T] = []
        for page in range(1, PAGES + 1):
            query: dict[str, str | int] = {"per_page": PAGE, "page": page, **({"name": name} if name else {})}
            answer = self.ask(call, "GET", path, query=query)
            total, more = self.read(answer, 200, call.deed, lambda body: page_of(body, key, reading))
            found += more
            if not more or len(found) >= total:  # a server may give shorter pages than asked for
                return found
        raise ForgeDown(f"{self.wire.forge} gave more than {PAGES} pages when asked to {call.deed}")

    def _ask(
        self,
        call: Call,
        verb: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        creates: bool,
        etag: Callable[[str], str],
    ) -> tuple[Answer, str]:
        """The answer, and the name of the credential that it was given to."""
        trouble: ForgeError | None = None
        throttled: tuple[Answer, str] | None = None
        for identity in self.auth.identities(call.scope, call.installation, call.rank):
            try:
                answer = self._ask_as(identity, call, verb, path, query, body, creates, etag(identity.name))
            except _Unasked as unasked:
                trouble = _kinder(trouble, unasked.error)
                continue
            if stay_away(answer, self.wire.now()) is None or answer.status >= 500:
                return answer, identity.name
            throttled = throttled or (answer, identity.name)
        if throttled is not None:
            return throttled
        raise trouble or ForgeRefused(f"{self.wire.forge} cannot be asked to {call.deed}: no credential reaches {call.scope}.")

    def _ask_as(
        self,
        identity: Identity,
        call: Call,
        verb: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        creates: bool,
        etag: str,
    ) -> Answer:
        """One request; once more with a fresh token where GitHub no longer takes the one we kept."""
        answer = self._signed(identity, call, verb, path, query, body, creates, etag)
        if answer.status == 401 and identity.forget(call.scope, call.purpose, call.installation):
            answer = self._signed(identity, call, verb, path, query, body, creates, etag)
        return answer

    def _signed(
        self,
        identity: Identity,
        call: Call,
        verb: str,
        path: str,
        query: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        creates: bool,
        etag: str,
    ) -> Answer:
        """Raises _Unasked where this credential did not ask, so that another may."""
        try:
            by = identity.sign(call.scope, call.purpose, call.installation, call.rank)
        except ForgeError as error:
            raise _Unasked(error) from None
        try:
            return self.wire.send(by, call.rank, verb, path, call.deed, query=query, body=body, etag=etag, creates=creates)
        except HeldBack as error:
            raise _Unasked(error) from None


class _Unasked(Exception):
    """This credential could not ask."""

    def __init__(self, error: ForgeError) -> None:
        super().__init__(str(error))
        self.error = error


def _kinder(one: ForgeError | None, other: ForgeError) -> ForgeError:
    """Of two reasons the one that ends sooner; a refusal ends by a person only."""
    if one is None or (isinstance(one, ForgeRefused) and isinstance(other, ForgeDown)):
        return other
    if isinstance(one, ForgeDown) and isinstance(other, ForgeDown) and other.wait < one.wait:
        return other
    return one


def counted(answer: Answer, key: str, reading: Callable[[Table], T]) -> tuple[int, list[T]]:
    """How many there are in all, and those of this page. Raises Unreadable."""
    return page_of(table(answer.body, "the answer"), key, reading)


def page_of(body: Table, key: str, reading: Callable[[Table], T]) -> tuple[int, list[T]]:
    """How many there are in all, and those of this page. Raises Unreadable."""
    total = number(body, "total_count")
    if total is None:
        raise Unreadable("it does not say how many there are")
    return total, [reading(row) for row in rows(body.get(key), key)]
