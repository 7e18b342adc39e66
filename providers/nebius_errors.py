"""What Nebius answers with instead of a result, sorted as the contract has it.

A failed call, and an operation that ends badly, both carry a gRPC code and often `ServiceError` details, which say more
than the code does: they are read first (nebius/common/v1/error.proto, and "Error Details" of the API's own README).
"""

import contextlib
from datetime import timedelta
from typing import Any

from providers.contract import NoCapacity, ProviderError, Reach, Refused, Throttled, Unclear, Why
from providers.http import clean
from providers.sdk import sdk

ABSENT = "NOT_FOUND"
CREDENTIALS = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
REQUEST = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED", "NOT_FOUND"})
AGAIN = frozenset({"CALL", "UNIT_OF_WORK"})  # the vendor's own advice: it is not about what we asked for
BUSY = timedelta(seconds=15)
SLOW_DOWN = timedelta(seconds=30)
LONGEST = timedelta(hours=1)
RETRY_DELAY = b"\x0a"  # field 1 of RetryInfo, a Duration: the SDK has no class for it


def sorted_status(status: Any, what: str, *, creates: bool = False) -> ProviderError:
    """`status` is the SDK's `RequestStatusExtended` of a failed call or operation."""
    code = _name(getattr(status, "code", None))
    kinds, advice = _details(status)
    text = f"{what}: {code}" + _said(status)
    if "not_enough_resources" in kinds:
        return NoCapacity(text, reach=Reach.OFFER)
    if "quota_failure" in kinds:
        return Refused(text, why=Why.QUOTA)
    if "too_many_requests" in kinds:
        return Throttled(text, wait=_wait(status))
    if code in CREDENTIALS:
        return Refused(text, why=Why.CREDENTIALS)
    if code == "RESOURCE_EXHAUSTED":
        return _exhausted(status, text, advice, creates)
    if code in REQUEST:
        # Refused all the same, but for a reason that passes: another operation on the resource, say.
        return Throttled(text, wait=BUSY) if advice & AGAIN else Refused(text, why=Why.REQUEST)
    # ALREADY_EXISTS is here, too: a create under a name that is taken may have met our own earlier attempt.
    return Unclear(text, maybe_created=creates)


def is_absent(status: Any) -> bool:
    return _name(getattr(status, "code", None)) == ABSENT


def _exhausted(status: Any, text: str, advice: frozenset[str], creates: bool) -> ProviderError:
    """The one code for quota, stock and rate alike, where no detail tells which."""
    said = str(getattr(status, "message", "") or "").lower()
    if "message larger than" in said:  # gRPC on this side: an answer came, and was too long to be read
        return Unclear(text, maybe_created=creates)
    if "quota" in said or "limit exceeded" in said:
        return Refused(text, why=Why.QUOTA)
    if "resources" in said or "capacity" in said:
        return NoCapacity(text, reach=Reach.OFFER)
    return Refused(text, why=Why.QUOTA) if "NOTHING" in advice else Throttled(text, wait=_wait(status))


def _wait(status: Any) -> timedelta:
    """As long as a `google.rpc.RetryInfo` among the details says, gRPC's own `Retry-After`; else `SLOW_DOWN`."""
    for detail in getattr(status, "details", ()) or ():
        value = bytes(getattr(detail, "value", b""))
        if str(getattr(detail, "type_url", "")).endswith("/google.rpc.RetryInfo") and value[:1] == RETRY_DELAY:
            with contextlib.suppress(Exception):  # whatever is no duration tells nothing
                delay: timedelta = sdk("google.protobuf.duration_pb2", "nebius").Duration.FromString(value[2:]).ToTimedelta()
                return min(max(delay, timedelta(seconds=1)), LONGEST)
    return SLOW_DOWN


def _details(status: Any) -> tuple[frozenset[str], frozenset[str]]:
    """The kinds of the service errors, and their advice whether to ask again."""
    kinds, advice = set[str](), set[str]()
    for error in getattr(status, "service_errors", ()) or ():
        details = getattr(error, "details", None)
        kinds.add(str(getattr(details, "field", "")))
        advice.add(_name(getattr(error, "retry_type", None)))
    return frozenset(kinds), frozenset(advice)


def _said(status: Any) -> str:
    """The vendor's words, on one line and short."""
    words = str(getattr(status, "message", "") or "")
    codes = ", ".join(str(getattr(error, "code", "")) for error in getattr(status, "service_errors", ()) or ())
    number = str(getattr(status, "request_id", "") or "")
    parts = [words, f"({codes})" if codes else "", f"[request {number}]" if number else ""]
    line = clean(" ".join(parts))
    return f": {line}" if line else ""


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
