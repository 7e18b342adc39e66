"""Fixtures for a real docker."""
