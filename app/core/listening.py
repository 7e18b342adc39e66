"""How the news of one forge reach us: by webhooks, by asking, or by both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Listening:
    """The settings' `intake` of one forge, as the engine and the web need it."""

    webhooks: bool = True  # its deliveries are taken, and those that did not arrive are asked for again
    poll: timedelta | None = timedelta(minutes=5)  # how often its open jobs are listed; None: never

    @property
    def polled_only(self) -> bool:
        """Nothing but listings tells of a job: repositories that only a pattern names have to be found, too."""
        return not self.webhooks

    @property
    def delay(self) -> timedelta:
        """How much later than at once a job may be heard of, if all goes well: a job waits this long at most, half of it
        on average."""
        return timedelta(0) if self.webhooks or self.poll is None else self.poll
