"""May this image run, before any money is spent and before any credential: the gate that the stations ask."""

from __future__ import annotations

from dataclasses import replace

from app.core import verdicts
from app.core.images import ImageVerdict, Mode, Refusal, to_json
from app.core.model import Lease, Pool, Reason
from app.core.states import State
from app.engine.step import Deps, Move, Wait, pause
from app.store import images
from app.trust.faults import RegistryAway
from providers.contract import ImageLogin


async def admit(lease: Lease, pool: Pool, deps: Deps) -> ImageVerdict | Move | Wait | None:
    """planned: the verdict that lets it run; or the end of the lease, or a wait. None: the pool has no image to judge.

    A tag is looked up once: later looks at this lease ask about the digest that it meant then."""
    if pool.trust is None:
        gone = lease.key.pool not in deps.pools and lease.mode not in ("", Mode.BARE)
        return _pool_gone(pool) if gone else None
    if deps.trust is None or pool.image is None:
        return _no("The pool asks for a signed image, and this process has nothing to judge one with.", None)
    before = verdicts.verdict_on(lease)
    known = before if before is not None and before.allowed and before.asked == pool.image else None
    rule = replace(pool.trust, revoked=pool.trust.revoked | await deps.store(images.revoked_digests, deps.db))
    try:
        verdict = await deps.trust.judge(pool.image if known is None else known.reference, rule)
    except RegistryAway as away:
        seconds = max(away.wait.total_seconds(), pause(lease.tries, first=2.0, longest=30.0))
        return Wait(seconds, f"Its image {pool.image} cannot be verified now: {away}", failed=True)
    if verdict.code == Refusal.REVOKED:  # the judge knows that it is, not why
        noted = await deps.store(images.revoked_among, deps.db, verdicts.digests(verdict))
        verdict = replace(verdict, why=verdicts.revoked_since(verdict, pool, noted) or verdict.why)
    verdict = replace(verdict, asked=pool.image)
    return verdict if verdict.allowed else _no(verdict.why, verdict)


async def objection(lease: Lease, deps: Deps) -> str:
    """A sentence that says why the lease's image may not go on, though it was let in once; empty if nothing speaks against it.

    Nothing is read for a lease without an image."""
    pool = deps.pool_of(lease)
    if no := verdicts.unproven(lease, pool):
        return no
    verdict = verdicts.verdict_on(lease)
    if verdict is None:
        return ""
    noted = await deps.store(images.revoked_among, deps.db, verdicts.digests(verdict))
    return verdicts.revoked_since(verdict, pool, noted)


async def login(lease: Lease, deps: Deps) -> ImageLogin | Wait | None:
    """launching: what the provider pulls the lease's container image with; None where everybody may."""
    if deps.trust is None or not lease.image or not lease.image_digest or not lease.image.endswith(f"@{lease.image_digest}"):
        return None
    try:
        lent = await deps.trust.pull_access(lease.image)
    except RegistryAway as away:
        seconds = max(away.wait.total_seconds(), pause(lease.tries, first=2.0, longest=30.0))
        return Wait(seconds, f"Its image cannot be pulled now: {away}", failed=True)
    except ValueError:  # its registry left the settings: the provider may have the image, or pull it without us
        return None
    return None if lent is None else ImageLogin(lent.host, lent.password, lent.username)


def _no(why: str, verdict: ImageVerdict | None) -> Move:
    values = {} if verdict is None else {"image_digest": verdict.digest, "image_verdict": to_json(verdict)}
    return Move(State.RELEASED, Reason.IMAGE_REFUSED, why, values)


def _pool_gone(pool: Pool) -> Move:
    return _no(f"The pool {pool.name} is not in the settings any more, so nobody can say whose signature counts.", None)
