"""What Shadeform's errors mean. Its description documents none: they are sorted by status, then code, then words.

The one body that users have shown is that of a create for what is sold out: 409 with
`{"error_code": "OUT_OF_STOCK", "error": "The instance type [H100] is not available in the region [x]"}`.
"""

import re
from collections.abc import Callable

from providers.contract import NoCapacity, ProviderError, Refused, Unclear, Why
from providers.http import Answer, said_by_vendor, table

JUDGED = frozenset(range(400, 500)) - {408, 429}
"""The statuses that are judged here; the client judges the rest by the status alone."""
SOLD_OUT = re.compile(
    r"\b(out of (stock|capacity)|(is |are )?not (currently )?available in|no capacity|sold out|insufficient capacity)\b"
)
FUNDS = re.compile(r"\b(balance|funds|wallet|payment|billing|credits?|top[ -]?up)\b")
QUOTA = re.compile(r"\b(quota|(instance|account|spend(ing)?) limit|limit (exceeded|reached))\b")


def judged(answer: Answer, redact: Callable[[str], str]) -> ProviderError:
    """The error that an answer of 400 to 499 is. Bad credentials are never taken for anything else."""
    code, said = _words(answer)
    words = f"{code} {said}".replace("_", " ").lower()
    text = redact(" ".join(filter(None, [f"{answer.what}: {answer.status}", code, said])))
    if answer.status == 401:
        return Refused(text, why=Why.CREDENTIALS)
    if code == "" and said == "":
        return Unclear(f"{answer.what}: {answer.status}, with no word of Shadeform's", maybe_created=answer.writing)
    if answer.writing and code == "OUT_OF_STOCK" and answer.status != 403:
        return NoCapacity(text)
    if answer.status == 402 or FUNDS.search(words):
        return Refused(text, why=Why.FUNDS)
    if QUOTA.search(words):
        return Refused(text, why=Why.QUOTA)
    if answer.status == 403:
        return Refused(text, why=Why.CREDENTIALS)
    if answer.writing and (answer.status == 409 or SOLD_OUT.search(words)):
        return NoCapacity(text)
    return Refused(text, why=Why.REQUEST)


def _words(answer: Answer) -> tuple[str, str]:
    """Code and sentence of an error, as either description of the API has them; both empty where it is no JSON object."""
    try:
        body = table(answer.json())
    except (Unclear, TypeError):
        return "", ""
    code = next((str(body[key]) for key in ("error_code", "code") if isinstance(body.get(key), str)), "")
    return code[:100], said_by_vendor(answer.body) if body else ""
