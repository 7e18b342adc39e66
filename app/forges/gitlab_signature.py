"""Whether a GitLab delivery is authentic: the signed form (19.0 and later), or the older token in clear.

The signed form is the Standard Webhooks layout: `webhook-signature` holds one or more `v1,<base64>`,
each an HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}` by the key after `whsec_`
(GitLab, doc/user/project/integrations/webhooks.md). Where a signing token is configured, a delivery
that carries a signature stands or falls with it; one without may still prove itself by the token,
because older servers silently ignore a signing token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import datetime

from app.forges.contract import BadSignature
from providers.contract import Secret

TOLERANCE = 300  # seconds, either way: our clock or theirs may be off
PREFIX = "whsec_"
_LEAST_KEY = 24  # bytes: the least that Standard Webhooks allows; GitLab makes 32
_MOST_SIGNATURES = 16
_STAMP = re.compile(r"[0-9]{1,12}")
_ID = re.compile(r"[\x21-\x7e]{1,200}")


class Authenticity:
    """The secrets of one hook, and the judgement by them."""

    def __init__(self, *, webhook_token: Secret | None, signing_token: Secret | None, now: Callable[[], datetime]) -> None:
        """With neither, nothing is authentic. Raises ValueError for a blank token or a malformed signing token."""
        if webhook_token is not None and not webhook_token.reveal().strip():
            raise ValueError("GitLab's webhook token is blank: anybody could send deliveries with it.")
        self._token = webhook_token
        self._signing = None if signing_token is None else Secret(signing_token.reveal())
        self._now = now
        if signing_token is not None:
            _key(signing_token)

    def judge(self, headers: Mapping[str, str], body: bytes) -> bool:
        """True: signed, so that the webhook-id can be believed too. False: by token. Raises BadSignature."""
        if self._signing is not None and "webhook-signature" in headers:
            self._verify(_key(self._signing), headers, body)
            return True
        given = headers.get("x-gitlab-token", "")
        if self._token is None and self._signing is None:
            raise BadSignature("No webhook is taken here: GitLab is polled.")
        if self._token is None:
            raise BadSignature("The delivery carries no webhook-signature.")
        if not given:
            raise BadSignature("The delivery carries no X-Gitlab-Token.")
        if not hmac.compare_digest(self._token.reveal().encode(), given.encode("utf-8", "replace")):
            raise BadSignature
        return False

    def _verify(self, key: bytes, headers: Mapping[str, str], body: bytes) -> None:
        name, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not _ID.fullmatch(name) or not _STAMP.fullmatch(stamp):
            raise BadSignature("The signed delivery lacks a webhook-id or a webhook-timestamp.")
        made = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(made)
        fits = False
        for signature in headers["webhook-signature"].split()[:_MOST_SIGNATURES]:
            fits |= hmac.compare_digest(expected, signature.encode("utf-8", "replace"))
        if not fits:
            raise BadSignature
        if abs(self._now().timestamp() - int(stamp)) > TOLERANCE:
            raise BadSignature("The signed delivery is too old, or a clock is wrong: its time is more than 5 minutes off.")


def _key(token: Secret) -> bytes:
    """The bytes that sign. Raises ValueError for a token of another form; never quotes it."""
    value = token.reveal().strip()
    if not value.startswith(PREFIX):
        raise ValueError("GitLab's signing token starts with whsec_.")
    try:
        key = base64.b64decode(value.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("GitLab's signing token is not base64 after whsec_.") from None
    if len(key) < _LEAST_KEY:
        raise ValueError("GitLab's signing token is too short to be one.")
    return key
