"""Real crashes: real processes killed at random moments under load, and the proof that nothing is left over."""
