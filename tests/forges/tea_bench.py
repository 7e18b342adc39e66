"""What the benches of Gitea and Forgejo have in common: a stateful fake on loopback, and the faults before it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.core.model import Scope, ScopeKind
from app.forges.conformance import Fault, Pair, Signing
from tests.fakes.loopback import Fault as Trouble
from tests.fakes.loopback import Loopback
from tests.forges.spoiled import ALWAYS, ELSEWHERE, OnlyFirstPages, spoil

SECRET, OLD, WRONG = "what the bell says", "what the bell said", "ding dong"
ANOTHER = "0" * 40


class TeaBench:
    """See the module. `loopback` and `account` are the fake's; what `proxy` holds is sent along with every reply."""

    faults = frozenset(Fault) - {Fault.CONDITIONAL, Fault.UNDELIVERED}  # neither gives ETags, nor a list of deliveries
    signatures: Sequence[str] = ("x-hub-signature-256", "x-gitea-signature", "x-gogs-signature", "x-forgejo-signature")
    repository = "acme/train"
    other, owner = "acme/serve", "acme"
    scopes: Sequence[Scope] = (Scope(ScopeKind.REPOSITORY, "acme/train"), Scope(ScopeKind.ORGANIZATION, "acme"))
    labels: tuple[str, ...] = ("gpu", "rubin")
    actor = "ann"
    minting = ""  # the path of a registration

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
        self.proxy: dict[str, str] = {}
        self.loopback: Loopback
        self.account: Any

    def now(self) -> datetime:
        return self.time

    def signed(self, pair: Pair, by: Signing) -> Pair:
        secret = {Signing.CURRENT: SECRET, Signing.PREVIOUS: OLD, Signing.WRONG: WRONG}[by]
        made = hmac.new(secret.encode(), pair[1], hashlib.sha256).hexdigest()
        told = {name: f"sha256={made}" if name.startswith("x-hub-") else made for name in self.signatures if name in pair[0]}
        return pair[0] | told, pair[1]

    def asked(self) -> int:
        return len(self.loopback.requests)

    def astray(self) -> int:
        return ELSEWHERE.count

    def spent(self) -> int:
        raise AssertionError("no ETags are given")

    def lose(self) -> None:
        raise AssertionError("no list of deliveries is shown")

    def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.QUOTA_LOW:
                reset = int((self.time + timedelta(minutes=1)).timestamp())
                self.proxy |= {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": str(reset)}
            case Fault.TOKEN_EXPIRED:
                self.account.token = ANOTHER
            case Fault.LOST_REPLY:
                self.loopback.faults.append(Trouble("POST", self.minting, effect=True, hang_up=True))
            case Fault.HALF_LISTING | Fault.HALF_RUNNERS:
                self.loopback.faults.append(OnlyFirstPages(times=ALWAYS))
            case _:
                self.loopback.faults.append(spoil(fault, {"message": "a proxy says: too many requests"}))

    def healed(self, token: str) -> None:
        """No fault any more, and two minutes later."""
        self.loopback.faults.clear()
        self.proxy.clear()
        self.account.token = token
        self.time += timedelta(minutes=2)
