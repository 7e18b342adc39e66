"""What each of AWS's error codes means to us, as a table, and what the SDK's own errors mean.

The codes are those of EC2's error code reference (docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html) and of the
SDK's own list of throttling codes (botocore/retries/standard.py). A code is looked up before the status: EC2 answers
"InsufficientInstanceCapacity" and "RequestLimitExceeded" with a 5xx, and both are a definite no.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, cast

from providers.contract import ProviderError, Reach, Refused, Throttled, Unclear, Why
from providers.http import clean
from providers.regions import NoMachine
from providers.sdk import sdk


def codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


CREDENTIALS = codes("""
    AccessDenied AccessDeniedException AuthFailure Blocked CredentialsNotSupported ExpiredToken ExpiredTokenException
    IncompleteSignature InvalidAccessKeyId InvalidClientTokenId InvalidSecurity MissingAuthenticationToken NotAuthorized
    OptInRequired PendingVerification RequestExpired SignatureDoesNotMatch UnauthorizedOperation UnrecognizedClientException
""")
QUOTA = codes("""
    AddressLimitExceeded InstanceLimitExceeded MaxIOPSLimitExceeded MaxSpotInstanceCountExceeded NetworkInterfaceLimitExceeded
    ResourceCountExceeded ResourceLimitExceeded SnapshotLimitExceeded VcpuLimitExceeded VolumeLimitExceeded
""")
NO_MACHINE = codes("""
    InsufficientCapacity InsufficientFreeAddressesInSubnet InsufficientHostCapacity InsufficientInstanceCapacity
    InsufficientReservedInstanceCapacity InsufficientVolumeCapacity InstanceTypeNotSupported SpotMaxPriceTooLow Unsupported
    UnsupportedHostConfiguration
""")
"""Of one zone: the next zone is asked."""
SLOW_DOWN = codes("""
    BandwidthLimitExceeded EC2ThrottledException PriorRequestNotComplete RequestLimitExceeded RequestThrottled
    RequestThrottledException SlowDown ThrottledException Throttling ThrottlingException TooManyRequestsException
""")
BROKEN = codes("InternalError InternalFailure InternalServerError ServerInternal ServiceUnavailable Unavailable")
TOKEN_TAKEN = frozenset({"IdempotentParameterMismatch", "InvalidClientToken.Conflict"})
SPENT = "IdempotentInstanceTerminated"
ABSENT = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})
"""AWS's own word that there is no such instance; right after a create it may be early (EC2 is eventually consistent)."""
CODE = re.compile(r"[A-Z][A-Za-z0-9]{2,60}(\.[A-Za-z0-9]{1,60})*")
PAUSE = timedelta(seconds=2)
"""EC2 tells no wait with a throttled call; its buckets gain two calls a second or more."""


class Absent(Refused):
    """AWS says that there is no such instance."""


class TokenSpent(Refused):
    """The create token belongs to an instance that has ended."""


class Passed(Refused):
    """A dry run would have succeeded."""


def sort_answer(what: str, answer: Mapping[str, Any], *, creates: bool, hidden: Iterable[str]) -> ProviderError:
    """What an error answer of AWS, as the SDK gives it, means."""
    told = _part(answer, "Error")
    status = _part(answer, "ResponseMetadata").get("HTTPStatusCode", 0)
    code = str(told.get("Code", ""))
    text = clean(f"{what}: {code}: {told.get('Message', '')}", hidden)
    if code in CREDENTIALS:
        return Refused(text, why=Why.CREDENTIALS)
    if code in QUOTA:
        return Refused(text, why=Why.QUOTA)
    if code in NO_MACHINE:
        return NoMachine(text, reach=Reach.OFFER)
    if code in SLOW_DOWN:
        return Throttled(text, wait=PAUSE)
    if code in ABSENT:
        return Absent(text)
    if code == SPENT:
        return TokenSpent(text)
    if code == "DryRunOperation":
        return Passed(text)
    known = CODE.fullmatch(code) and code not in BROKEN and code not in TOKEN_TAKEN
    if known and isinstance(status, int) and 400 <= status < 500:
        return Refused(text, why=Why.REQUEST)  # a client error in AWS's own form: nothing was done
    return Unclear(text, maybe_created=creates)


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: object = answer.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def sort_failure(what: str, error: Exception, *, creates: bool) -> ProviderError:
    """What the SDK's own error means. Its text is not repeated: it may quote what was sent."""
    known: Any = sdk("botocore.exceptions", "aws")
    name = type(error).__name__
    no_credentials = (
        known.NoCredentialsError,
        known.PartialCredentialsError,
        known.CredentialRetrievalError,
        known.NoAuthTokenError,
        known.TokenRetrievalError,
        known.UnauthorizedSSOTokenError,
        known.SSOTokenLoadError,
        known.ProfileNotFound,
    )
    if isinstance(error, no_credentials):
        return Refused(f"{what}: no usable credentials ({name})", why=Why.CREDENTIALS)
    if isinstance(error, known.ParamValidationError):
        return Refused(f"{what}: the SDK does not take what it was given")
    if isinstance(error, known.ConnectTimeoutError | known.EndpointConnectionError | known.ProxyConnectionError):
        return Unclear(f"{what}: cannot connect ({name})", maybe_created=False)
    return Unclear(f"{what}: no readable answer ({name})", maybe_created=creates)
