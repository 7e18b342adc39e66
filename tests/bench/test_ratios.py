"""What must not collapse, told by ratios of one run: they hold on a slow or a busy machine, too."""

from __future__ import annotations

import re
from pathlib import Path

from app.store.db import Database
from tests.bench.beats import cost
from tests.world import World

OF_A_JOB = ("mint", "fetch_run", "fetch_job", "find_runner", "remove")
CALLS = re.compile(r'^sublet_forge_requests_total\{forge="github",operation="(\w+)",outcome="\w+"\} (\S+)$', re.MULTILINE)


def test_a_beat_costs_no_more_with_ten_times_the_leases_at_work(tmp_path: Path) -> None:
    small = cost(tmp_path / "few", 100, beats=15)
    large = cost(tmp_path / "many", 1_000, beats=15)
    assert large < 3 * small, f"{small * 1e6:.0f} us with 100 leases, {large * 1e6:.0f} us with 1,000"


async def test_a_job_of_github_costs_two_calls(sqlite_url: str, tmp_path: Path) -> None:
    """One for its run, one for its runner's credential; nothing at its end, for GitHub takes the runner off by itself."""
    database = Database(sqlite_url)
    async with World(database, tmp_path) as world:
        for _ in range(3):
            world.github.queue(["gpu", "rubin"])
        await world.run_until(lambda: len(world.leases()) == 3 and world.all_released())
        text = world.service.telemetry.exposition()[0].decode()
    database.close()
    calls = {name: float(count) for name, count in CALLS.findall(text) if name in OF_A_JOB and float(count)}
    assert calls == {"mint": 3, "fetch_run": 3}
