"""A circuit breaker per provider: after calls that fail, nothing is rented there for a while. It never holds back a destroy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from providers.contract import ProviderError, Refused, Throttled, Unclear, Why

TRIES = 3  # failures in a row, before it opens
FIRST = timedelta(seconds=30)
LONGEST = timedelta(minutes=10)
FOR_US = timedelta(minutes=5)  # a key or a balance that is refused is looked at again, in case somebody mended it
FOR_US_LONGEST = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How we stand with one provider: paused by a person, or away by what its calls came to."""

    provider: str
    paused_at: datetime | None = None
    paused_by: str = ""
    paused_why: str = ""
    failures: int = 0  # in a row
    open_until: datetime | None = None
    trouble: str = ""  # its last failure, for people; empty since its last success
    trouble_at: datetime | None = None

    def no(self, now: datetime) -> tuple[str, str] | None:
        """The rule and the sentence for which nothing is rented there now; None: it may be."""
        if self.paused_at is not None:
            by = f" by {self.paused_by}" if self.paused_by else ""
            return "paused", f"paused{by} since {self.paused_at:%Y-%m-%d %H:%M} UTC" + (
                f": {self.paused_why}" if self.paused_why else ""
            )
        if self.open_until is not None and self.open_until > now:
            return "provider-away", f"{self.trouble or 'its calls fail'}; asked again at {self.open_until:%H:%M:%S} UTC"
        return None


def worked(standing: Standing) -> Standing:
    """A call that was answered closes it."""
    return replace(standing, failures=0, open_until=None, trouble="", trouble_at=None)


def failed(standing: Standing, error: ProviderError, now: datetime) -> Standing:
    """The standing after a call that failed so. A no to an offer or to a request says nothing of the provider."""
    text = str(error)[:300]
    if isinstance(error, Refused):
        if error.why not in (Why.CREDENTIALS, Why.FUNDS):
            return standing
        failures = standing.failures + 1
        wait = min(FOR_US * 2 ** min(failures - 1, 8), FOR_US_LONGEST)
        return replace(standing, failures=failures, open_until=now + wait, trouble=text, trouble_at=now)
    if isinstance(error, Throttled):
        return replace(standing, open_until=now + min(error.wait, LONGEST), trouble=text, trouble_at=now)
    if not isinstance(error, Unclear):
        return worked(standing)
    failures = standing.failures + 1
    wait = min(FIRST * 2 ** min(max(failures - TRIES, 0), 8), LONGEST)
    until = now + wait if failures >= TRIES else standing.open_until
    return replace(standing, failures=failures, open_until=until, trouble=text, trouble_at=now)
