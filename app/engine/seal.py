"""A runner credential as sealed bytes, and back: it never stands in the database in clear."""

from __future__ import annotations

import dataclasses
import json

from app.forges.contract import Credential, Least
from app.store.vault import Vault
from providers.contract import Secret


def seal(vault: Vault, credential: Credential, context: str) -> bytes:
    """JSON {"command", "environment", "files", "ready", "begun", "least"}, as the node gets it, sealed for one context."""
    return vault.seal(
        json.dumps(
            {
                "command": list(credential.command),
                "environment": {key: value.reveal() for key, value in credential.environment.items()},
                "files": {key: value.reveal() for key, value in credential.files.items()},
                "ready": credential.ready,
                "begun": credential.begun,
                "least": None if credential.least is None else dataclasses.asdict(credential.least),
            }
        ).encode(),
        context,
    )


def unseal(vault: Vault, sealed: bytes, context: str) -> Credential:
    """The inverse of `seal`. Raises what the vault raises for another context or an unknown key."""
    values = json.loads(vault.open(sealed, context))
    least = values.get("least")  # this and `begun`: a credential that an older version sealed has neither
    return Credential(
        command=tuple(values["command"]),
        environment={key: Secret(value) for key, value in values["environment"].items()},
        files={key: Secret(value) for key, value in values["files"].items()},
        ready=values["ready"],
        begun=values.get("begun", ""),
        least=least and Least(tuple(least["command"]), least["version"], least["why"]),
    )
