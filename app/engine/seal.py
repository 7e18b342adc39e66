"""A runner credential as sealed bytes, and back: it never stands in the database in clear."""

from __future__ import annotations

import json

from app.forges.contract import Credential
from app.store.vault import Vault
from providers.contract import Secret


def seal(vault: Vault, credential: Credential, context: str) -> bytes:
    """JSON {"command", "environment", "files", "ready"}, which is also what the node gets, sealed for one context."""
    return vault.seal(
        json.dumps(
            {
                "command": list(credential.command),
                "environment": {key: value.reveal() for key, value in credential.environment.items()},
                "files": {key: value.reveal() for key, value in credential.files.items()},
                "ready": credential.ready,
            }
        ).encode(),
        context,
    )


def unseal(vault: Vault, sealed: bytes, context: str) -> Credential:
    """The inverse of `seal`. Raises what the vault raises for another context or an unknown key."""
    values = json.loads(vault.open(sealed, context))
    return Credential(
        command=tuple(values["command"]),
        environment={key: Secret(value) for key, value in values["environment"].items()},
        files={key: Secret(value) for key, value in values["files"].items()},
        ready=values["ready"],
    )
