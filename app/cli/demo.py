"""`demo`: the service with its built-in forge, played in the foreground or through one job to the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from app.cli.client import Json
from app.cli.demo_run import Demo, living, working_in
from app.cli.exits import Exit, Failure
from app.cli.lease_text import job_title
from app.cli.options import DATA, Call, printing
from app.cli.output import Output, hint
from app.cli.up import become
from app.cli.words import between, clean, clock, duration, money
from app.kit.clock import SystemClock

FORGE = "demo"
"""The built-in forge's folder inside a data folder: it says that a demo was played there."""
REAL = "sublet.db"
"""The database of a service that is no demo; next to it only the demo's own files are deleted."""


@click.group(invoke_without_command=True)
@click.option("--once", is_flag=True, help="Play one job through, then stop and leave nothing behind.")
@click.option(
    "--provider",
    type=click.Choice(["local", "docker"]),
    default="local",
    show_default=True,
    help="Where the machine comes from.",
)
@click.option("--keep", is_flag=True, help="With --once: keep the data folder and the service's log.")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="With --once: most seconds it may take."
)
@DATA
@printing
def demo(output: Output, once: bool, provider: str, keep: bool, timeout: float, data: Path) -> int | None:
    """Try Sublet: a forge on this machine holds a real repository and queues a real job. No account, no cost.

    Ends with 0 only if the job succeeded and its machine is proven gone.
    """
    if click.get_current_context().invoked_subcommand is not None:
        return None
    output.only_objects("demo")
    if not once:
        become(["--demo", "--demo-provider", provider, "--data", str(data.absolute())])
    with Demo(provider, timeout, keep) as play:
        lease = play.through(_progress if output.is_text else lambda line: None)
    result = _result(lease, play.seconds)
    if output.is_text:
        _print(result)
    else:
        output.value(result)
    done = result["conclusion"] == "success" and result["gone"] is True
    if play.left:
        raise Failure(Exit.FAILED, f"Processes were left and had to be ended: {', '.join(play.left)}.")
    return Exit.OK if done else Exit.FAILED


def _progress(line: str) -> None:
    hint(clean(line))


def _result(lease: Json, seconds: float) -> Json:
    """What `--json` prints; only ever gets new keys."""
    job: Json = lease["job"] or {}
    return {
        "schema_version": 1,
        "lease": {"id": lease["id"], "name": lease["name"]},
        "state": lease["state"],
        "reason": lease["reason"],
        "phases": [{name: phase[name] for name in ("phase", "started_at", "ended_at")} for phase in lease["phases"]],
        "job": job,
        "conclusion": job.get("conclusion") or "",
        "cost": {"amount": lease["cost"]["amount"], "currency": lease["cost"]["currency"]},
        "gone": lease["gone"],
        "gone_at": lease["gone_at"],
        "provider": lease["provider"],
        "duration_seconds": round(seconds, 3),
    }


def _print(result: Json) -> None:
    now = SystemClock().now()
    click.echo(f"Lease {result['lease']['name']} on {result['provider']}: {clean(job_title(result['job']))}")
    for phase in result["phases"]:
        took = between(phase["started_at"], phase["ended_at"], now) if phase["ended_at"] else ""
        click.echo(f"  {clock(phase['started_at'])}  {clean(phase['phase']):<12} {took}".rstrip())
    gone = "its machine is proven gone" if result["gone"] else "its machine is NOT proven gone"
    ended = f"{clean(result['conclusion'])}, {money(result['cost'])}"
    click.echo(f"The job ended with {ended}; {gone}. {duration(result['duration_seconds'])} in all.")


@demo.command()
@DATA
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@printing
def reset(output: Output, data: Path, yes: bool) -> None:
    """Delete the data of the demo; data of anything else is left alone."""
    output.only_objects("demo reset")
    if not data.exists():
        _said(output, data, False)
        return
    if not (data / FORGE).is_dir():
        raise Failure(Exit.CONFLICT, f"{data} does not hold demo data, so it stays.")
    if living(data):
        raise Failure(Exit.CONFLICT, f"The service of {data} is running.", "Stop it first, with Ctrl-C.")
    if working_in(data.absolute()):
        raise Failure(Exit.CONFLICT, f"Processes still work in {data}.", "Start the demo once more and end it with Ctrl-C.")
    Call(output, data).confirm(f"Deletes {data} and all in it.", yes)
    if (data / REAL).exists():
        shutil.rmtree(data / FORGE)
        for file in data.glob("demo.db*"):
            file.unlink()
    else:
        shutil.rmtree(data)
    _said(output, data, True)


def _said(output: Output, data: Path, deleted: bool) -> None:
    if output.is_text:
        click.echo(f"Deleted {data}." if deleted else f"There is no {data}: nothing to delete.")
    else:
        output.value({"schema_version": 1, "data": str(data), "deleted": deleted})
