"""Whether a delivery that GitHub, Gitea or Forgejo signed is authentic: HMAC-SHA256 over its raw body, in hexadecimals."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from app.forges.contract import BadSignature
from providers.contract import Secret

HUB_HEADER = "X-Hub-Signature-256"
_DIGITS = re.compile(rb"[0-9a-f]{64}")


def hub_digits(headers: Mapping[str, str]) -> str:
    """What GitHub's header brought, which Gitea and Forgejo send, too; empty: no digits, or another algorithm's."""
    algorithm, _, digits = headers.get("x-hub-signature-256", "").partition("=")
    return digits if algorithm == "sha256" else ""


class BodySignature:
    """The secrets of one webhook, and the judgement by them."""

    def __init__(self, title: str, secret: Secret | None, previous: Secret | None) -> None:
        """`title`: the forge's name for people. `previous`: the secret before this one, which counts as much.

        Without any, nothing is authentic. Raises ValueError for a blank secret."""
        self._title = title
        self._secrets = tuple(one for one in (secret, previous) if one is not None)
        if not all(one.reveal().strip() for one in self._secrets):
            raise ValueError(f"{title}'s webhook secret is blank: anybody could sign deliveries with it.")

    def judge(self, header: str, given: str, body: bytes) -> None:
        """`given`: the digits, as the header of this name brought them. In constant time. Raises BadSignature.

        A webhook without a secret brings the header too, with no digits in it (Gitea, services/webhook/deliver.go)."""
        if not self._secrets:
            raise BadSignature(f"No webhook is taken here: {self._title} is polled.")
        digits = given.encode("utf-8", "replace")
        if not digits:
            raise BadSignature(f"The delivery carries no {header}: has the webhook a secret?")
        if not _DIGITS.fullmatch(digits):
            raise BadSignature(f"The delivery's {header} is not a signature.")
        fits = False
        for secret in self._secrets:
            made = hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
            fits |= hmac.compare_digest(made.encode(), digits)
        if not fits:
            raise BadSignature
