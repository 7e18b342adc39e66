"""Who we are to GitHub: Apps, by tokens narrowed to one repository and one purpose, or a personal token.

An App signs a JWT (PyGithub's `Auth.AppAuth`) and trades it for an installation token that lives an
hour. PyGithub cannot narrow that token to repositories, so the trade itself is made here. Tokens
have no fixed length: since 2026 they are `ghs_<app>_<JWT>`. Enterprise runners are beyond any App:
they take a personal token with `manage_runners:enterprise` (server-to-server-permissions.json).
"""

from __future__ import annotations

import functools
import re
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import jwt
from github import Auth
from jwt.algorithms import RSAAlgorithm

from app.core.model import Scope, ScopeKind
from app.forges.answers import Answer, failure, unreadable
from app.forges.budget import Budget, Rank
from app.forges.contract import ForgeRefused, Pace
from app.forges.github_wire import GitHubWire, Signed
from app.forges.payload import Unreadable, identity, is_identity, moment, table
from providers.contract import Secret

MARGIN = timedelta(minutes=5)  # a token is not used in its last minutes: a slow request must not outlive it
USUAL = 5000  # calls an hour of an installation of which nobody has told yet
ABSENT = timedelta(minutes=10)  # before an App that is not installed somewhere is tried there again, if there are others
_KEPT = 2000  # tokens in memory
_TOKEN = re.compile(r"[\x21-\x7e]{10,16384}")


class Purpose(Enum):
    """What a token is for; each needs other rights."""

    RUNNERS = "runners"
    JOBS = "jobs"


def permissions(scope: Scope, purpose: Purpose) -> Mapping[str, str]:
    """The least rights that will do. `metadata: read` comes with any."""
    if purpose is Purpose.JOBS:
        return {"actions": "read"}
    if scope.kind is ScopeKind.ORGANIZATION:
        return {"organization_self_hosted_runners": "write"}
    return {"administration": "write"}


@dataclass(frozen=True, slots=True)
class _Key:
    scope: Scope
    purpose: Purpose
    installation: str  # as the caller gave it


@dataclass(frozen=True, slots=True)
class _Token:
    secret: Secret
    until: datetime
    installation: str  # the one that gave it, whose quota it spends


class PersonalToken:
    """A person's token: one credential for everything that the person may do."""

    name = "token"

    def __init__(self, wire: GitHubWire, token: Secret) -> None:
        self._wire, self._token = wire, token
        self.budget = wire.budget()

    def sign(self, scope: Scope, purpose: Purpose, installation: str, rank: Rank) -> Signed:
        return self.signed()

    def signed(self) -> Signed:
        return Signed(Auth.Token(self._token.reveal()), self.budget)

    def forget(self, scope: Scope, purpose: Purpose, installation: str) -> bool:
        return False

    def left(self, scope: Scope, installation: str) -> int | None:
        return self.budget.left(self._wire.now())

    def pace(self, now: datetime) -> Pace:
        return self.budget.pace(now)


@dataclass(frozen=True, slots=True)
class AppKey:
    """A GitHub App as it is configured."""

    app_id: str
    private_key: Secret


