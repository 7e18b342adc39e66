"""The loop that makes hours pass in a blink."""

from __future__ import annotations

import asyncio

from tests.simulation.loop import Loop, Process


def test_time_passes_only_when_nothing_is_left_to_do() -> None:
    loop, seen = Loop(), list[float]()

    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(1000)
            seen.append(loop.now)

    task = loop.spawn(None, work())
    assert loop.run(task.done, 10_000)
    assert seen == [1000, 2000, 3000]


def test_a_paused_process_does_everything_late_and_a_dead_one_nothing() -> None:
    loop, done = Loop(), list[tuple[str, float]]()
    slow, dead = Process("slow"), Process("dead")

    async def work(name: str) -> None:
        await asyncio.sleep(5)
        done.append((name, loop.now))

    for process in (slow, dead):
        loop.spawn(process, work(process.name))
    loop.run(lambda: False, 1)
    slow.paused, dead.alive = True, False
    loop.run(lambda: False, 60)
    assert done == []
    loop.resume(slow)
    loop.run(lambda: False, 61)
    assert done == [("slow", 60)]
    loop.bury()


def test_timeouts_and_groups_of_tasks_run_on_virtual_time() -> None:
    loop = Loop()

    async def work() -> float:
        try:
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(10))
                group.create_task(asyncio.sleep(100))
        except TimeoutError:
            return loop.now
        return 0.0

    task = loop.spawn(None, work())
    loop.run(task.done, 1000)
    assert task.result() == 30
