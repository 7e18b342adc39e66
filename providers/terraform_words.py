"""What Terraform says when something is wrong (`-json`), made safe to show and sorted by what the caller must do next."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from providers.contract import NoCapacity, ProviderError, Reach, Refused, Throttled, Why

SHOWN = 400  # characters of Terraform's text in one of our sentences

NO_CAPACITY: Sequence[str] = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "Out of host capacity",
    "ZONE_RESOURCE_POOL_EXHAUSTED",
    "No valid host was found",
    "SkuNotAvailable",
    "AllocationFailed",
    "not_enough_resources",
)
"""What AWS, OCI, Google, OpenStack, Azure and Nebius say, as of 2026-11; `no_capacity` in the settings replaces it."""
QUOTA: Sequence[str] = (
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    r"\bLimitExceeded",
    "QuotaExceeded",
    "QUOTA_EXCEEDED",
    "Quota exceeded",
    "OperationNotAllowed",
    "quota_failure",
)
CREDENTIALS: Sequence[str] = (
    "UnauthorizedOperation",
    "AuthFailure",
    "InvalidClientTokenId",
    "ExpiredToken",
    "No valid credential",
    "NotAuthenticated",
    "NotAuthorizedOrNotFound",
    "invalid_grant",
    r"\b401\b",
    "Unauthorized",
)
THROTTLED: Sequence[str] = ("RequestLimitExceeded", "Too ?Many ?Requests", "Throttling", r"\b429\b", "rateLimitExceeded")


def errors(said: bytes) -> list[str]:
    """Summary and detail of each error in what a step printed; what is not JSON counts only if there is nothing else."""
    found, plain = list[str](), list[str]()
    for line in said.decode("utf-8", "replace").splitlines():
        try:
            content: Any = json.loads(line)
        except ValueError:
            plain.append(line)
            continue
        told: Any = cast("dict[str, Any]", content).get("diagnostic") if isinstance(content, dict) else None
        if isinstance(told, dict):
            words = cast("dict[str, Any]", told)
            if words.get("severity") == "error":
                found.append(f"{words.get('summary', '')}: {words.get('detail', '')}".strip(": \n"))
    return found or [line for line in ("\n".join(plain).strip(),) if line]


def shown(texts: Iterable[str], secrets: Iterable[str]) -> str:
    """One short line, without what must not be shown."""
    text = " | ".join(texts)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def hidden(user_data: str, secrets: Iterable[str]) -> list[str]:
    """What must not be shown of an order: the secrets, the script, and each line of it that says something."""
    lines = (line.strip() for line in user_data.splitlines())
    return [text for text in (*secrets, user_data, *(line for line in lines if len(line) >= 8)) if text]


def sort(texts: Sequence[str], safe: str, patterns: Mapping[str, Sequence[str]]) -> ProviderError | None:
    """The definite no that Terraform's errors stand for, as the settings' patterns have it; None if they match none.

    The order is from the most to the least far-reaching: bad credentials are never taken for no capacity.
    """
    whole = "\n".join(texts)

    def says(word: str) -> bool:
        return any(re.search(pattern, whole, re.IGNORECASE) for pattern in patterns[word])

    if says("credentials"):
        return Refused(safe, why=Why.CREDENTIALS)
    if says("quota"):
        return Refused(safe, why=Why.QUOTA)
    if says("throttled"):
        return Throttled(safe)
    if says("no_capacity"):
        return NoCapacity(safe, reach=Reach.OFFER)
    return None
