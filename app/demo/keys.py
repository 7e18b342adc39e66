"""The demo forge's secrets: made once, each in its own file that only its owner may read."""

from __future__ import annotations

import os
import secrets
import string
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

ALPHABET = string.ascii_letters + string.digits
WEBHOOK_SECRET, TOKEN, APP_KEY, SIGNING = "webhook-secret", "token", "app.pem", "signing-key"


@dataclass(frozen=True, slots=True)
class Keys:
    app_pem: str = field(repr=False)  # the App's private key: the forge itself needs only the public half
    webhook_secret: str = field(repr=False)
    token: str = field(repr=False)  # a person's token: may do everything, and use the control API
    signing: str = field(repr=False)  # signs installation tokens


def fresh() -> Keys:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return Keys(
        app_pem=pem.decode(),
        webhook_secret=secrets.token_hex(32),
        token="ghp_" + "".join(secrets.choice(ALPHABET) for _ in range(36)),
        signing=secrets.token_hex(32),
    )


def private_file(path: Path, text: str) -> None:
    """Written whole or not at all, on disk when this returns, mode 0600."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(folder: Path) -> Keys:
    """The keys in this folder; made at the first call."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = (APP_KEY, WEBHOOK_SECRET, TOKEN, SIGNING)
    if not all((folder / name).is_file() for name in names):
        made = fresh()
        for name, text in zip(names, (made.app_pem, made.webhook_secret, made.token, made.signing), strict=True):
            if not (folder / name).is_file():
                private_file(folder / name, text)
    return Keys(*((folder / name).read_text("utf-8").strip() for name in names))
