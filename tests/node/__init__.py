"""The node's part: the agent as a real process, its start-up script, and the routes it calls."""
