"""What one beat of the engine costs when nothing happens, with few and with many leases at work."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from app.core.model import RepositoryRule
from app.engine.loop import Engine
from app.engine.step import Timing
from app.kit.clock import SystemClock
from app.kit.threads import InlineLane
from app.store.db import Database, upgrade
from app.store.vault import Vault
from app.web.parts import WebSettings
from app.wiring import Outfit, assemble
from tests.bench.cloud import Cloud, Hub
from tests.bench.ground import seed


def cost(folder: Path, count: int, beats: int = 40) -> float:
    """Seconds of processor time for one beat: sow, claim and book, with so many leases that do not change. The median."""
    folder.mkdir()
    url = f"sqlite:///{folder / 'x.db'}"
    upgrade(url)
    db = Database(url)
    seed(db, count)
    clock = SystemClock()
    service = assemble(
        db=db,
        vault=Vault(folder / "vault.keys"),
        forges={"github": Hub(clock.now)},
        providers={"cloud": Cloud(lambda *_: None, count)},
        pools={},
        repositories=(RepositoryRule("acme/*"),),
        outfit=Outfit(clock, InlineLane(), lambda _: InlineLane()),
        web=WebSettings(public_url="https://sublet.test", version="bench"),
        timing=Timing(),
    )
    engine = Engine(service.deps, chores=())

    async def run() -> list[float]:
        took: list[float] = []
        for _ in range(beats):
            began = time.process_time()
            await engine.beat()
            took.append(time.process_time() - began)
        return took

    took = asyncio.run(run())
    db.close()
    return sorted(took)[len(took) // 2]


def measure(folder: Path, few: int, many: int) -> dict[str, Any]:
    """The ratio is what counts: 1 means that leases at rest cost a beat nothing."""
    small, large = cost(folder / "few", few), cost(folder / "many", many)
    return {
        "beat_us": {str(few): round(small * 1e6), str(many): round(large * 1e6)},
        "beat_cost_ratio": round(large / small, 2),
    }
