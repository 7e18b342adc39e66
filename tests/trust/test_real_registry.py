"""The refusals again, with Debian's registry in place of the one in memory, and connections of our own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from app.core.images import ImageVerdict, Refusal, TrustRule
from app.kit.threads import InlineLane
from app.trust.access import RegistryAccess
from app.trust.faults import RegistryAway
from app.trust.judge import ImageTrust
from app.trust.sign import sign
from providers.contract import Secret
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import digest_of, dsse_bundle, message_bundle, statement
from tests.parts.registry import PASSWORD, USER, RealRegistry, real_registry
from tests.trust.scene import key
from tests.world import ManualClock

_numbers = itertools.count(1)
KEY = key()
RULE = TrustRule(keys=(KEY.public,))


class Shelf:
    """A repository of its own in a real registry; what is made in memory is pushed when it is judged."""

    def __init__(self, real: RealRegistry) -> None:
        self.real, self.repository = real, f"story-{next(_numbers)}/gpu"
        self.memory = FakeRegistry(real.host, referrers=False)  # 2.8 has no referrers API
        self.access = RegistryAccess(
            real.host,
            plain_http=real.ca is None,
            ca=real.ca,
            username=USER if real.ca else "",
            password=Secret(PASSWORD) if real.ca else None,
        )
        self.clock = ManualClock()
        self.trust = ImageTrust({real.host: self.access}, self.clock, lane=InlineLane())

    async def judge(self, name: str = ":v3", rule: TrustRule = RULE) -> ImageVerdict:
        self.real.take(self.memory)
        return await self.trust.judge(f"{self.real.host}/{self.repository}{name}", rule)


@pytest.fixture
async def shelf(docker_registry: RealRegistry) -> AsyncGenerator[Shelf]:
    made = Shelf(docker_registry)
    yield made
    await made.trust.aclose()


async def test_signed(shelf: Shelf) -> None:
    digest = shelf.memory.index(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, KEY)
    verdict = await shelf.judge()
    assert verdict.allowed and verdict.digest == digest and len(verdict.manifests) == 2


@pytest.mark.parametrize("docker", [True, False])
async def test_signed_by_a_bundle_behind_the_fallback_tag(shelf: Shelf, docker: bool) -> None:
    digest = shelf.memory.image(shelf.repository, "v3", docker=docker)
    shelf.memory.attach(shelf.repository, digest, message_bundle(KEY, shelf.memory.bytes_of(shelf.repository, digest)))
    shelf.memory.attach(shelf.repository, digest, dsse_bundle(KEY, statement(digest)))
    assert (await shelf.judge()).allowed


async def test_unsigned(shelf: Shelf) -> None:
    shelf.memory.image(shelf.repository, "v3")
    assert (await shelf.judge()).code == Refusal.UNSIGNED


async def test_wrong_key(shelf: Shelf) -> None:
    digest = shelf.memory.image(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, key("other.pub"))
    assert (await shelf.judge()).code == Refusal.WRONG_KEY


async def test_tampered_manifest(shelf: Shelf) -> None:
    digest = shelf.memory.image(shelf.repository, "v3", seed="of its own: repositories share what has one digest")
    shelf.memory.sign(shelf.repository, digest, KEY)
    shelf.real.take(shelf.memory)
    stored = shelf.real.blob_file(digest)
    stored.write_bytes(stored.read_bytes().replace(b'"schemaVersion"', b' "schemaVersion"'))
    verdict = await shelf.trust.judge(f"{shelf.real.host}/{shelf.repository}@{digest}", RULE)
    assert verdict.code == Refusal.TAMPERED


async def test_signature_of_another_digest(shelf: Shelf) -> None:
    digest = shelf.memory.image(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, KEY, says=digest_of(b"another"))
    assert (await shelf.judge()).code == Refusal.WRONG_DIGEST


async def test_tag_moved_after_verification(shelf: Shelf) -> None:
    digest = shelf.memory.image(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, KEY)
    before = await shelf.judge()
    moved = shelf.memory.image(shelf.repository, "v3", seed="stranger")
    after = await shelf.judge()
    assert before.reference.endswith(digest) and (after.code, after.digest) == (Refusal.UNSIGNED, moved)
    assert (await shelf.judge(f"@{digest}")).allowed


async def test_revoked_digest(shelf: Shelf) -> None:
    digest = shelf.memory.image(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, KEY)
    assert (await shelf.judge()).allowed
    assert (await shelf.judge(rule=TrustRule(keys=(KEY.public,), revoked=frozenset({digest})))).code == Refusal.REVOKED


async def test_index_whose_one_platform_is_unsigned(shelf: Shelf) -> None:
    digest = shelf.memory.index(shelf.repository, "v3")
    amd, arm = shelf.memory.platforms(shelf.repository, digest)
    shelf.memory.sign(shelf.repository, amd, KEY)
    verdict = await shelf.judge()
    assert verdict.code == Refusal.PLATFORM_UNSIGNED and arm[:19] in verdict.why


async def test_not_there(shelf: Shelf) -> None:
    shelf.memory.image(shelf.repository, "v3")
    assert (await shelf.judge(":v4")).code == Refusal.NOT_FOUND
    assert (await shelf.judge(f"@{digest_of(b'nothing')}")).code == Refusal.NOT_FOUND


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
async def test_what_we_sign_stands_beside_what_others_signed(shelf: Shelf, kind: str) -> None:
    other, ours = key("other.pub"), key(f"{kind}.pub", kind)
    digest = shelf.memory.index(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, other)
    shelf.real.take(shelf.memory)
    reference = f"{shelf.real.host}/{shelf.repository}:v3"
    registries = {shelf.real.host: shelf.access}
    made = await sign(reference, ours.pem(), None, registries, shelf.clock)
    assert (made.digest, made.count, made.fresh) == (digest, 2, True)
    again = await sign(reference, ours.pem(), None, registries, shelf.clock)
    assert (again.count, again.fresh) == (2, False)
    both = TrustRule(keys=(other.public, ours.public), need_all=True)
    verdict = await shelf.trust.judge(reference, both)
    assert verdict.allowed, verdict.why
    assert verdict.evidence[-1].signed_at == shelf.clock.now()
    fresh = TrustRule(keys=(ours.public,), oldest=timedelta(days=1))
    assert (await shelf.trust.judge(reference, fresh)).allowed


async def test_with_tls_of_its_own_authority_and_a_login(guarded_registry: RealRegistry) -> None:
    shelf = Shelf(guarded_registry)
    digest = shelf.memory.image(shelf.repository, "v3")
    shelf.memory.sign(shelf.repository, digest, KEY)
    assert (await shelf.judge()).allowed
    lent = await shelf.trust.pull_access(f"{guarded_registry.host}/{shelf.repository}@{digest}")
    assert lent is not None and (lent.username, lent.password.reveal()) == (USER, PASSWORD)
    made = await sign(
        f"{guarded_registry.host}/{shelf.repository}:v3",
        key("other.pub").pem(),
        None,
        {guarded_registry.host: shelf.access},
        shelf.clock,
    )
    assert made.count == 2
    await shelf.trust.aclose()
    for access, why in (
        (RegistryAccess(guarded_registry.host), "cannot be reached"),
        (RegistryAccess(guarded_registry.host, ca=guarded_registry.ca), "the settings have none"),
        (
            RegistryAccess(guarded_registry.host, ca=guarded_registry.ca, username=USER, password=Secret("wrong")),
            "refuses the login",
        ),
    ):
        trust = ImageTrust({guarded_registry.host: access}, ManualClock(), lane=InlineLane())
        with pytest.raises(RegistryAway, match=why):
            await trust.judge(f"{guarded_registry.host}/{shelf.repository}:v3", RULE)
        await trust.aclose()


async def test_a_registry_that_has_ended_means_wait() -> None:
    with real_registry() as real:
        shelf = Shelf(real)
        digest = shelf.memory.image(shelf.repository, "v3")
        shelf.memory.sign(shelf.repository, digest, KEY)
        assert (await shelf.judge()).allowed
    with pytest.raises(RegistryAway, match="cannot be reached"):
        await shelf.trust.judge(f"{real.host}/{shelf.repository}:v3", RULE)
    assert (await shelf.trust.judge(f"{real.host}/{shelf.repository}@{digest}", RULE)).allowed
    await shelf.trust.aclose()
