"""The benches of the four forges, by their kinds: `python -m app.forges.conformance tests.forges.benches:gitlab`."""

from tests.forges.github_bench import bench as github
from tests.forges.gitlab_bench import bench as gitlab

__all__ = ["github", "gitlab"]
