"""The wrapper of AWS against moto behind boto3: the conformance suite, and AWS's own traps."""

import pytest

from providers.conformance import CHECKS, Check
from tests.providers.aws_bench import AwsBench, bench


def named(check: Check) -> str:
    return check.name


@pytest.mark.parametrize("check", [check for check in CHECKS if check.applies_to(AwsBench.faults)], ids=named)
async def test_conformance(check: Check) -> None:
    async with bench() as stood_up:
        await check.run(stood_up)
