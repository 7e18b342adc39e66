"""The benches of the four forges, by their kinds: `python -m app.forges.conformance tests.forges.benches:gitlab`."""

from tests.forges.forgejo_bench import bench as forgejo
from tests.forges.gitea_bench import bench as gitea
from tests.forges.github_bench import bench as github
from tests.forges.gitlab_bench import bench as gitlab

__all__ = ["forgejo", "gitea", "github", "gitlab"]
