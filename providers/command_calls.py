"""One call of a program: a question on its standard input, an answer on its standard output, and no more than it may take."""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LAST = 0.2  # seconds for what is left in the pipes after the program itself has ended
STEP = 0.1  # seconds between two looks at the clock
ERRORS_KEPT = 16 * 1024  # bytes of its standard error, the last ones


class CallFailed(Exception):
    """The program gave no answer: the message says why, and quotes nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    output: bytes
    errors: bytes


def call(
    command: Sequence[str],
    question: bytes,
    environment: Mapping[str, str],
    *,
    seconds: float,
    limit: int,
    given_up: threading.Event,
) -> Answer:
    """Blocks until the program has ended, and all that it started with it. Raises `CallFailed`.

    `limit` is the most bytes that are read of its answer.
    """
    try:
        process = subprocess.Popen(  # noqa: S603  the program of the settings; the question is never an argument
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        raise CallFailed(f"it cannot be started: {error.strerror}") from None
    try:
        return _talk(process, question, time.monotonic() + seconds, limit, given_up)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it left behind
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _talk(process: "subprocess.Popen[bytes]", question: bytes, end: float, limit: int, given_up: threading.Event) -> Answer:
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    output, errors, left = bytearray(), bytearray(), memoryview(question)
    with selectors.DefaultSelector() as pipes:
        for pipe, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
            (process.stderr, selectors.EVENT_READ),
        ):
            os.set_blocking(pipe.fileno(), False)
            pipes.register(pipe, event)
        ended_at: float | None = None
        while any(key.events == selectors.EVENT_READ for key in pipes.get_map().values()):
            now = time.monotonic()
            if given_up.is_set():
                raise CallFailed("it was given up on")
            if now >= end:
                raise CallFailed("it took too long")
            if process.poll() is not None:
                ended_at = ended_at or now
                if now >= ended_at + LAST:
                    break  # something that it left behind holds the pipes
            for key, _ in pipes.select(min(STEP, end - now)):
                if key.fileobj is process.stdin:
                    left = _write(process.stdin.fileno(), left)
                    if not left:
                        pipes.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    pipes.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    output += chunk
                    if len(output) > limit:
                        raise CallFailed(f"its answer is longer than {limit} bytes")
                else:
                    errors = (errors + chunk)[-ERRORS_KEPT:]
    while process.poll() is None:  # it closed its output and works on
        if given_up.is_set() or time.monotonic() >= end:
            raise CallFailed("it closed its output and did not end")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STEP)
    return Answer(process.returncode, bytes(output), bytes(errors))


def _write(descriptor: int, left: memoryview) -> memoryview:
    """What is still to be written; nothing if nobody reads it any more, which the answer will show."""
    try:
        return left[os.write(descriptor, left[:65536]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]
