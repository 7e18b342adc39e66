"""Who calls the forge's API and what they may do: App JWT, installation tokens of the long form, a person's token."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import jwt
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.demo.keys import Keys
from app.demo.nouns import Account, Book
from app.demo.owners import stamp
from app.demo.shapes import APP_PERMISSIONS
from app.demo.work import Refusal, not_found
from app.kit.clock import Clock

LEVELS = {"read": 1, "write": 2, "admin": 3}
TOKEN_LIFE = timedelta(hours=1)
JWT_LIFE = timedelta(minutes=10)
JWT_SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `repositories` None: all that the installation has."""

    kind: str  # "app", "installation", "person"
    account: str = ""
    installation_id: int = 0
    permissions: Mapping[str, str] | None = None
    repositories: frozenset[str] | None = None

    @property
    def rate_key(self) -> str:
        return f"{self.kind}:{self.installation_id}"

    def need(self, permission: str, level: str, *, owner: str, repository: str = "") -> None:
        """Raises GitHub's own answer where this caller may not: 404 for what it cannot see, 403 for what it may not do."""
        if self.kind == "person":
            return
        if self.kind == "app":
            raise Refusal(403, "Resource not accessible by integration")
        if owner.lower() != self.account.lower():
            raise not_found()
        if repository and self.repositories is not None and repository not in self.repositories:
            raise not_found()
        if LEVELS.get((self.permissions or {}).get(permission, ""), 0) < LEVELS[level]:
            raise Refusal(403, "Resource not accessible by integration")

    def need_app(self) -> None:
        if self.kind != "app":
            raise Refusal(401, "A JSON web token could not be decoded")

    def need_person(self) -> None:
        if self.kind != "person":
            raise Refusal(403, "Resource not accessible by integration")


@functools.lru_cache(maxsize=4)
def _public_key(pem: str) -> PublicKeyTypes:
    """Reading a private key checks its numbers, which takes longer than a hundred requests."""
    return load_pem_private_key(pem.encode(), None).public_key()


class Door:
    """Checks `Authorization`. Its clock is the callers' clock: PyGithub signs with the machine's own time."""

    def __init__(self, book: Book, keys: Keys, clock: Clock) -> None:
        self._book = book
        self._keys = keys
        self._clock = clock
        self._public = _public_key(keys.app_pem)
        self._spent: dict[str, tuple[datetime, int]] = {}

    def caller(self, authorization: str | None) -> Caller:
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if not token or scheme.lower() not in ("bearer", "token"):
            raise Refusal(401, "Requires authentication")
        if hmac.compare_digest(token.encode(), self._keys.token.encode()):
            return Caller("person")
        return self._installation(token) if token.startswith("ghs_") else self._app(token)

    def issue(self, account: Account, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """An installation token, narrowed as asked: `ghs_<app>_<JWT>`, far longer than 40 characters."""
        permissions = narrowed(wanted.get("permissions"))
        repositories = self._chosen(account, wanted)
        ends = self._clock.now() + TOKEN_LIFE
        claims: dict[str, Any] = {
            "iss": "forge",
            "sub": account.login,
            "installation": account.installation_id,
            "exp": int(ends.timestamp()),
            "permissions": permissions,
            "repositories": repositories,
        }
        token = jwt.encode(claims, self._keys.signing, algorithm="HS256")
        answer: dict[str, Any] = {
            "token": f"ghs_{self._book.app_id}_{token}",
            "expires_at": stamp(ends),
            "permissions": permissions,
            "repository_selection": "all" if repositories is None else "selected",
        }
        return answer | ({} if repositories is None else {"repositories": repositories})

    def rate(self, caller: Caller, *, spend: int = 1) -> dict[str, int]:
        """Limit, used, remaining and reset of this caller's hour, after so many requests more; `over` once there are none."""
        now = self._clock.now()
        since, used = self._spent.get(caller.rate_key, (now, 0))
        if now - since >= timedelta(hours=1):
            since, used = now, 0
        limit = self._book.limits.requests_per_hour
        others = int(limit * self._book.faults.quota_taken)
        used = max(0, min(used + spend, limit - others + 1))
        self._spent[caller.rate_key] = (since, used)
        used += others
        reset = int((since + timedelta(hours=1)).timestamp())
        return {
            "limit": limit,
            "used": min(used, limit),
            "remaining": max(0, limit - used),
            "reset": reset,
            "over": int(used > limit),
        }

    def _app(self, token: str) -> Caller:
        try:
            options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["iat", "exp", "iss"]}
            claims = jwt.decode(token, cast(Any, self._public), algorithms=["RS256"], options=options)
            issued, ends = (datetime.fromtimestamp(float(claims[name]), UTC) for name in ("iat", "exp"))
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            raise Refusal(401, "Bad credentials") from None
        if str(claims["iss"]) not in (str(self._book.app_id), f"Iv23li{self._book.app_id}"):
            raise Refusal(401, "'Issuer' claim ('iss') must be an Integer or a String that represents the App")
        now = self._clock.now()
        if ends <= now:
            raise Refusal(401, "'Expiration time' claim ('exp') must be a numeric value representing the future time")
        if ends - now > JWT_LIFE + JWT_SKEW:
            raise Refusal(401, "'Expiration time' claim ('exp') is too far in the future")
        if issued - now > JWT_SKEW:
            raise Refusal(
                401, "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"
            )
        return Caller("app")

    def _installation(self, token: str) -> Caller:
        try:
            options: Any = {"verify_exp": False, "require": ["exp", "sub"]}
            claims = jwt.decode(token.split("_", 2)[2], self._keys.signing, algorithms=["HS256"], options=options)
        except (jwt.PyJWTError, IndexError):
            raise Refusal(401, "Bad credentials") from None
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Refusal(401, "Bad credentials")
        chosen: list[str] | None = claims["repositories"]
        return Caller(
            "installation",
            claims["sub"],
            claims["installation"],
            claims["permissions"],
            None if chosen is None else frozenset(chosen),
        )

    def _chosen(self, account: Account, wanted: Mapping[str, Any]) -> list[str] | None:
        names, numbers = wanted.get("repositories"), wanted.get("repository_ids")
        if not names and not numbers:
            return None
        own = {one.name.lower(): one for one in self._book.repositories.values() if one.owner == account.login}
        by_number = {one.id: one for one in own.values()}
        try:
            found = [own[str(name).lower()] for name in cast(Sequence[Any], names or [])]
            found += [by_number[int(number)] for number in cast(Sequence[Any], numbers or [])]
        except (KeyError, ValueError, TypeError):
            text = "There is at least one repository that does not exist or is not accessible to the parent installation."
            raise Refusal(422, text) from None
        return [one.full_name for one in found]


def narrowed(wanted: Any) -> dict[str, str]:
    """The permissions asked for, never more than the App has."""
    if not wanted:
        return dict(APP_PERMISSIONS)
    if not isinstance(wanted, Mapping):
        raise Refusal(422, "Invalid request.", "permissions is no object")
    chosen = {str(name): str(level) for name, level in cast(Mapping[Any, Any], wanted).items()}
    for name, level in chosen.items():
        if LEVELS.get(level, 9) > LEVELS.get(APP_PERMISSIONS.get(name, ""), 0):
            raise Refusal(422, "The permissions requested are not granted to this installation.")
    return chosen | {"metadata": "read"}
