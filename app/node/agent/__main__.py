"""The agent's ways to be started: `run` by the start-up script, `launch`, `guard` and `benchmark` by itself, `hook` by the
runner, and `runtime` by the container engine."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    verb = argv[1] if len(argv) > 1 else ""
    if verb == "hook" and len(argv) == 3:
        from . import hook

        _any_letter()
        return hook.main(argv[2])
    if verb == "launch" and len(argv) == 3:
        from . import launch

        return launch.main(int(argv[2]))
    if verb == "guard" and len(argv) == 3:
        from . import guard_server

        return guard_server.main(int(argv[2]))
    if verb == "runtime" and len(argv) > 4:
        from . import runtime

        return runtime.main(argv[2:])
    if verb == "benchmark" and len(argv) == 2:
        from . import benchmark

        return benchmark.main()
    if verb == "run" and len(argv) == 2:
        return _run(argv[0])
    print("usage: agent.pyz run", file=sys.stderr)
    return 2


def _any_letter() -> None:
    """A console that cannot show a letter shows a question mark instead of ending us."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run(program: str) -> int:
    from . import life, privileges, settings, wire

    _any_letter()
    privileges.quiet()
    os.umask(0o077)
    with contextlib.suppress(OSError):  # the machine must be able to end itself when a job eats its memory
        Path("/proc/self/oom_score_adj").write_text("-500")
    try:
        given = settings.take(os.environ, program)
        line = wire.Wire(given.url, given.ca)
    except settings.Unusable as error:
        print(f"sublet: the agent cannot start: {error}", file=sys.stderr)
        return 2
    life.Life(given, line, dict(os.environ)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
