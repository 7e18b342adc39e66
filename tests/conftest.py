"""What every test shares: the real parts, and the list of those that this machine lacks."""

import logging
import os

import pytest
import structlog

# Machines have these folders on their PATH, however little the person has who runs the tests.
os.environ["PATH"] = os.pathsep.join(
    dict.fromkeys(
        [
            *filter(None, os.environ.get("PATH", "").split(os.pathsep)),
            "/usr/local/bin",
            "/usr/bin",
            "/bin",
            "/usr/sbin",
            "/sbin",
        ]
    )
)

pytest_plugins = ["tests.parts.postgres", "tests.parts.docker", "tests.parts.registry", "tests.parts.browser"]


@pytest.fixture(autouse=True, scope="session")
def quiet_logs() -> None:
    """Stories run thousands of steps; only what went wrong is worth a line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud list of what was not tested, and why."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "is not here:" in str(report.longrepr)]
    if not skipped:
        return
    terminalreporter.section("NOT TESTED HERE: real parts are missing", sep="!")
    counts: dict[str, int] = {}
    for report in skipped:
        why = str(report.longrepr).partition("Skipped: ")[2].rstrip("')\"")
        counts[why] = counts.get(why, 0) + 1
    for why, count in sorted(counts.items()):
        terminalreporter.line(f"{count:4d} tests  {why}")
    terminalreporter.line("`make test REQUIRE=all` makes these failures; `.ci/run` installs the parts.")
