"""The engine where parts around it misbehave."""
