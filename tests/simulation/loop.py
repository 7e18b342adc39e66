"""An event loop on virtual time: nothing waits for real, and every callback belongs to a process that may pause or die."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Process:
    """One running service, as an operating system sees it: it runs, stands still, or is gone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.backlog: list[Step] = []  # what it would have done while it stood still
        self.waiters: dict[asyncio.Future[Any], None] = {}  # of callers outside, who notice its death


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose code runs now; None: the world's."""


class Step(asyncio.TimerHandle):
    """One callback that waits for its turn."""

    __slots__ = ("process", "turn")

    def __init__(
        self, when: float, turn: int, callback: Callable[..., object], args: tuple[Any, ...], loop: Loop, context: Context
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.turn = turn
        self.process = context.get(PROCESS)

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, Step)
        return (self._when, self.turn) < (other._when, other.turn)


class Loop(asyncio.AbstractEventLoop):
    """Seconds pass only when nothing is left to do at this one. Single-threaded; no sockets, no files, no signals."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.errors: list[dict[str, Any]] = []
        self._turn = 0
        self._ready: deque[Step] = deque()
        self._timers: list[Step] = []
        self._tasks: list[asyncio.Task[Any]] = []

    # --- what asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Step:
        step = self._step(self.now, callback, args, context)
        self._ready.append(step)
        return step

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Step:
        return self.call_at(self.now + max(delay, 0.0), callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Step:
        step = self._step(when, callback, args, context)
        heapq.heappush(self._timers, step)
        return step

    def _step(self, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> Step:
        self._turn += 1
        return Step(when, self._turn, callback, args, self, context if context is not None else copy_context())

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None, **_: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)  # a dead process's coroutines must not be closed at a moment of the collector's choice
        if len(self._tasks) > 2_000:
            self._tasks = [one for one in self._tasks if not one.done()]
        return task

    def _timer_handle_cancelled(self, handle: Any) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    # --- running

    def spawn(self, process: Process | None, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of this process."""
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(coro, context=context)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Steps until the condition holds; False if virtual time `limit` comes first, or nothing is left to do."""
        with self._running():
            while not until():
                if not self._once(limit):
                    return False
        return True

    def _once(self, limit: float) -> bool:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0]._cancelled:  # pyright: ignore[reportPrivateUsage]  our own subclass of it
                heapq.heappop(timers)
            if not timers or timers[0].when() > limit:
                self.now = max(self.now, limit)
                return False
            self.now = max(self.now, timers[0].when())
            while timers and timers[0].when() <= self.now:
                ready.append(heapq.heappop(timers))
        step = ready.popleft()
        process = step.process
        if process is not None:
            if not process.alive:
                return True
            if process.paused:
                process.backlog.append(step)
                return True
        if not step._cancelled:  # pyright: ignore[reportPrivateUsage]  our own subclass of it
            self.steps += 1
            step._run()  # pyright: ignore[reportPrivateUsage]  our own subclass of it
        return True

    def resume(self, process: Process) -> None:
        """It goes on, with everything that came due meanwhile."""
        process.paused = False
        self._ready.extend(process.backlog)
        process.backlog.clear()

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        before = asyncio._get_running_loop()  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]  a loop inside pytest-asyncio's
        asyncio._set_running_loop(self)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]  what asyncio's own loops do
        try:
            yield
        finally:
            asyncio._set_running_loop(before)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]  as above

    def bury(self) -> None:
        """At the end: whatever still waits is let go of in the order of its making, and does nothing more."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if task.done():
                if not task.cancelled():
                    task.exception()
                continue
            task._log_destroy_pending = False  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  asyncio's own switch
            with contextlib.suppress(BaseException):
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()
