"""Fixtures for a real postgres."""