class GitHubApp:
    """One App: its own JWT, and the tokens of its installations. Safe to share between threads."""

    def __init__(self, wire: GitHubWire, key: AppKey, *, receives: bool, alone: bool) -> None:
        """`receives`: it has the webhook, so the installation ids of deliveries are its own. `alone`: there is no other."""
        if not key.app_id or not key.private_key:
            raise ValueError("A GitHub App needs both its id and its private key.")
        self.name = f"app {key.app_id}"
        self._wire, self._receives, self._alone = wire, receives, alone
        self._jwt = Auth.AppAuth(key.app_id, sign_func=_signer(key.private_key))
        self._own = wire.budget()  # of the JWT; each installation has its own
        self._lock = threading.Lock()
        self._tokens: dict[_Key, _Token] = {}
        self._installations: dict[Scope, str] = {}
        self._absent: dict[Scope, tuple[datetime, ForgeRefused]] = {}
        self._budgets: dict[str, Budget] = {}

    def signed(self) -> Signed:
        """The App itself, for the few questions that only its JWT may ask."""
        return Signed(self._jwt, self._own)

    def sign(self, scope: Scope, purpose: Purpose, installation: str, rank: Rank) -> Signed:
        """A token for this scope and purpose. Raises ForgeRefused where the App is not installed; ForgeDown."""
        key = _Key(scope, purpose, installation if self._receives else "")
        now = self._wire.now()
        with self._lock:
            known = self._tokens.get(key)
            since, refusal = self._absent.get(scope, (now, None))
        if refusal is not None and not self._alone and timedelta(0) <= now - since < ABSENT:
            raise refusal.with_traceback(None)
        if known is None or known.until <= now:
            try:
                known = self._trade(key, rank)
            except ForgeRefused as error:
                with self._lock:
                    self._absent[scope] = (now, error)
                raise
            with self._lock:
                for kept in (self._tokens, self._absent):
                    if len(kept) >= _KEPT:
                        kept.clear()
                self._absent.pop(scope, None)
                self._tokens[key] = known
        return Signed(Auth.Token(known.secret.reveal()), self._budget(known.installation))

    def forget(self, scope: Scope, purpose: Purpose, installation: str) -> bool:
        """Drop a token that GitHub no longer takes. False if there was none, so that asking again is no use."""
        with self._lock:
            return self._tokens.pop(_Key(scope, purpose, installation if self._receives else ""), None) is not None

    def left(self, scope: Scope, installation: str) -> int | None:
        """Calls left where the scope's installation is known; None: nobody has told yet."""
        with self._lock:
            known = (installation if self._receives else "") or self._installations.get(scope, "")
            budget = self._budgets.get(known)
        return None if budget is None else budget.left(self._wire.now())

    def pace(self, now: datetime) -> Pace | None:
        """Stop only where every installation says so; slow as soon as one does; None: nobody has told yet."""
        with self._lock:
            budgets = list(self._budgets.values())
        paces = {budget.pace(now) for budget in budgets}
        if self._own.pace(now) is Pace.STOP or paces == {Pace.STOP}:
            return Pace.STOP
        if not paces:
            return None
        return Pace.FREE if paces == {Pace.FREE} else Pace.SLOW

    def _budget(self, installation: str) -> Budget:
        with self._lock:
            if len(self._budgets) >= _KEPT:
                self._budgets.clear()
            return self._budgets.setdefault(installation, self._wire.budget())

    def _trade(self, key: _Key, rank: Rank) -> _Token:
        """A new installation token. An installation that is gone, or no longer has the repository, is looked up anew."""
        deed = f"give a token for {key.scope.path}"
        with self._lock:
            known = key.installation or self._installations.get(key.scope, "")
        tried = known or self._find(key, rank)
        answer = self._ask_token(key, tried, deed, rank)
        if answer.status in (404, 422) and known:
            with self._lock:
                self._installations.pop(key.scope, None)
            found = self._find(key, rank)
            if found != tried:
                tried = found
                answer = self._ask_token(key, tried, deed, rank)
        if answer.status != 201:
            raise failure(self._wire.forge, deed, answer, self._wire.now())
        try:
            body = table(answer.body, "the answer")
            token, until = body.get("token"), moment(body, "expires_at")
            if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                raise Unreadable("it holds no token")
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None
        return _Token(Secret(token), (until or self._wire.now()) - MARGIN, tried)

    def _ask_token(self, key: _Key, installation: str, deed: str, rank: Rank) -> Answer:
        body: dict[str, object] = {"permissions": dict(permissions(key.scope, key.purpose))}
        if key.scope.kind is ScopeKind.REPOSITORY:
            body["repositories"] = [key.scope.path.partition("/")[2]]
        if not is_identity(installation):
            raise ForgeRefused("The GitHub App's installation id is not a number.")
        path = f"/app/installations/{installation}/access_tokens"
        return self._wire.send(self.signed(), rank, "POST", path, deed, body=body)

    def _find(self, key: _Key, rank: Rank) -> str:
        """The id of the App's installation that covers the scope. Raises ForgeRefused, ForgeDown.

        Whose jobs are asked for may be a person: runners of a person there are none, repositories there are."""
        scope = key.scope
        deed = f"find the App's installation for {scope.path}"
        kind = "orgs" if scope.kind is ScopeKind.ORGANIZATION else "repos"
        answer = self._wire.send(self.signed(), rank, "GET", f"/{kind}/{scope.path}/installation", deed)
        if answer.status == 404 and kind == "orgs" and key.purpose is Purpose.JOBS:
            answer = self._wire.send(self.signed(), rank, "GET", f"/users/{scope.path}/installation", deed)
        if answer.status == 404:
            raise ForgeRefused(f"The GitHub App is not installed on {scope.path}.")
        if answer.status != 200:
            raise failure(self._wire.forge, deed, answer, self._wire.now())
        try:
            found = identity(table(answer.body, "the answer"), "id")
            if not found:
                raise Unreadable("it holds no id")
        except Unreadable as error:
            raise unreadable(self._wire.forge, deed, error) from None
        with self._lock:
            self._installations[scope] = found
        return found


