"""`ssh` passes every check that its bench can stand up, on a real sshd."""

import pytest

from providers.conformance import CHECKS, Check
from tests.providers import ssh_bench


@pytest.mark.parametrize(
    "check", [check for check in CHECKS if check.applies_to(ssh_bench.SshBench.faults)], ids=lambda c: c.name
)
async def test_conformance(check: Check) -> None:
    async with ssh_bench.bench() as bench:
        await check.run(bench)
