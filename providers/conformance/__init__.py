"""The checks that any provider must pass, ours or a stranger's: importable, async, and free of any test framework.

A *bench* stands a provider up over something real or something that behaves so: it makes provider objects (a new one
on the same backing is what a restart of the service is), orders, and the faults that it knows how to cause. Checks
that need a fault which the bench cannot cause do not apply to it, and the table says so.

    python -m providers.conformance tests.providers.benches:fake tests.providers.benches:local

runs benches and prints a table of checks, then one JSON line. A bench's factory is a function without arguments
that gives an async context manager; it raises `Missing` where the machine lacks what the bench stands on.
"""

from providers.conformance.bench import CHECKS, Bench, Check, Failed, Fault, Missing
from providers.conformance.suite import main, run, table

__all__ = ["CHECKS", "Bench", "Check", "Failed", "Fault", "Missing", "main", "run", "table"]
