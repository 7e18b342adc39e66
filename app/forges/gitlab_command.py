"""What starts GitLab's runner for one job, and the oldest runner and the oldest GitLab that can do it."""

from __future__ import annotations

import posixpath
import re

from app.forges.command import command_of
from app.forges.contract import Credential, ForgeRefused, Least, RunnerOrder
from app.forges.gitea_wire import numbers
from providers.contract import Secret

# What `gitlab-runner run-single` reads instead of flags (common/config.go); flags win over them.
TOKEN, URL, EXECUTOR, NAME = "CI_SERVER_TOKEN", "CI_SERVER_URL", "RUNNER_EXECUTOR", "RUNNER_NAME"
READY = "Starting runner for"
"""commands/single.go prints it once, right before the first request for a job."""
USUAL = (
    *("gitlab-runner", "run-single", "--url", "{url}", "--executor", "shell"),
    *("--max-builds", "1", "--wait-timeout", "{idle_seconds}"),
)
LEAST = "16.0.0"
"""Runners with a token of their own (`glrt-`) are experimental in 15.10 and 15.11, and stable from 16.0 on: GitLab's own
words on its page for new runners (gitlab-org/gitlab issue 431399)."""
LEAST_SERVER = (16, 0)  # the same words: `POST /user/runners` is the same workflow (gitlab-org/gitlab issue 390427)
_WHY = (
    "GitLab's runner works with a token of its own (glrt-) from 16.0 on; "
    "put a newer gitlab-runner into the pool's image or `runner_command`."
)
_PROGRAM = re.compile(r"gitlab-runner(-.+)?")


def command_for(order: RunnerOrder, url: str) -> tuple[str, ...]:
    """The pool's command, or the usual one. Raises ForgeRefused for a template with places that GitLab does not fill in."""
    values = {
        "url": url,
        "name": order.name,
        "labels": ",".join(order.labels),
        "idle_seconds": str(max(1, int(order.idle_limit.total_seconds()))),
    }
    return command_of(order, USUAL, values)


def credential_of(order: RunnerOrder, command: tuple[str, ...], url: str, token: Secret) -> Credential:
    """The token goes by the environment, never by the command line."""
    environment = {TOKEN: token, URL: Secret(url), EXECUTOR: Secret("shell"), NAME: Secret(order.name)}
    return Credential(command, environment, ready=READY, least=least_of(command))


def least_of(command: tuple[str, ...]) -> Least | None:
    """What the runner must be at least; None where the program is a wrapper, whose version says nothing."""
    if not _PROGRAM.fullmatch(posixpath.basename(command[0])):
        return None
    return Least((command[0], "--version"), LEAST, _WHY)


def refuse_old_server(told: str) -> None:
    """`told` is the version that the server says it has. Raises ForgeRefused for one that makes no runners with tokens."""
    version = numbers(told)
    if version and version < LEAST_SERVER:
        raise ForgeRefused(
            f"GitLab {'.'.join(map(str, version))} makes no runners with a token of their own: "
            f"that came with {'.'.join(map(str, LEAST_SERVER))}. Upgrade the server."
        )
