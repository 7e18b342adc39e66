"""The shell that moves leases: one station per file; stations do not know each other."""
