"""The checks that any forge's adapter must pass, ours or a stranger's: importable, and free of any test framework.

A *bench* stands an adapter up over a stateful fake of the forge, or over a real one: it makes adapters (a second one on the
same backing is what a restart of the service is), queues jobs, hands out deliveries, plays the runner's program on a
machine, and causes the faults that it knows. A check that needs a fault which the bench cannot cause does not apply to
it, and the table says so.

    python -m app.forges.conformance tests.forges.benches:gitlab tests.forges.benches:github

runs benches and prints a table of checks, then one JSON line. A bench's factory is a function without arguments that
gives a context manager; it raises `Missing` where the machine lacks what the bench stands on.
"""

from app.forges.conformance.bench import CHECKS, Bench, Check, Failed, Fault, Missing, Pair, Program, Signing
from app.forges.conformance.suite import Outcome, Result, examine, main, table

__all__ = [
    "CHECKS",
    "Bench",
    "Check",
    "Failed",
    "Fault",
    "Missing",
    "Outcome",
    "Pair",
    "Program",
    "Result",
    "Signing",
    "examine",
    "main",
    "table",
]
