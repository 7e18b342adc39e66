"""Sublet: rents one GPU machine for one queued CI job, proves what it ran on, and gives it back."""

__version__ = "0.1.0"
