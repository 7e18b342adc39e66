"""What each of Oracle's error codes means to us, as a table, and what the SDK's own errors mean.

The codes are those of Oracle's page "API errors". Two do not mean what they seem to: a shortage of machines comes as a 500
with "Out of host capacity" in its text, and a 404 "NotAuthorizedOrNotFound" may hide a machine that lives.
"""

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from providers.contract import ProviderError, Reach, Refused, Throttled, Unclear, Why
from providers.http import clean
from providers.regions import NoMachine
from providers.sdk import sdk

SHORTAGE = re.compile(r"\bout of (host )?capacity\b", re.IGNORECASE)
CREDENTIALS = frozenset({"NotAuthenticated", "NotAuthorized", "NotAllowed", "InsufficientServicePermissions"})
NOT_SHOWN = frozenset({"NotAuthorizedOrNotFound", "NotFound"})
QUOTA = frozenset({"LimitExceeded", "QuotaExceeded"})
FUNDS = frozenset({"SignUpRequired"})
SLOW_DOWN = frozenset({"TooManyRequests"})
SPENT = "InvalidatedRetryToken"
CODE = re.compile(r"[A-Z][A-Za-z0-9]{2,80}")
PAUSE = timedelta(seconds=2)
"""Where a throttled call tells no wait."""
LONGEST = timedelta(hours=1)


class NotShown(Refused):
    """Oracle does not show it: it is not there, or this key may not see it."""


class TokenSpent(Refused):
    """The create token was used, and what it made has been changed or ended since."""


class Busy(Unclear):
    """It is in a state in which this cannot be done now."""


def sort_answer(
    what: str, status: object, code: object, message: object, *, wait: object = None, creates: bool, hidden: Iterable[str]
) -> ProviderError:
    """What an error answer of Oracle means."""
    word = code if isinstance(code, str) else ""
    said = message if isinstance(message, str) else ""
    text = clean(f"{what}: {status} {word}: {said}", hidden)
    if SHORTAGE.search(said):
        return NoMachine(text, reach=Reach.OFFER)
    if word in CREDENTIALS or status == 401:
        return Refused(text, why=Why.CREDENTIALS)
    if word in NOT_SHOWN or word.endswith("NotAuthorizedOrNotFound"):
        return NotShown(text, why=Why.CREDENTIALS)
    if word in QUOTA:
        return Refused(text, why=Why.QUOTA)
    if word in FUNDS:
        return Refused(text, why=Why.FUNDS)
    if word in SLOW_DOWN or status == 429:
        return Throttled(text, wait=_seconds(wait))
    if word == SPENT:
        return TokenSpent(text)
    if status == 409:
        return Busy(text, maybe_created=creates)  # of a create: something under this token or name may be there
    if CODE.fullmatch(word) and isinstance(status, int) and 400 <= status < 500 and status != 408:
        return Refused(text, why=Why.REQUEST)
    return Unclear(text, maybe_created=creates)


def sort_failure(what: str, error: Exception, *, creates: bool) -> ProviderError:
    """What the SDK's own error means. Its text is not repeated: it may quote what was sent."""
    known: Any = sdk("oci.exceptions", "oci")
    name = type(error).__name__
    if isinstance(error, known.ConnectTimeout) or "NewConnectionError" in repr(error):
        return Unclear(f"{what}: cannot connect ({name})", maybe_created=False)
    return Unclear(f"{what}: no readable answer ({name})", maybe_created=creates)


def _seconds(wait: object) -> timedelta:
    if isinstance(wait, str) and wait.strip().isdigit():
        return min(max(timedelta(seconds=int(wait)), timedelta(seconds=1)), LONGEST)
    return PAUSE
