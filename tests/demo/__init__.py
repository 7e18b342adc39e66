"""The demo forge: GitHub's shapes, its state machine, its deliveries, its runner, its image."""
