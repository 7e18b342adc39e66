"""May this image reference run under this rule, and which digest is that? The one question that the house asks trust."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import httpx

from app.core.images import Evidence, ImageCheck, ImageVerdict, Refusal, TrustRule
from app.kit.clock import Clock
from app.kit.threads import Lane, ThreadLane
from app.trust import keys, times
from app.trust.access import RegistryAccess, hostname, is_loopback
from app.trust.challenge import Token
from app.trust.collect import attached
from app.trust.decide import Looked, covered, made, signature
from app.trust.endpoint import Endpoint
from app.trust.faults import Refused, RegistryAway, brief, unreadable
from app.trust.globs import fits
from app.trust.keyless import Keyless
from app.trust.manifests import Index, Manifest, config_platform
from app.trust.reference import Reference, parse
from app.trust.repository import Repository
from app.trust.weigh import Finding, Scales
from providers.contract import Secret

LARGEST_CONFIG: Final = 4 * 1024 * 1024
LONGEST_LOOK: Final = 300.0
"""Seconds for everything that is attached to one image: a registry that is slow with each piece must not take hours."""
MOST_KEPT: Final = 2000
"""Verdicts in the cache; the oldest go first."""


@dataclass(frozen=True, slots=True)
class PullAccess:
    """What a node needs to pull one repository: a token of its own, or the login where the registry knows no tokens."""

    host: str
    username: str  # "" for a token
    password: Secret  # the login's password, or the token
    until: datetime | None  # when a token ends

    @property
    def is_token(self) -> bool:
        return not self.username


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found of a digest under a rule, whatever is revoked."""

    manifests: tuple[tuple[str, str, str], ...]
    checks: tuple[ImageCheck, ...]
    evidence: tuple[Evidence, ...]
    refused: Refused | None = None


