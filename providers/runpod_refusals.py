"""What RunPod's no to a create means: its 400 says both "this request breaks a rule" and "there is none left now".

The vendor's description: "capacity exhaustion currently carries no machine-readable code of its own", and "if every
candidate returns 400, read the last detail as a problem with the request". One create of one offer tells by the
catalogue's stock of that very offer at that moment, by the vendor's words, and by what the creates before it were told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from providers.clock import Clock
from providers.contract import NoCapacity, ProviderError, Refused, Why, guarded
from providers.runpod_catalogue import ANYWHERE, Catalogue, Place

NONE_LEFT = re.compile(
    r"no longer any instances available|not have the resources to deploy|not enough free gpus", re.IGNORECASE
)
"""What RunPod says when there is no machine (runpod/runpodctl#189, runpod/runpod-python#168, #297)."""
REMEMBERED = timedelta(minutes=30)
BARRED_FOR = timedelta(hours=1)
DIFFERENT, AGAIN = 5, 3
"""So many offers, or so many tries of all places of one type, refused although in stock: then it is the request."""


class Refusals:
    """Belongs to one account. Its answers are errors to raise."""

    def __init__(self, catalogue: Catalogue, clock: Clock) -> None:
        self._catalogue, self._clock = catalogue, clock
        self._in_spite: list[tuple[datetime, Place]] = []  # refused although in stock, since the last success
        self._barred: dict[str, datetime] = {}  # GPU type -> until when

    def placed(self) -> None:
        """A create succeeded: the request as such is sound."""
        self._in_spite.clear()

    def barred(self) -> frozenset[str]:
        """GPU types that the account was told it may not have: left out of the offers for an hour, then tried again."""
        now = self._clock.now()
        return frozenset(gpu for gpu, until in self._barred.items() if until > now)

    def forbidden(self, place: Place, said: str) -> ProviderError:
        """403: the key may not rent, or the account has no access to this GPU's pool; the answer does not say which."""
        self._barred[place.gpu] = self._clock.now() + BARRED_FOR
        return Refused(
            f"RunPod forbids it: the key may not create pods, or the account may not have {place.gpu}: {said}",
            why=Why.CREDENTIALS,
        )

    async def ambiguous(self, place: Place, said: str) -> ProviderError:
        """400. No capacity only with evidence of it: the catalogue has none of it, or RunPod says so and is not refuted."""
        words = bool(NONE_LEFT.search(said))
        try:
            with guarded("RunPod stock"):
                stock = await self._catalogue.in_stock(place.cloud, place.count)
        except ProviderError as error:
            if words:
                return NoCapacity(f"{place.id}: {said}")
            return Refused(f"RunPod refuses the request, and its stock could not be asked ({error}): {said}")
        places = stock.get(place.gpu, frozenset[str]())
        if not places or place.data_center not in (*places, ANYWHERE):
            return NoCapacity(f"{place.id}: the catalogue has none in stock: {said}")
        if not words:
            return Refused(f"RunPod refuses the request, though {place.id} is in stock: {said}")
        now = self._clock.now()
        self._in_spite = [(at, other) for at, other in self._in_spite if now - at < REMEMBERED] + [(now, place)]
        if self._everywhere(place, stock):
            return Refused(f"RunPod refuses every candidate though its catalogue has them, so it is the request: {said}")
        return NoCapacity(f"{place.id}: {said}")

    def _everywhere(self, place: Place, stock: Mapping[str, frozenset[str]]) -> bool:
        refused = {other for _, other in self._in_spite}
        alike = {
            other.data_center
            for other in refused
            if (other.gpu, other.count, other.cloud) == (place.gpu, place.count, place.cloud)
        }
        tried = sum(other.gpu == place.gpu for _, other in self._in_spite)
        return len(refused) >= DIFFERENT or (tried >= AGAIN and stock[place.gpu] <= alike)
