"""What a lease's folder says of its machine. Pure: a look in, an instance out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from providers.contract import Instance, Phase
from providers.terraform_leases import Look
from providers.terraform_runs import Verb

LONGEST = 100  # characters of one of the module's outputs in `detail`
PHASES: Mapping[str, Phase] = {str(phase): phase for phase in Phase if phase is not Phase.ENDED}
"""What the output `phase` may say without a mapping. Only a destroy proves an end."""


def instance_of(tag: str, look: Look, words: Mapping[str, str]) -> Instance:
    """`words` maps what the module's output `phase` says to a phase."""
    record = look.record
    if record is None:
        return Instance(tag, tag, Phase.FAILED, detail="its order cannot be read")
    phase, detail = _phase(look, words)
    outputs: Mapping[str, Any] = look.shown.outputs if look.shown is not None else {}
    created_at = _time(outputs.get("created_at")) or _time(record.created_at)
    preempted = outputs.get("preempted") is True and phase is not Phase.RUNNING
    return Instance(tag, tag, phase, created_at, record.region, detail, record.key, preempted=preempted)


def is_gone(look: Look) -> bool:
    """Terraform destroyed it in its last run, and then showed no resource."""
    run = look.run
    if run is None or run.verb is not Verb.DESTROY or run.busy or not look.ending:
        return False
    destroyed = run.done("destroy") or run.done("destroy-unread")
    return destroyed and run.done("show") and look.shown is not None and look.shown.resources == 0


def _phase(look: Look, words: Mapping[str, str]) -> tuple[Phase, str]:
    run, made = look.run, look.created
    if look.ending:
        failed = run is not None and run.verb is Verb.DESTROY and not run.busy
        return Phase.DESTROYING, "terraform destroy did not succeed yet" if failed else "being destroyed"
    if made is None:
        return Phase.FAILED, "half-created: the service ended before Terraform was started"
    if made.busy:
        return Phase.STARTING, f"terraform {made.begun[-1] if made.begun else 'plan'} is at work"
    if not made.done("apply"):
        return Phase.FAILED, "Terraform was killed in the create" if made.cut_off else "terraform apply did not succeed"
    if look.shown is None:
        return Phase.UNKNOWN, "Terraform does not show its state"
    if look.shown.resources == 0:
        return Phase.STOPPED, "none of its resources is left"
    told = look.shown.outputs.get("id")
    named = "" if told is None else f" ({str(told)[:LONGEST]})"
    word = look.shown.outputs.get("phase")
    if word is None:
        return Phase.RUNNING, f"applied{named}"
    return PHASES.get(words.get(str(word), str(word)), Phase.UNKNOWN), f"{str(word)[:LONGEST]}{named}"


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value)) if value else None
    except ValueError:
        return None
    return found if found is not None and found.tzinfo is not None else None
