"""The command that starts GitHub's runner on a machine, and the oldest runner that GitHub still gives jobs to."""

from __future__ import annotations

import posixpath
from urllib.parse import urlsplit

from app.forges.command import command_of
from app.forges.contract import ForgeRefused, Least, RunnerOrder
from app.forges.gitea_wire import numbers
from app.forges.github_wire import runs_itself, web_address

COMMAND = ("./run.sh",)
WRAPPER = "github-runner"
"""What starts the runner of our reference image (images/github); it tells the runner's version as the runner itself would."""
LEAST = "2.329.0"
"""No older one can register with a GitHub that GitHub itself runs, enforced since 2026-09-25 (GitHub's community discussion
#194762)."""
LEAST_SERVER = (3, 10)
"""The first GitHub Enterprise Server that makes just-in-time runners (google/go-github pull request #2890)."""
_WHY = (
    f"GitHub gives jobs only to runners from {LEAST} on; put a newer actions/runner into the pool's image or `runner_command`."
)


def command_for(order: RunnerOrder, api_url: str) -> tuple[str, ...]:
    """The pool's command, or the usual one. Raises ForgeRefused for a template with places that GitHub does not fill in."""
    values = {
        "url": web_address(api_url),
        "name": order.name,
        "labels": ",".join(order.labels),
        "idle_seconds": str(max(1, int(order.idle_limit.total_seconds()))),
    }
    return command_of(order, COMMAND, values)


def least_of(command: tuple[str, ...], api_url: str) -> Least | None:
    """What the runner must be at least; None where the program is somebody's wrapper, or the server is not run by GitHub.

    `run.sh` starts `bin/Runner.Listener` beside it, which tells its version and ends (actions/runner,
    src/Runner.Listener/Runner.cs); `config.sh` would tell it too, but not to root. The reference image's `github-runner`
    knows where that is; one of before, which does not, hands the question on to `run.sh`, and that to the same program."""
    folder, name = posixpath.split(command[0])
    if not runs_itself(urlsplit(api_url).hostname or ""):
        return None
    if name == WRAPPER:
        return Least((command[0], "--version"), LEAST, _WHY)
    if name == "run.sh" and folder:
        return Least((posixpath.join(folder, "bin", "Runner.Listener"), "--version"), LEAST, _WHY)
    return None


def refuse_old_server(told: str) -> None:
    """`told` is the header X-GitHub-Enterprise-Version, which only a GitHub Enterprise Server sends. Raises ForgeRefused."""
    version = numbers(told)
    if version and version < LEAST_SERVER:
        raise ForgeRefused(
            f"GitHub Enterprise Server {'.'.join(map(str, version))} makes no just-in-time runners: "
            f"they came with {'.'.join(map(str, LEAST_SERVER))}. Upgrade the server."
        )