class ImageTrust:
    """Asks registries and judges. Belongs to one event loop.

    A digest's look is kept for `cache_for`, a refusal never: who signs an image need not wait. A tag is asked for each
    time. What is revoked is compared each time, outside of the cache."""

    def __init__(
        self,
        registries: Mapping[str, RegistryAccess],
        clock: Clock,
        *,
        cache_for: timedelta = timedelta(hours=1),
        trusted_root: Path | None = None,
        client: httpx.AsyncClient | None = None,
        lane: Lane | None = None,
    ) -> None:
        """ValueError or OSError for a trusted root that cannot be read. `client` and `lane` are for tests; a client that
        is given is not closed. The lane does what blocks: the first look at a bundle without a key loads a library."""
        self._registries, self._clock, self._cache_for = dict(registries), clock, cache_for
        self._given, self._clients = client, list[httpx.AsyncClient]()
        self._lane: Lane = lane if lane is not None else ThreadLane("trust", 2)
        self._endpoints: dict[str, Endpoint] = {}
        self._witnesses, self._keyless = times.Witnesses(), None
        if trusted_root is not None:
            self._witnesses = times.witnesses(trusted_root.read_bytes())
            self._keyless = Keyless(trusted_root, self._witnesses)
        self._kept: dict[tuple[str, str, TrustRule], tuple[_Look, datetime]] = {}
        self._under_way: dict[tuple[str, str, TrustRule], asyncio.Task[_Look]] = {}

    async def judge(self, reference: str, rule: TrustRule, *, region: str = "") -> ImageVerdict:
        """The verdict, with everything that was looked at. Raises RegistryAway, which means wait; nothing else.

        `region` chooses among mirrors that are for certain regions."""
        at = self._clock.now()
        checks: list[ImageCheck] = []
        known, digest, look = "", "", _Look((), (), ())
        try:
            asked = parse(reference)
            access = self._allowed(asked, rule, checks)
            repository = self._repository(asked, access, region)
            digest = await self._digest(asked, repository, checks)
            known = asked.at(digest)
            _not_revoked(rule, digest, ())
            look = await self._looked(asked, digest, rule, repository)
            _not_revoked(rule, digest, look.manifests)
            if rule.revoked:
                checks.append(ImageCheck("revoked", f"none of {len(rule.revoked)} revoked digests", "none", True))
            checks += look.checks
            if look.refused is not None:
                raise look.refused
        except Refused as no:
            if no.what == "revoked":
                checks += look.checks
            checks.append(ImageCheck(no.what, no.asked, no.seen, False))
            return ImageVerdict(
                reference, False, known, digest, look.manifests, tuple(checks), look.evidence, no.why, at, no.code.value
            )
        by = next((check.seen for check in checks if check.what == "signature"), "")
        why = f"{brief(digest)} is signed by {by}." if rule.signed else f"{brief(digest)} is pinned; no signature is asked for."
        return ImageVerdict(reference, True, known, digest, look.manifests, tuple(checks), look.evidence, why, at)

    async def pull_access(self, reference: str) -> PullAccess | None:
        """What a node may pull this repository with, as short-lived as the registry allows; None where everybody may, or
        where the settings have no login. Raises RegistryAway, and ValueError for a reference that `judge` refuses."""
        try:
            asked = parse(reference)
        except Refused as no:
            raise ValueError(no.why) from None
        access = self._registries.get(asked.host)
        if access is None:
            raise ValueError(f"{asked.host} is not among the registries of the settings.")
        if access.login is None:  # nothing to lend: no need to ask
            return None
        path = f"/v2/{asked.repository}/manifests/{asked.digest or asked.tag}"
        lent = await self._endpoint(access).lend(path, asked.repository)
        if isinstance(lent, Token):
            until = self._clock.now() + timedelta(seconds=lent.seconds)
            return PullAccess(asked.host, "", Secret(lent.text), until)
        return None if lent is None else PullAccess(asked.host, lent[0], Secret(lent[1]), None)

    async def aclose(self) -> None:
        """Ends what is under way and closes the connections of its own."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in self._clients:
            await client.aclose()
        self._lane.close()

    # The steps

    def _allowed(self, asked: Reference, rule: TrustRule, checks: list[ImageCheck]) -> RegistryAccess:
        """The registry is named by the settings, and the repository fits the rule."""
        access = self._registries.get(asked.host)
        named = ", ".join(sorted(self._registries)) or "none"
        if access is None:
            raise Refused(
                Refusal.UNKNOWN_REGISTRY,
                f"{asked.host} is not among the registries of the settings ({named}), so it is never asked.",
                what="registry",
                asked=named,
                seen=asked.host,
            )
        checks.append(ImageCheck("registry", named, asked.host, True))
        if rule.repositories:
            patterns = ", ".join(sorted(rule.repositories))
            if not any(fits(pattern, asked.name) for pattern in rule.repositories):
                raise Refused(
                    Refusal.NOT_ALLOWED_REPOSITORY,
                    f"{asked.name} is none of the repositories that the pool allows ({patterns}).",
                    what="repository",
                    asked=patterns,
                    seen=asked.name,
                )
            checks.append(ImageCheck("repository", patterns, asked.name, True))
        return access

    async def _digest(self, asked: Reference, repository: Repository, checks: list[ImageCheck]) -> str:
        if asked.digest:
            return asked.digest
        digest = await repository.resolve(asked.tag)
        if digest is None:
            raise Refused(
                Refusal.NOT_FOUND,
                f"{asked.name} has no tag {asked.tag!r}.",
                what="tag",
                asked=asked.tag,
                seen="not there",
            )
        checks.append(ImageCheck("tag", asked.tag, digest, True))
        return digest

    async def _looked(self, asked: Reference, digest: str, rule: TrustRule, repository: Repository) -> _Look:
        """From the cache, from a look that is under way, or by looking. Several that ask at once look once."""
        same = (asked.name, digest, replace(rule, revoked=frozenset()))
        look, until = self._kept.get(same, (None, None))
        if look is not None and until is not None and self._clock.now() < until:
            return look
        task = self._under_way.get(same)
        if task is None:
            task = asyncio.create_task(self._timed(digest, same[2], repository))
            self._under_way[same] = task
            task.add_done_callback(lambda done: self._done(same, done))
        look = await asyncio.shield(task)  # one that stops waiting must not end it for the others
        if look.refused is None:
            while len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[same] = (look, self._until(look, rule))
        return look

    def _done(self, same: tuple[str, str, TrustRule], task: asyncio.Task[_Look]) -> None:
        self._under_way.pop(same, None)
        if not task.cancelled():
            task.exception()  # those who wait for it hear it; if all have gone, nobody needs to

    def _until(self, look: _Look, rule: TrustRule) -> datetime:
        """How long the look may be kept: never past the moment at which a signature of it becomes too old."""
        until = self._clock.now() + self._cache_for
        if rule.oldest is None:
            return until
        return min([until, *(one.signed_at + rule.oldest for one in look.evidence if one.good and one.signed_at is not None)])

    async def _timed(self, digest: str, rule: TrustRule, repository: Repository) -> _Look:
        try:
            async with asyncio.timeout(LONGEST_LOOK):
                return await self._look(digest, rule, repository)
        except TimeoutError:
            raise RegistryAway(f"{repository.registry.host} took longer than {LONGEST_LOOK:g} seconds.") from None

    async def _look(self, digest: str, rule: TrustRule, repository: Repository) -> _Look:
        """Everything of a digest that does not depend on time or on what is revoked."""
        listed: tuple[tuple[str, str, str], ...] = ()
        evidence: list[Evidence] = []
        checks: list[ImageCheck] = []
        try:
            content, found = await _there(repository, digest)
            contents = {digest: content}
            listed = await self._platforms(repository, digest, found, contents)
            names = ", ".join(architecture for architecture, _, _ in listed)
            checks.append(ImageCheck("content", digest, f"{len(content)} bytes with this digest, for {names}", True))
            if not rule.signed:
                checks.append(ImageCheck("signature", "none: signed = false", "not looked at", True))
                return _Look(listed, tuple(checks), ())
            scales = self._scales(rule)
            top = await self._weighed(repository, scales, digest, "the index" if isinstance(found, Index) else "", content)
            evidence += _evidence(top)
            below: list[Looked] = []
            if isinstance(found, Index) and not covered(scales, top):
                for architecture, manifest, _ in listed:
                    below.append(await self._weighed(repository, scales, manifest, architecture, contents[manifest]))
                    evidence += _evidence(below[-1])
            checks.append(signature(scales, top, below))
            if (stated := made(scales, top, below)) is not None:
                checks.append(stated)
        except Refused as no:
            return _Look(listed, tuple(checks), tuple(evidence), no)
        return _Look(listed, tuple(checks), tuple(evidence))

    async def _platforms(
        self, repository: Repository, digest: str, found: Manifest | Index, contents: dict[str, bytes]
    ) -> tuple[tuple[str, str, str], ...]:
        """Architecture, manifest and config of each platform for Linux; `contents` takes in the manifests' bytes."""
        if isinstance(found, Manifest):
            system, architecture = await self._config(repository, found)
            if system != "linux":
                raise unreadable(f"{brief(digest)} is for {system}, not for Linux.")
            return ((architecture, digest, found.config.digest),)
        listed: list[tuple[str, str, str]] = []
        for entry in found.platforms():
            content, inside = await _there(repository, entry.digest)
            if isinstance(inside, Index):
                raise unreadable(f"{brief(digest)} is an index inside of which is another one.")
            architecture = entry.platform.architecture if entry.platform is not None else ""
            if not architecture:
                system, architecture = await self._config(repository, inside)
                if system != "linux":
                    continue
            contents[entry.digest] = content
            listed.append((architecture, entry.digest, inside.config.digest))
        if not listed:
            raise unreadable(f"{brief(digest)} has no platform for Linux.")
        return tuple(listed)

    async def _config(self, repository: Repository, manifest: Manifest) -> tuple[str, str]:
        raw = await repository.blob(manifest.config.digest, LARGEST_CONFIG)
        if raw is None:
            raise Refused(
                Refusal.NOT_FOUND, f"The config {brief(manifest.config.digest)} of the image is not there.", what="content"
            )
        platform = config_platform(raw)
        return platform.os, platform.architecture

    async def _weighed(self, repository: Repository, scales: Scales, digest: str, label: str, content: bytes) -> Looked:
        """Looks at one place after the other until everything that the rule asks for is there."""
        findings: list[Finding] = []
        looked = Looked(digest, label, ())
        async for place in attached(repository, digest, attestations=scales.rule.provenance is not None):
            findings += [await self._lane(scales.weigh, one, digest, content) for one in place]
            looked = Looked(digest, label, tuple(findings))
            if covered(scales, looked):
                break
        return looked

    # The parts

    def _scales(self, rule: TrustRule) -> Scales:
        known: dict[str, keys.Key] = {}
        for given in rule.keys:
            try:
                key = keys.load(given)
            except ValueError as error:
                raise Refused(Refusal.WRONG_KEY, f"A key of the pool cannot be used: {error}.", what="signature") from None
            known.setdefault(key.fingerprint, key)
        check = None if self._keyless is None else self._keyless.check
        return Scales(rule, tuple(known.values()), check, self._witnesses, self._clock.now())

    def _repository(self, asked: Reference, access: RegistryAccess, region: str) -> Repository:
        mirrors = [self._endpoint(self._mirror(host, access)) for host in access.mirrors_for(region)]
        return Repository(asked.repository, self._endpoint(access), mirrors)

    def _mirror(self, host: str, access: RegistryAccess) -> RegistryAccess:
        """A mirror's own access if the settings name it, else one without any login: ours is for the registry alone."""
        known = self._registries.get(host)
        if known is not None:
            return known
        return RegistryAccess(host, plain_http=access.plain_http and is_loopback(hostname(host)), ca=access.ca)

    def _endpoint(self, access: RegistryAccess) -> Endpoint:
        found = self._endpoints.get(access.host)
        if found is None:
            found = self._endpoints[access.host] = Endpoint(access, self._client(access), self._clock)
        return found

    def _client(self, access: RegistryAccess) -> httpx.AsyncClient:
        if self._given is not None:
            return self._given
        made = httpx.AsyncClient(
            verify=access.tls(),
            trust_env=False,  # no proxy, no .netrc and no certificate from the environment behind our back
            follow_redirects=False,
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=4, keepalive_expiry=15),
        )
        self._clients.append(made)
        return made


async def _there(repository: Repository, digest: str) -> tuple[bytes, Manifest | Index]:
    found = await repository.manifest(digest)
    if found is None:
        raise Refused(
            Refusal.NOT_FOUND,
            f"{repository.registry.host}/{repository.name} has no {brief(digest)}.",
            what="content",
            asked=digest,
            seen="not there",
        )
    return found


def _not_revoked(rule: TrustRule, digest: str, manifests: tuple[tuple[str, str, str], ...]) -> None:
    """A revoked platform or config revokes each index that holds it."""
    for one in (digest, *(part for _, manifest, config in manifests for part in (manifest, config))):
        if one in rule.revoked:
            whose = "" if one == digest else f", a part of {brief(digest)},"
            raise Refused(Refusal.REVOKED, f"{brief(one)}{whose} is revoked.", what="revoked", asked="not revoked", seen=one)


def _evidence(looked: Looked) -> list[Evidence]:
    return [finding.evidence for finding in looked.findings]