Identity = GitHubApp | PersonalToken


class GitHubAuth:
    """Every credential that we have, and which of them is to ask next."""

    def __init__(self, wire: GitHubWire, *, apps: Sequence[AppKey], token: Secret | None) -> None:
        if not apps and not token:
            raise ValueError("GitHub needs an App (app_id and private_key) or a personal token.")
        if len({key.app_id for key in apps}) < len(apps):
            raise ValueError("Two of the GitHub Apps have the same id.")
        self._wire = wire
        self.personal = PersonalToken(wire, token) if token else None
        self.apps = tuple(GitHubApp(wire, key, receives=place == 0, alone=len(apps) == 1) for place, key in enumerate(apps))

    def identities(self, scope: Scope, installation: str, rank: Rank) -> Sequence[Identity]:
        """Who may ask, the best first: the App with most left; a poll keeps to one App as long as that has enough.

        (GitHub answers "unchanged" only to the credential that it gave the first answer to.)"""
        if not self.apps or scope.kind is ScopeKind.ENTERPRISE:
            if self.personal is None:
                raise ForgeRefused(
                    "Enterprise runners are beyond a GitHub App: configure a personal token with manage_runners:enterprise."
                )
            return (self.personal,)
        if len(self.apps) == 1:
            return self.apps
        lefts = {app.name: app.left(scope, installation) for app in self.apps}

        def standing(app: GitHubApp) -> int:
            left = lefts[app.name]
            left = USUAL if left is None else left
            if rank is not Rank.POLL:
                return -left
            home = zlib.crc32(f"{scope.path} {app.name}".encode())
            return home if left > USUAL // 2 else home + 2**32 * (1 + USUAL - min(left, USUAL))

        return sorted(self.apps, key=standing)

    def pace(self) -> Pace:
        """The best that any of our credentials has to offer."""
        now = self._wire.now()
        told = [app.pace(now) for app in self.apps] if self.apps else [self.personal.pace(now)] if self.personal else []
        known = [pace for pace in told if pace is not None]
        return next((pace for pace in Pace if pace in known), Pace.FREE)


def _signer(private_key: Secret) -> Callable[[dict[str, Any]], str]:
    """Signs JWTs. Reading the key costs forty times what a signature does (OpenSSL proves its primes), so it is read once."""

    @functools.cache
    def key() -> Any:
        return RSAAlgorithm(RSAAlgorithm.SHA256).prepare_key(private_key.reveal())

    return lambda claims: jwt.encode(claims, key(), algorithm="RS256")
