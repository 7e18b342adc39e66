"""The bench of `command`: the worked example of the documentation, run as a program; a front before it causes the faults."""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from providers.clock import SYSTEM
from providers.command import CommandProvider, CommandSettings
from providers.conformance import Fault
from providers.contract import Offer, Phase, Secret
from tests.providers.benches import Orders

EXAMPLE = Path(__file__).parents[2] / "docs" / "how-to" / "providers" / "command-example"
TOKEN = "hush-portal-token"
FRONT = """#!/bin/sh
# Passes questions and answers on, and keeps both. A folder under faults/ makes the next create (or list) go wrong.
cd "{folder}" || exit 9
question=$(cat)
portal() {{ printf '%s' "$question" | {python} -I -S {portal}; }}
strikes() {{ rmdir "faults/$1" 2>/dev/null; }}
tell() {{ printf '%s\\n' "$question" >>questions; printf '%s\\n' "$1" >>answers; printf '%s' "$1"; }}
case $question in
*'"verb": "create"'*)
  if strikes credentials; then question=$(printf '%s' "$question" | sed 's/{token}/wrong/'); fi
  if strikes quota; then question=$(printf '%s' "$question" | sed 's/"quota": 90/"quota": 0/'); fi
  if strikes throttled; then
    tell '{{"protocol": 1, "error": {{"kind": "throttled", "message": "slow down", "wait_seconds": 7}}}}'; exit 1
  fi
  if strikes server-error; then echo "internal error, code 17" >&2; exit 3; fi
  if strikes lost-reply; then portal >/dev/null; kill -9 $$; fi
  if strikes malformed; then portal >/dev/null; echo '{{"protocol": 1, "instance": {{"id": '; exit 0; fi
  if strikes half-created; then
    answer=$(portal)
    for booking in bookings/*.json; do echo broken >"state/$(basename "$booking" .json)"; done
    tell '{{"protocol": 1, "error": {{"kind": "unclear", "message": "the machine does not boot"}}}}'; exit 1
  fi ;;
*'"verb": "owned"'*)
  if strikes broken-list; then portal | head -c 40; exit 0; fi ;;
esac
answer=$(portal)
status=$?
tell "$answer"
exit $status
"""


class CommandBench:
    """A rack in a folder. The program really runs, once for each call."""

    name = "command"
    faults: frozenset[Fault] = frozenset(Fault)
    states: Mapping[str, Phase] = {
        "starting": Phase.STARTING,
        "broken": Phase.FAILED,
        "on fire": Phase.UNKNOWN,
    }
    secrets: Sequence[str] = (TOKEN,)
    crowd = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "faults").mkdir()
        machine = {"type": "h100", "price_per_hour": "1.90", "gpu": "H100", "gpus": 1, "gpu_memory_gib": 80, "own": True}
        self.machines = 5
        rack = {"token": TOKEN, "machines": {f"gpu-{number}": machine for number in range(1, self.machines + 1)}}
        (folder / "rack.json").write_text(json.dumps(rack))
        front = folder / "front"
        front.write_text(FRONT.format(folder=folder, python=sys.executable, portal=EXAMPLE / "portal.py", token=TOKEN))
        front.chmod(0o700)
        self.settings = CommandSettings(
            program=front,
            settings={"folder": str(folder), "quota": 90},
            secrets={"token": Secret(TOKEN)},
            idempotent_create=True,
            unique_names=True,
            knows_at_once=True,
            own_hardware=True,
            user_data_limit=4096,
        )
        offer = Offer("h100", self.name, "rack", Decimal("1.90"), "USD", SYSTEM.now(), gpu="H100", gpus=1, own=True)
        self.order = Orders(offer, now=SYSTEM.now())
        self._providers: list[CommandProvider] = []

    async def provider(self) -> CommandProvider:
        return self.another()

    def another(self, **changes: Any) -> CommandProvider:
        """At the same portal, with other settings."""
        provider = CommandProvider(self.name, replace(self.settings, **changes))
        self._providers.append(provider)
        return provider

    async def cause(self, fault: Fault) -> None:
        match fault:
            case Fault.NO_CAPACITY:
                others = replace(self.order(), owner="others")
                for number in range(self.machines):
                    await self._providers[0].create(replace(others, tag=f"other-{number}", key=f"k{number}"))
            case Fault.PREEMPTED:
                for path in (self.folder / "bookings").iterdir():
                    (self.folder / "state" / path.stem).write_text("off")
            case _:
                (self.folder / "faults" / fault.replace(" answer", "").replace(" ", "-")).mkdir()

    async def put(self, instance_id: str, state: str) -> None:
        for path in (self.folder / "bookings").iterdir():
            booking = json.loads(path.read_text())
            if booking["id"] == instance_id:
                (self.folder / "state" / booking["machine"]).write_text(state)

    async def pause(self) -> None:
        await asyncio.sleep(0.01)

    def exchanged(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Every question and answer that the front kept, in their order."""
        if not (self.folder / "questions").exists():
            return []
        questions = (self.folder / "questions").read_text().splitlines()
        answers = (self.folder / "answers").read_text().splitlines()
        return [(json.loads(question), json.loads(answer)) for question, answer in zip(questions, answers, strict=True)]

    async def aclose(self) -> None:
        """What was said is held against the protocol's own schema."""
        for provider in self._providers:
            await provider.aclose()
        for question, answer in self.exchanged():
            validator("question").validate(question)  # pyright: ignore[reportUnknownMemberType]
            validator("answer").validate(answer)  # pyright: ignore[reportUnknownMemberType]


@cache
def validator(part: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((EXAMPLE / "protocol.schema.json").read_text("utf-8"))
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]})


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[CommandBench, None]:
    with tempfile.TemporaryDirectory(prefix="sublet-command-") as folder:
        one = CommandBench(Path(folder))
        try:
            yield one
        finally:
            await one.aclose()
