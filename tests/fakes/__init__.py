"""Fakes that implement the contracts of strangers: stateful, on loopback, used by tests only."""
