"""What most stories start from: a registry in memory, a key, a clock, and the real judge."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from app.core.images import ImageVerdict, TrustRule, to_json, verdict_of
from app.kit.threads import InlineLane
from app.trust.access import RegistryAccess
from app.trust.judge import ImageTrust
from tests.fakes.registry import FakeRegistry, Wire
from tests.fakes.signer import SigningKey
from tests.world import ManualClock

REPOSITORY = "ci/gpu"


@cache
def key(name: str = "cosign.pub", kind: str = "p256") -> SigningKey:
    """One key for each name and kind in a whole run: RSA takes long to make."""
    return SigningKey(name, kind)


class Scene:
    """`registry.test` and a judge that may ask it."""

    def __init__(
        self,
        *others: FakeRegistry,
        registry: FakeRegistry | None = None,
        client: httpx.AsyncClient | None = None,
        trusted_root: Path | None = None,
        cache_for: timedelta = timedelta(hours=1),
        accesses: tuple[RegistryAccess, ...] = (),
        **access: Any,
    ) -> None:
        self.clock = ManualClock()
        self.registry = registry if registry is not None else FakeRegistry()
        self.key = key()
        first = RegistryAccess(self.registry.host, **access)
        self.client = client if client is not None else Wire(self.registry, *others).client()
        self.trust = ImageTrust(
            {one.host: one for one in (first, *accesses)},
            self.clock,
            cache_for=cache_for,
            trusted_root=trusted_root,
            client=self.client,
            lane=InlineLane(),
        )

    def rule(self, **values: Any) -> TrustRule:
        given: dict[str, Any] = {"keys": (self.key.public,), **values}
        return TrustRule(**given)

    @property
    def name(self) -> str:
        return f"{self.registry.host}/{REPOSITORY}"

    def image(self, tag: str = "v3", *, signed: bool = False, **rest: Any) -> str:
        digest = self.registry.image(REPOSITORY, tag, **rest)
        if signed:
            self.sign(digest)
        return digest

    def index(self, tag: str = "v3", *, signed: bool = False, **rest: Any) -> str:
        digest = self.registry.index(REPOSITORY, tag, **rest)
        if signed:
            self.sign(digest)
        return digest

    def sign(self, digest: str, by: SigningKey | None = None, **rest: Any) -> None:
        self.registry.sign(REPOSITORY, digest, by or self.key, **rest)

    def attach(self, digest: str, bundle: bytes, **rest: Any) -> None:
        self.registry.attach(REPOSITORY, digest, bundle, **rest)

    def content(self, digest: str) -> bytes:
        return self.registry.bytes_of(REPOSITORY, digest)

    async def judge(
        self, reference: str = "", rule: TrustRule | None = None, *, region: str = "", **values: Any
    ) -> ImageVerdict:
        """The verdict of `:v3` if nothing else is named; every verdict survives its way through JSON."""
        written = reference or f"{self.name}:v3"
        verdict = await self.trust.judge(written, rule or self.rule(**values), region=region)
        assert verdict_of(to_json(verdict)) == verdict
        assert verdict.allowed == (verdict.code == "") == all(check.passed for check in verdict.checks)
        assert verdict.asked == written and verdict.why.endswith((".", "'"))
        return verdict

    async def refused(self, reference: str = "", rule: TrustRule | None = None, **values: Any) -> tuple[str, str]:
        """Code and sentence of a refusal."""
        verdict = await self.judge(reference, rule, **values)
        assert not verdict.allowed, verdict.why
        return verdict.code, verdict.why

    async def aclose(self) -> None:
        await self.trust.aclose()
        await self.client.aclose()
