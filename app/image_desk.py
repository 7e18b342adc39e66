"""Looks at one image and signs one, for `sublet image verify` and `sublet image sign`: from the settings, without a service.

Prints one JSON object."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app import image_rules
from app.core.images import ImageVerdict, Refusal, TrustRule
from app.kit.clock import SystemClock
from app.kit.one_line import refusal, say
from app.settings import PoolSettings, SecretError, Settings, SettingsError, load
from app.store import copies, images
from app.store.db import Database
from app.trust import sign
from app.trust.faults import RegistryAway
from app.web.image_views import image_view
from providers.contract import Secret

FAILED, USAGE, NOT_FOUND, AWAY = 1, 2, 3, 10
"""The exit codes of the command line (app.cli.exits)."""


class Unusable(Exception):
    """What was asked cannot be answered from these settings: a sentence, and what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 for yes, 1 for no, 2 if the settings or the words cannot be used, 3 if the image is not there, 10 if the
    registry does not answer."""
    parser = argparse.ArgumentParser(prog="python -m app.image_desk")
    parser.add_argument("what", choices=("verify", "sign"))
    parser.add_argument("image")
    parser.add_argument("--pool")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--password-env")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args(arguments)
    try:
        settings = load(given.config, {} if given.data is None else {"data": given.data.absolute()}).settings
        if given.what == "verify":
            return asyncio.run(_verify(settings, given.image, given.pool))
        pem, password = _key(given.key), _password(given.password_env)
        return asyncio.run(_sign(settings, given.image, pem, password))
    except RegistryAway as away:
        return say(refusal(f"The registry does not say: {away}", "Nobody can say whether it may run; try again."), AWAY)
    except sign.CannotSign as no:
        return say(refusal(str(no)), FAILED)
    except Unusable as no:
        return say(refusal(str(no), no.hint), USAGE)
    except (SettingsError, SecretError, FileNotFoundError) as error:
        return say(refusal(f"The settings cannot be used: {error}", "See `sublet config check`."), USAGE)


async def _verify(settings: Settings, image: str, wanted: str | None) -> int:
    pool = _pool(settings, image, wanted)
    rule = image_rules.usual_rule(settings) if pool is None else image_rules.rule_of(pool, settings)
    registries = image_rules.registries_of(settings)
    if rule is None or not registries:
        raise _nothing_to_judge_by(pool)
    revoked, note = _revoked(settings)
    trust = image_rules.trust_of(settings, registries, SystemClock())
    try:
        verdict = await trust.judge(image, replace(rule, revoked=rule.revoked | revoked))
    finally:
        await trust.aclose()
    code = 0 if verdict.allowed else NOT_FOUND if verdict.code == Refusal.NOT_FOUND else FAILED
    return say(_told(verdict, pool, rule, note), code)


def _nothing_to_judge_by(pool: PoolSettings | None) -> Unusable:
    if pool is not None and pool.image is None:
        return Unusable(f"The pool {pool.name} is bare: it has no image, and asks nothing of any.")
    return Unusable("The settings name no [[registry]], and no other is ever asked.", "See `sublet config explain registry`.")


def _pool(settings: Settings, image: str, wanted: str | None) -> PoolSettings | None:
    """Whose rule counts: the pool that was named, the one that has this image, or the only one. None: [trust] alone."""
    if wanted is not None:
        found = next((pool for pool in settings.pool if pool.name == wanted), None)
        if found is None:
            told = ", ".join(sorted(pool.name for pool in settings.pool)) or "none"
            raise Unusable(f"There is no pool {wanted} (there are: {told}).")
        return found
    judged = [pool for pool in settings.pool if pool.image is not None]
    same = [pool for pool in judged if pool.image == image]
    if len(same) == 1:
        return same[0]
    if settings.trust.keys or settings.trust.identity:
        return None
    if len(judged) == 1:
        return judged[0]
    raise Unusable("Nothing says whose signature counts: [trust] names nobody.", "Name a pool with --pool.")


def _revoked(settings: Settings) -> tuple[frozenset[str], str]:
    """What people revoked, if the service's database can be read; or a note that it could not."""
    note = "The digests that people revoked could not be read, so only those of the settings count here."
    try:
        url = settings.database.address() or f"sqlite:///{Path(settings.data).absolute() / 'sublet.db'}"
        place = copies.place(url)
        if place is not None and not place.exists():
            return frozenset(), ""  # no service has run here
        database = Database(url)
        try:
            return images.revoked_digests(database), ""
        finally:
            database.close()
    except Exception:  # noqa: BLE001  whatever the database says, the image can still be looked at
        return frozenset(), note


def _key(file: Path | None) -> str:
    if file is None:
        raise Unusable("There is no key to sign with.", "Give one with --key.")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Unusable(f"The key {file} cannot be read: {why}.") from None


def _password(variable: str | None) -> Secret | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise Unusable(f"The variable {variable} is not set, or empty.")
    return Secret(os.environ[variable])


async def _sign(settings: Settings, image: str, pem: str, password: Secret | None) -> int:
    done = await sign.sign(image, pem, password, image_rules.registries_of(settings), SystemClock())
    return say(
        {
            "schema_version": 1,
            "reference": done.reference,
            "digest": done.digest,
            "tag": done.tag,
            "key": done.fingerprint,
            "signatures": done.count,
            "fresh": done.fresh,
        }
    )


def _told(verdict: ImageVerdict, pool: PoolSettings | None, rule: TrustRule, note: str) -> dict[str, Any]:
    named = None if pool is None else pool.name
    view = image_view(verdict).model_dump(mode="json")
    return {"schema_version": 1, "pool": named, "signature_required": rule.signed, "image": view, "note": note}


if __name__ == "__main__":
    sys.exit(main())
