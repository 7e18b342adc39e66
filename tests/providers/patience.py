"""Waiting for what other processes do, in short looks and never for long."""

import asyncio
from collections.abc import Callable


async def eventually(claim: Callable[[], bool], what: str = "it") -> None:
    """Look every 10 ms, for 5 s, until the claim holds."""
    for _ in range(500):
        if claim():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still not: {what}")
