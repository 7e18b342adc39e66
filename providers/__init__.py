"""Wrappers round the clouds that rent out machines, one vendor a file, all behind `providers.contract`."""
