"""A small forge on loopback that speaks GitHub's API and runs real workflow files."""
