"""The dead-man switch: when a node must end by itself. Pure; every time is a monotonic second."""

from __future__ import annotations

from dataclasses import dataclass

JOIN_LIMIT = 15 * 60.0
"""The join token is of no use for longer than that."""
AFTER_EXIT = 10 * 60.0
"""How long a node whose runner has ended waits for the service's "stop"."""


@dataclass
class Watch:
    """What is known of the service and of the runner."""

    born: float
    joined: bool = False
    silent: float = 900.0  # seconds without any answer, while no job runs
    hard_end: float | None = None
    busy: bool = False  # a job runs: then only the hard end counts
    exited: float | None = None  # when the runner ended
    over: str = ""  # the service's or the machine's own word that it is over

    def verdict(self, now: float, heard: float) -> str:
        """Why the node must end now, as a sentence; empty: it goes on. `heard`: when the service last answered."""
        if self.over:
            return self.over
        if self.hard_end is not None and now >= self.hard_end:
            return "the hard end time has come"
        if not self.joined:
            late = now - self.born >= JOIN_LIMIT
            return f"the service could not be joined in {JOIN_LIMIT / 60:.0f} minutes" if late else ""
        if self.exited is not None and now - self.exited >= AFTER_EXIT:
            return f"the runner ended {AFTER_EXIT / 60:.0f} minutes ago"
        if now - heard >= self.silent and not self.busy:
            return f"the service has been silent for {now - heard:.0f} s"
        return ""
