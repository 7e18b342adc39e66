"""`doctor`: everything that can be checked at no cost, each with what would mend it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from app.cli.config import CONFIG, checked
from app.cli.exits import Exit, Failure
from app.cli.options import Call, asking
from app.cli.output import Column

Check = dict[str, Any]


@click.command()
@CONFIG
@asking
def doctor(call: Call, config: Path | None) -> int:
    """Check settings, service, forges and providers; costs nothing. Ends with 1 if something fails."""
    checks = [_settings(config)]
    try:
        with call.client() as api:
            reply = api.get("doctor")
    except Failure as failure:
        checks.append({"name": "service", "status": "fail", "text": failure.message, "fix": failure.hint})
    else:
        checks.append({"name": "service", "status": "ok", "text": "It answers.", "fix": ""})
        checks += reply["checks"]
    columns = [
        Column("check", lambda check: check["name"]),
        Column("status", lambda check: check["status"]),
        Column("what", lambda check: check["text"]),
        Column("fix", lambda check: check.get("fix", "")),
    ]
    call.output.rows({"schema_version": 1, "checks": checks}, checks, columns, "")
    return Exit.FAILED if any(check["status"] == "fail" for check in checks) else Exit.OK


def _settings(path: Path | None) -> Check:
    """The settings as they would be read here; the running service may have others."""
    try:
        loaded = checked(path)
    except Failure as failure:
        first = failure.message.splitlines()[0]
        return {"name": "settings", "status": "fail", "text": first, "fix": "sublet config check"}
    if loaded.warnings:
        return {"name": "settings", "status": "warn", "text": loaded.warnings[0], "fix": "sublet config check"}
    told = f"{loaded.path} can be used." if loaded.path else "No sublet.toml here: the defaults, and the demo."
    return {"name": "settings", "status": "ok", "text": told, "fix": ""}
