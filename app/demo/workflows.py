"""Reads a workflow file as far as the forge must: its name, and each job's labels, group, approval and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

from app.demo.nouns import JobSpec
from app.demo.work import Refusal

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Workflow:
    name: str
    events: frozenset[str]
    jobs: tuple[JobSpec, ...]


def read(text: str, path: str) -> Workflow:
    """Raises Refusal (422) for a file that GitHub would refuse, and for what this small forge does not do: `needs`,
    `strategy`, reusable workflows and expressions in `runs-on`. A job with an `environment` waits for approval."""
    try:
        document: Any = yaml.load(text, Loader=LOADER)  # noqa: S506  one of the safe loaders
    except yaml.YAMLError as error:
        raise Refusal(422, f"Invalid workflow file: {path}: {str(error)[:200]}") from None
    top = _mapping(document, path, "the file")
    jobs = _mapping(top.get("jobs"), path, "jobs")
    specs = tuple(_job(str(key), _mapping(job, path, f"jobs.{key}"), path) for key, job in jobs.items())
    if not specs:
        raise Refusal(422, f"Invalid workflow file: {path}: no jobs")
    return Workflow(str(top.get("name") or path), _events(top.get("on", top.get(True))), specs)


def _job(key: str, job: Mapping[Any, Any], path: str) -> JobSpec:
    for word in ("needs", "strategy", "uses", "container", "services"):
        if word in job:
            raise Refusal(422, f"{path}: jobs.{key} says `{word}`, which the demo forge does not run")
    group, labels = "", job.get("runs-on")
    if isinstance(labels, Mapping):
        chosen = cast(Mapping[Any, Any], labels)
        group, labels = str(chosen.get("group", "")), chosen.get("labels", [])
    listed = [labels] if isinstance(labels, str) else cast(list[Any], labels) if isinstance(labels, list) else []
    names = [str(label) for label in listed]
    if not names and not group:
        raise Refusal(422, f"Invalid workflow file: {path}: jobs.{key} has no runs-on")
    if any("${{" in label for label in names):
        raise Refusal(422, f"{path}: jobs.{key}: an expression in runs-on, which the demo forge does not evaluate")
    steps = cast(list[Any], job["steps"] if isinstance(job.get("steps"), list) else [])
    return JobSpec(
        key=key,
        name=str(job.get("name") or key),
        labels=names,
        group=group,
        needs_approval="environment" in job,
        steps=[_step(step) for step in steps],
    )


def _step(step: Any) -> str:
    found = cast(Mapping[Any, Any], step if isinstance(step, Mapping) else {})
    named = found.get("name") or found.get("uses") or (str(found.get("run", "")).strip().splitlines() or ["step"])[0]
    return str(named)[:200]


def _events(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset({value})
    if isinstance(value, list | Mapping):
        return frozenset(str(one) for one in cast(Iterable[Any], value))
    return frozenset()


def _mapping(value: Any, path: str, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise Refusal(422, f"Invalid workflow file: {path}: {what} is no mapping")
    return cast(Mapping[Any, Any], value)
