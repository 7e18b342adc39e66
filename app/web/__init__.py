"""What answers HTTP: hooks, nodes, people."""
