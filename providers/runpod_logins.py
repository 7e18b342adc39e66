"""Logins of image registries at RunPod: stored for one pod, and deleted again, whatever became of the pod.

The API takes a login for an image only as a stored object of the account, by its id, and refuses to delete it while a
pod uses it. So its name says whose it is and for which tag, and whatever stays behind is found by that name.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection
from datetime import datetime, timedelta

from providers.clock import Clock
from providers.contract import Order, ProviderError, Refused
from providers.runpod_account import Account

GRACE = timedelta(minutes=10)
"""A login without a pod may be that of a create under way in another process of ours: only an old one is swept."""
NAME = re.compile(r"sublet-[0-9a-f]{16}\.[a-z0-9-]{1,63}")


class Logins:
    """Raises only `ProviderError` and what `guarded` catches."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account, self._clock = account, clock
        self._perhaps_left = True  # a service that was killed may have left some
        self._seen: dict[str, datetime] = {}  # id of one without a pod -> since when

    async def store(self, order: Order) -> str:
        """The id for the pod's create; empty if the order has no login. Names are unique in API v1: an old one goes first."""
        if order.login is None:
            return ""
        if not order.login.username:
            raise Refused("RunPod logs in to a registry with a user name and a password, and this registry gave a token only")
        name = _name(order.owner, order.tag)
        self._perhaps_left = True
        for row in await self._account.registries():
            if row["name"] == name:
                await self._account.delete_registry(str(row["id"]))
        return await self._account.create_registry(name, order.login.username, order.login.password)

    async def forget(self, registry_id: str) -> None:
        """Deletes it if it is one of ours. Never raises: what cannot be deleted now is swept later."""
        self._perhaps_left = True
        with contextlib.suppress(ProviderError, LookupError, TypeError):
            ours = [row for row in await self._account.registries() if NAME.fullmatch(str(row["name"]))]
            if registry_id in {str(row["id"]) for row in ours}:
                await self._account.delete_registry(registry_id)

    async def sweep(self, owner: str, tags: Collection[str]) -> None:
        """Deletes this owner's that no pod needs any more. Asks only if there may be any; never raises."""
        if not self._perhaps_left:
            return
        with contextlib.suppress(ProviderError, LookupError, TypeError):
            needed = {_name(owner, tag) for tag in tags}
            ours = [row for row in await self._account.registries() if str(row["name"]).startswith(_name(owner, ""))]
            idle = {str(row["id"]) for row in ours if row["name"] not in needed}
            now = self._clock.now()
            self._seen = {one: self._seen.get(one, now) for one in idle}
            gone = [
                one for one, since in self._seen.items() if now - since >= GRACE and await self._account.delete_registry(one)
            ]
            self._perhaps_left = len(ours) > len(gone)


def _name(owner: str, tag: str) -> str:
    """The owner's tag is hashed: a login's name is seen by all who see the account."""
    return f"sublet-{hashlib.sha256(owner.encode()).hexdigest()[:16]}.{tag}"
