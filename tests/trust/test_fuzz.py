"""Whatever a stranger writes into a registry: a refusal at worst, never a crash, never a yes."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.images import Evidence, Identity, ImageCheck, ImageVerdict, Provenance, TrustRule, to_json, verdict_of
from app.trust import bundle, challenge, cosign, decide, keys, manifests, provenance, strict, times
from app.trust.faults import Refused
from app.trust.globs import fits
from app.trust.keyless import Keyless
from app.trust.reference import parse
from app.trust.weigh import BUNDLE, PROVENANCE, TAG, Found, Scales
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import (
    digest_of,
    dsse_bundle,
    envelope,
    message_bundle,
    packed,
    simple_signing,
    slsa_0_2,
    slsa_1,
    statement,
)
from tests.trust.scene import REPOSITORY, Scene, key

JS = Path(__file__).parent / "foreign/js"
MANIFEST = (JS / "manifest.json").read_bytes()
IMAGE = digest_of(MANIFEST)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
KEY = key()
ROOT = JS / "trusted_root.json"
WITNESSES = times.witnesses(ROOT.read_bytes())
KEYLESS = Keyless(ROOT, WITNESSES)
ACME = Identity("https://token.actions.githubusercontent.com", "https://github.com/acme/gpu/*")
ASKED = Provenance("builder", "https://github.com/acme/gpu")
RULE = TrustRule(keys=(KEY.public,), identities=(ACME,), provenance=ASKED)
often = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([IMAGE, "sha256:", "", "2"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = """schemaVersion mediaType config layers manifests subject digest size platform architecture os annotations critical
image type docker-manifest-digest optional timestamp verificationMaterial publicKey certificate tlogEntries messageSignature
dsseEnvelope payload payloadType signatures sig _type predicateType predicate rawBytes MANIFESTS Digest"""
ODD: list[Any] = [None, "", [], {}, 0, -1, 10**30, "A" * 50, IMAGE, "\ud800", "\x00"]
WORDS = st.sampled_from(NAMES.split())


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [above]
    if isinstance(value, dict):
        for name, child in cast("dict[str, Any]", value).items():
            found += paths(child, (*above, name))
    elif isinstance(value, list):
        for place, child in enumerate(cast("list[Any]", value)):
            found += paths(child, (*above, place))
    return found


@st.composite
def spoiled(draw: st.DrawFn, documents: list[bytes]) -> bytes:
    """One of the documents with a few places changed, or its bytes."""
    raw = draw(st.sampled_from(documents))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw)))
        return raw[:at] + draw(st.binary(max_size=4)) + raw[at + draw(st.integers(0, 4)) :]
    value: Any = json.loads(raw)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from([path for path in paths(value) if path] or [("x",)]))
        inside = value
        for step in above:
            inside = inside[step]
        match draw(st.integers(0, 3)):
            case 0:
                inside[last] = draw(Json)
            case 1 if isinstance(inside, dict):
                cast("dict[str, Any]", inside).pop(last, None)
            case 2 if isinstance(inside, dict):
                inside[draw(WORDS)] = draw(Json)
            case 3 if isinstance(inside, list):
                cast("list[Any]", inside).append(draw(Json))
            case _:
                inside[last] = draw(st.sampled_from(ODD))
    return json.dumps(value).encode()


SIMPLE = simple_signing(IMAGE)
STATEMENTS = [statement(IMAGE), slsa_1(IMAGE, builder="builder", source=ASKED.source), slsa_0_2(IMAGE, builder="b", source="s")]
BUNDLES = [
    message_bundle(KEY, MANIFEST),
    *(dsse_bundle(KEY, said) for said in STATEMENTS),
    *(
        (JS / f"{name}.json").read_bytes()
        for name in ("keyless-message", "keyless-dsse", "keyless-chain", "keyless-stamped", "p256-logged")
    ),
]
ENVELOPES = [packed(envelope(KEY, said)) for said in STATEMENTS]
_memory = FakeRegistry()
_index = _memory.index(REPOSITORY)
DOCUMENTS = [
    MANIFEST,
    _memory.bytes_of(REPOSITORY, _index),
    _memory.bytes_of(REPOSITORY, _memory.image(REPOSITORY, docker=True)),
]

READERS: dict[str, tuple[Callable[[bytes], object], list[bytes]]] = {
    "manifest": (manifests.read, DOCUMENTS),
    "config": (manifests.config_platform, [(JS / "config.json").read_bytes()]),
    "payload": (cosign.claim, [SIMPLE]),
    "bundle": (bundle.read, BUNDLES),
    "envelope": (lambda raw: bundle.envelope(strict.parse(raw, "envelope")), ENVELOPES),
    "statement": (lambda raw: provenance.made(bundle.statement(bundle.Envelope(bundle.IN_TOTO, raw, b""))), STATEMENTS),
    "token": (challenge.token_of, [b'{"token":"a","expires_in":1}']),
    "log entry": (lambda raw: times.tag_entry(raw.decode("utf-8", "replace")), [b'{"SignedEntryTimestamp":"","Payload":{}}']),
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_or_refuses(name: str) -> None:
    reader, documents = READERS[name]

    @often
    @given(st.binary(max_size=200) | Json.map(lambda value: json.dumps(value).encode()) | spoiled(documents))
    def reads(raw: bytes) -> None:
        try:
            found = reader(raw)
        except Refused as no:
            assert no.why.endswith(".") and no.code
        else:
            if isinstance(found, manifests.Index):
                try:
                    assert all(strict.is_digest(one.digest) for one in found.platforms())
                except Refused:
                    return

    reads()


@often
@given(spoiled([ROOT.read_bytes()]))
def test_a_trusted_root_is_read_or_refused(raw: bytes) -> None:
    try:
        times.witnesses(raw)
    except ValueError as error:
        assert str(error)


@often
@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z.:/@\-_0-9]{0,40}", fullmatch=True))
def test_references_are_read_or_refused(written: str) -> None:
    try:
        found = parse(written)
    except Refused:
        return
    assert parse(f"{found.name}@{IMAGE}").at(IMAGE) == found.at(IMAGE)
    assert "/../" not in f"/{found.repository}/" and found.repository == found.repository.lower()


@often
@given(st.text("ab*?[", max_size=8), st.text("ab[", max_size=8))
def test_patterns_agree_with_what_they_mean(pattern: str, text: str) -> None:
    def slow(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return slow(pattern[1:], text) or (bool(text) and slow(pattern, text[1:]))
        return bool(text) and pattern[0] in ("?", text[0]) and slow(pattern[1:], text[1:])

    assert fits(pattern, text) == slow(pattern, text)


@often
@given(st.lists(st.text(max_size=80) | st.from_regex(r"(Bearer|Basic)? ?[a-z]*=\"?[^\"]{0,9}\"?,?.{0,20}"), max_size=3))
def test_challenges_of_any_kind(headers: list[str]) -> None:
    found = challenge.chosen(headers)
    assert found is None or found.scheme in ("bearer", "basic")


# Never a yes that is not there

_scales = Scales(RULE, (keys.load(KEY.public), keys.load(key("p256", "p256").public)), KEYLESS.check, WITNESSES, NOW)
_theirs = [bundle.read(raw) for raw in BUNDLES]
TRUE = {SIMPLE, MANIFEST} | {one.content.signed for one in _theirs if isinstance(one.content, bundle.Envelope)}
"""Everything that was ever signed here for this image."""


def weighed(found: Found) -> None:
    """Weighing never raises; what is good speaks for the image, and is one of the bytes that were truly signed."""
    finding = _scales.weigh(found, IMAGE, MANIFEST)
    assert finding.good or finding.evidence.detail
    if finding.good and finding.evidence.good:
        assert finding.evidence.digest == IMAGE and finding.signers
        assert finding.evidence.payload in TRUE
    looked = decide.Looked(IMAGE, "", (finding,))
    if decide.covered(_scales, looked):
        assert finding.good and finding.evidence.payload in TRUE


@often
@given(spoiled(BUNDLES) | st.binary(max_size=100))
def test_spoiled_bundles(raw: bytes) -> None:
    weighed(Found(BUNDLE, raw))


@often
@given(spoiled(ENVELOPES) | st.binary(max_size=100))
def test_spoiled_envelopes(raw: bytes) -> None:
    weighed(Found(PROVENANCE, raw))


@often
@given(spoiled([SIMPLE]) | st.binary(max_size=100), st.text(max_size=20) | st.just(""), st.booleans(), st.text(max_size=40))
def test_spoiled_payloads(raw: bytes, signature: str, certificate: bool, log_entry: str) -> None:
    true = b64encode(KEY.sign(SIMPLE)).decode()
    for one in (signature, true):
        weighed(Found(TAG, raw, one, certificate, log_entry))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(spoiled(DOCUMENTS) | st.binary(max_size=100), spoiled(BUNDLES), spoiled([SIMPLE]))
async def test_a_registry_full_of_nonsense(content: bytes, attached: bytes, payload: bytes) -> None:
    """Signatures of another image, or none, around any bytes: never allowed, and judged to the end."""
    scene = Scene(registry=FakeRegistry())
    scene.registry.blobs |= _memory.blobs
    scene.registry.manifests |= _memory.manifests
    digest = scene.registry.manifest(REPOSITORY, content, tag="v3")
    if digest == IMAGE:
        return
    scene.registry.attach(REPOSITORY, digest, attached)
    scene.sign(digest, payload=payload, signature=b64decode("MEUCIQ=="))
    verdict = await scene.judge(identities=(ACME,))
    assert not verdict.allowed and verdict.code
    await scene.aclose()


# Values travel whole

texts = st.text(max_size=20)
times_ = st.none() | st.datetimes(timezones=st.just(UTC))
evidence = st.builds(
    Evidence, texts, st.booleans(), texts, times_, st.none() | st.integers(), texts, st.binary(), st.binary(), texts, texts
)
verdicts = st.builds(
    ImageVerdict,
    asked=texts,
    allowed=st.booleans(),
    reference=texts,
    digest=texts,
    manifests=st.lists(st.tuples(texts, texts, texts), max_size=3).map(tuple),
    checks=st.lists(st.builds(ImageCheck, texts, texts, texts, st.booleans()), max_size=3).map(tuple),
    evidence=st.lists(evidence, max_size=3).map(tuple),
    why=texts,
    at=st.datetimes(timezones=st.just(UTC)),
    code=texts,
)


@often
@given(verdicts)
def test_a_verdict_survives_json(verdict: ImageVerdict) -> None:
    assert verdict_of(json.loads(json.dumps(to_json(verdict)))) == verdict


def test_the_documents_are_good_before_they_are_spoiled() -> None:
    """Else the fuzz above would prove nothing."""
    assert [_scales.weigh(Found(BUNDLE, raw), IMAGE, MANIFEST).good for raw in BUNDLES[:8]] == [True] * 8
