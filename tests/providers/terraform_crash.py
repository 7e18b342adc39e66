"""A service that begins a create of kind `terraform` and waits; its test kills it. Run by test_terraform_crash.py.

python -m tests.providers.terraform_crash ROOT MODULE BINARY YARD TAG KEY OWNER, the start-up script on standard input
"""

import asyncio
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from providers.clock import SYSTEM
from providers.contract import Offer, Order
from providers.terraform import TerraformProvider
from providers.terraform_settings import TerraformSettings


async def main(root: str, module: str, binary: str, yard: str, tag: str, key: str, owner: str) -> None:
    offers = {"one": {"price_per_hour": 1}}
    settings = TerraformSettings(Path(root), Path(module), offers, binary=binary, variables={"yard": yard})
    offer = Offer("one", "terraform", "yard-1", Decimal(1), "USD", SYSTEM.now())
    order = Order(offer, key, tag, owner, sys.stdin.read(), SYSTEM.now() + timedelta(hours=1))
    await TerraformProvider("terraform", settings).create(order)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
