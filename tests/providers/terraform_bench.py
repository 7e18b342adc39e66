"""The bench of `terraform`: the real program where this machine has it, else a stand-in; either way on a vendor of files."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from providers.conformance import Fault
from providers.contract import Offer, Phase, Secret
from providers.terraform import TerraformProvider
from providers.terraform_settings import TerraformSettings
from tests.providers.benches import ManualClock, Orders

HERE = Path(__file__).parent
MODULE = HERE / "terraform_module"
REAL = shutil.which("terraform") or shutil.which("tofu")
IMPORTED = f'import sys; sys.path.append("{HERE}"); from terraform_stand_in import main; sys.exit(main())'  # compiled once only
STAND_IN = f"{sys.executable} -I -S -c '{IMPORTED}'"
TOKEN = "hush-vendor-token"
PROGRAM = """#!/bin/sh
# Terraform, and before it what its provider plugin may hear from a vendor that makes nothing.
case $1 in
  apply)
    for word in InternalError VcpuLimitExceeded AuthFailure RequestLimitExceeded; do
      if rmdir "{yard}/faults/$word" 2>/dev/null; then
        echo '{{"type":"diagnostic","diagnostic":{{"severity":"error","summary":"'$word'","detail":"no machine"}}}}'
        exit 1
      fi
    done ;;
  show)
    if rmdir "{yard}/faults/malformed" 2>/dev/null; then echo '{{"values":['; exit 0; fi ;;
esac
echo "$*" >>"{yard}/calls"
exec {program} "$@"
"""
FAULTS: Mapping[Fault, str] = {
    Fault.LOST_REPLY: "lost-reply",
    Fault.HALF_CREATED: "half-created",
    Fault.NO_CAPACITY: "no-capacity",
    Fault.QUOTA: "VcpuLimitExceeded",
    Fault.CREDENTIALS: "AuthFailure",
    Fault.THROTTLED: "RequestLimitExceeded",
    Fault.SERVER_ERROR: "InternalError",
    Fault.MALFORMED: "malformed",
}


class TerraformBench:
    """A folder with a root, a vendor's yard and a program. Time moves by hand, but Terraform's runs are real processes."""

    name = "terraform"
    faults: frozenset[Fault] = frozenset(FAULTS) | {Fault.PREEMPTED}
    states: Mapping[str, Phase] = {
        "running": Phase.RUNNING,
        "pending": Phase.STARTING,
        "broken": Phase.FAILED,
        "a word of tomorrow": Phase.UNKNOWN,
    }
    secrets: Sequence[str] = (TOKEN,)
    crowd = 2

    def __init__(self, folder: Path, program: str) -> None:
        self.stands_on = "the stand-in" if program == STAND_IN else f"the real program, {Path(program).name}"
        self.program = program
        self.clock = ManualClock()
        self.yard = folder / "yard"
        for name in ("machines", "faults"):
            (self.yard / name).mkdir(parents=True)
        binary = folder / "terraform"
        binary.write_text(PROGRAM.format(yard=self.yard, program=program))
        binary.chmod(0o700)
        self.settings = TerraformSettings(
            root=folder / "root",
            module=MODULE,
            offers={"one": {"price_per_hour": "2.50", "region": "yard-1", "type": "a.1", "gpu": "VR200", "gpus": 1}},
            binary=str(binary),
            variables={"yard": str(self.yard)},
            secrets={"VENDOR_TOKEN": Secret(TOKEN)},
            phases={"pending": "starting", "broken": "failed", "reclaimed": "stopped"},
            wait=timedelta(seconds=60),
            grace=timedelta(seconds=10),
            refresh_every=timedelta(hours=1),
            user_data_limit=4096,
        )
        offer = Offer("one", self.name, "yard-1", Decimal("2.50"), "USD", self.clock.now(), gpu="VR200", gpus=1, type="a.1")
        self.order = Orders(offer, now=self.clock.now())

    async def provider(self) -> TerraformProvider:
        return TerraformProvider(self.name, self.settings, clock=self.clock)

    def another(self, **changes: object) -> TerraformProvider:
        """On the same root, with other settings."""
        return TerraformProvider(self.name, replace(self.settings, **changes), clock=self.clock)

    async def cause(self, fault: Fault) -> None:
        if fault is Fault.PREEMPTED:
            for machine in (self.yard / "machines").iterdir():
                await self.put(machine.name, "reclaimed")
        else:
            self.strike(FAULTS[fault])

    def strike(self, name: str) -> None:
        (self.yard / "faults" / name).mkdir()

    async def put(self, instance_id: str, state: str) -> None:
        """The vendor changes it; time passes until it is asked again."""
        machine = self.yard / "machines" / instance_id
        old = next(word for word in self.states if f'"{word}"' in machine.read_text())
        machine.write_text(machine.read_text().replace(f'"{old}"', f'"{state}"'))
        await self.clock.sleep(self.settings.refresh_every.total_seconds() + 1)

    async def pause(self) -> None:
        await self.clock.sleep(1)
        await asyncio.sleep(0.01)

    def calls(self, verb: str) -> list[str]:
        """What the program was called with, of one verb."""
        lines = (self.yard / "calls").read_text().splitlines()
        return [line for line in lines if line.partition(" ")[0] == verb]

    def before_the_program(self, lines: str) -> None:
        """What the program does from now on before it is the program."""
        path = Path(self.settings.binary)
        path.write_text(PROGRAM.format(yard=self.yard, program=self.program).replace("exec ", f"{lines}\nexec "))

    def environment(self) -> Mapping[str, str]:
        """What the program saw, once `before_the_program` was told to write it down."""
        lines = (self.yard / "environment").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    @property
    def machines(self) -> list[str]:
        """What the vendor has now."""
        return sorted(path.name for path in (self.yard / "machines").iterdir())

    def lease(self, tag: str) -> Path:
        return self.settings.root / "leases" / tag


@contextlib.asynccontextmanager
async def stood_up(program: str) -> AsyncGenerator[TerraformBench, None]:
    with tempfile.TemporaryDirectory(prefix="sublet-terraform-") as folder:
        yield TerraformBench(Path(folder), program)


@contextlib.asynccontextmanager
async def bench() -> AsyncGenerator[TerraformBench, None]:
    async with stood_up(REAL or STAND_IN) as one:
        yield one
