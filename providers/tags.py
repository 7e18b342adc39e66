"""What keeps a tag to one machine where the vendor has no idempotency key: one create at a time, and a look before it."""

import asyncio
import hashlib
import weakref
from collections.abc import Iterable

from providers.contract import Instance, Order, Phase, Unclear

_locks: "weakref.WeakValueDictionary[str, asyncio.Lock]" = weakref.WeakValueDictionary()


class Turns:
    """One create of one tag at a time in this process, whichever provider object of the account makes it."""

    def __init__(self, account: str) -> None:
        """`account` is its vendor, address and key; only a hash of it is kept."""
        self._account = hashlib.sha256(account.encode()).hexdigest()

    def of(self, order: Order) -> asyncio.Lock:
        """To be held around the look for the order's tag and the create."""
        return _locks.setdefault(f"{self._account}/{order.tag}", asyncio.Lock())


def there(instances: Iterable[Instance], order: Order) -> Instance | None:
    """Which of the owner's instances this very attempt has made already; one that has ended counts only if none lives.
    Raises `Unclear` where another attempt's lives under the tag, or more than one."""
    named = [instance for instance in instances if instance.tag == order.tag]
    living = [instance for instance in named if instance.phase not in (Phase.ENDED, Phase.DESTROYING)]
    if len(living) > 1 or any(instance.key != order.key for instance in living):
        raise Unclear(f"{len(living)} machines named {order.tag} are there, of another attempt or made twice")
    same = [instance for instance in (*living, *named) if instance.key == order.key]
    return same[0] if same else None
