"""Programs that do not keep to the protocol, as one: what its first argument says. Run by test_command.py with `-I -S`."""

import json
import os
import signal
import sys
import time
from typing import Any


def tell(**answer: object) -> None:
    sys.stdout.write(json.dumps({"protocol": 1, **answer}))
    sys.stdout.flush()


def sleep_on() -> int:
    """A child in a session of its own keeps the pipes, and one in ours, too. The first one's number goes to a file."""
    for setsid in (True, False):
        child = os.fork()
        if child == 0:
            if setsid:
                os.setsid()
            time.sleep(600)
        with open(sys.argv[2] + ("-apart" if setsid else "-child"), "w") as file:  # noqa: PTH123
            file.write(str(child))
    return 0


def main() -> int:
    way = sys.argv[1]
    question: dict[str, Any] = {}
    if way != "deaf":
        question = json.load(sys.stdin)
    match way:
        case "status":
            tell(instance=None)
            return int(sys.argv[2])
        case "long":
            sys.stdout.write("x" * 10_000_000)
        case "forever":
            with open(sys.argv[2], "w") as file:  # noqa: PTH123
                file.write(str(os.getpid()))
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        case "leaves children":
            sleep_on()
            tell(instance=None)
        case "deaf":
            os.close(0)
            tell(instance=None)
        case "chatty":
            secret = question["secrets"].get("token", "")
            sys.stderr.write("x" * 100_000 + f"\nthe token is {secret}\x1b[0m\nand so on\n")
            tell(error={"kind": "refused", "message": f"not with {secret}", "why": "funds"})
            return 1
        case "closes its output":
            tell(instance=None)
            os.close(1)
            os.close(2)
            time.sleep(600)
        case "environment":
            tell(health={"ok": True, "summary": "here", "facts": dict(os.environ) | {"cwd": os.getcwd()}})  # noqa: PTH109
        case "echo":
            tell(health={"ok": True, "summary": "here", "facts": {"question": json.dumps(question)}})
        case _:
            raise AssertionError(way)
    return 0


if __name__ == "__main__":
    sys.exit(main())
