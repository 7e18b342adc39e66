"""SLSA provenance, versions 0.2 and 1: which builder made the image, and out of which source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from app.core.images import Provenance
from app.trust import strict
from app.trust.bundle import Statement
from app.trust.globs import fits

V0_2: Final = "https://slsa.dev/provenance/v0.2"
V1: Final = "https://slsa.dev/provenance/v1"
TYPES: Final = frozenset({V0_2, V1})


@dataclass(frozen=True, slots=True)
class Made:
    builder: str
    sources: tuple[str, ...]

    @property
    def shown(self) -> str:
        return f"built by {self.builder or 'nobody named'} from {', '.join(self.sources) or 'nothing named'}"


def made(found: Statement) -> Made | None:
    """Builder and source of a provenance statement; None for a statement of another kind.

    0.2: `builder.id` and `invocation.configSource.uri`. 1: `runDetails.builder.id`; where the source stands depends on the
    build type: GitHub's has `externalParameters.workflow.repository`, the SLSA generators have
    `externalParameters.source`, BuildKit `externalParameters.configSource.uri`; only without any of these the first of
    `resolvedDependencies` counts, since the others may be base images."""
    if found.predicate_type == V0_2:
        builder = strict.text(strict.table(found.predicate, "builder"), "id")
        source = strict.text(strict.table(strict.table(found.predicate, "invocation"), "configSource"), "uri")
        return Made(builder, (source,) if source else ())
    if found.predicate_type == V1:
        definition = strict.table(found.predicate, "buildDefinition")
        builder = strict.text(strict.table(strict.table(found.predicate, "runDetails"), "builder"), "id")
        return Made(builder, tuple(_sources(definition)))
    return None


def lacks(asked: Provenance, seen: Made) -> str:
    """What does not fit, as half a sentence; "" if everything does."""
    if asked.builder and not fits(asked.builder, seen.builder):
        return f"its builder is {seen.builder or 'not named'}, and the pool asks for {asked.builder}"
    if asked.source and not any(fits(asked.source, form) for source in seen.sources for form in _forms(source)):
        return f"its source is {', '.join(seen.sources) or 'not named'}, and the pool asks for {asked.source}"
    return ""


def _sources(definition: Mapping[str, Any]) -> list[str]:
    outside = strict.table(definition, "externalParameters")
    source = outside.get("source")
    found = [
        strict.text(strict.table(outside, "workflow"), "repository"),
        source if isinstance(source, str) else strict.text(strict.table(outside, "source"), "uri"),
        strict.text(strict.table(outside, "configSource"), "uri"),
    ]
    if not any(found):
        first = strict.rows(definition, "resolvedDependencies")[:1]
        found = [strict.text(cast("dict[str, Any]", one), "uri") for one in first if isinstance(one, dict)]
    return [one for one in found if one]


def _forms(source: str) -> set[str]:
    """As it is written, and the bare address of the repository: without `git+`, `@ref`, `#ref` and `.git`."""
    bare = source.removeprefix("git+").partition("#")[0]
    scheme, mark, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    if mark and slash:  # an @ before the path is a login and stays: it must not hide the true host
        bare = f"{scheme}://{host}/{path.partition('@')[0].removesuffix('/').removesuffix('.git')}"
    return {source, bare}
