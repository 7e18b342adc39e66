"""Signatures by somebody else's software: sigstore-js, Sigstore's own logs, and openssl."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.core.images import Identity, Provenance, PublicKey, Refusal, TrustRule
from app.trust import bundle, provenance, times
from app.trust.faults import Refused
from app.trust.keyless import Keyless, Signer
from tests import parts
from tests.fakes.signer import SigningKey, digest_of, packed, simple_signing
from tests.trust.scene import REPOSITORY, Scene, key

HERE = Path(__file__).parent / "foreign"
JS, REAL = HERE / "js", HERE / "real"
ROOT = JS / "trusted_root.json"
ISSUER = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/acme/gpu/.github/workflows/image.yml@refs/heads/main"
ACME = Identity(ISSUER, WORKFLOW)
IMAGE = digest_of((JS / "manifest.json").read_bytes())
GOOD = ["keyless-message", "keyless-dsse", "keyless-chain", "keyless-stamped"]
KINDS = ["p256", "p384", "rsa", "ed25519"]


def js(name: str) -> bytes:
    return (JS / f"{name}.json").read_bytes()


def public(kind: str) -> PublicKey:
    return PublicKey(f"{kind}.pub", (JS / f"{kind}.pub").read_text("utf-8"))


@pytest.fixture
async def theirs() -> AsyncGenerator[Scene]:
    """The image of sigstore-js in a registry, and a judge who knows the mock's trusted root."""
    scene = Scene(trusted_root=ROOT)
    scene.registry.blob(REPOSITORY, (JS / "config.json").read_bytes())
    assert scene.registry.manifest(REPOSITORY, (JS / "manifest.json").read_bytes(), tag="v3") == IMAGE
    scene.clock.advance(timedelta(days=1))  # they were made on the day after the stories' noon
    yield scene
    await scene.aclose()


# sigstore-js, without a key


@pytest.mark.parametrize("name", GOOD)
async def test_a_bundle_without_a_key(theirs: Scene, name: str) -> None:
    theirs.attach(IMAGE, js(name))
    verdict = await theirs.judge(rule=TrustRule(identities=(ACME,)))
    assert verdict.allowed, verdict.why
    [evidence] = verdict.evidence
    assert evidence.signer == f"{WORKFLOW} ({ISSUER})"
    assert evidence.digest == IMAGE and evidence.log_index is not None
    assert evidence.signed_at is not None and evidence.signed_at.date() == datetime(2026, 11, 22, tzinfo=UTC).date()
    assert "BEGIN PUBLIC KEY" in evidence.key_pem


@pytest.mark.parametrize(
    ("issuer", "subject", "allowed"),
    [
        (ISSUER, "https://github.com/acme/gpu/*", True),
        ("https://*.githubusercontent.com", "*@refs/heads/main", True),
        (ISSUER, "https://github.com/acme/gpu/.github/workflows/image.yml", False),
        (ISSUER, "https://github.com/acme/*@refs/heads/release", False),
        (ISSUER, "*@REFS/heads/main", False),
        ("https://accounts.google.com", WORKFLOW, False),
        ("", "*", False),
    ],
)
async def test_issuer_and_subject_exactly_or_by_pattern(theirs: Scene, issuer: str, subject: str, allowed: bool) -> None:
    theirs.attach(IMAGE, js("keyless-dsse"))
    verdict = await theirs.judge(rule=TrustRule(identities=(Identity(issuer, subject),)))
    assert verdict.code == ("" if allowed else Refusal.WRONG_IDENTITY)
    if not allowed:
        assert WORKFLOW in verdict.why


async def test_somebody_of_nearly_the_same_name_is_somebody_else(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("keyless-evil"))
    code, why = await theirs.refused(rule=TrustRule(identities=(Identity(ISSUER, "https://github.com/acme/*"),)))
    assert code == Refusal.WRONG_IDENTITY and "acme-evil" in why


async def test_signed_after_the_certificate_had_ended(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("keyless-expired"))
    code, why = await theirs.refused(rule=TrustRule(identities=(ACME,)))
    assert code == Refusal.EXPIRED_IDENTITY and "when its certificate was not valid" in why


async def test_never_logged(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("keyless-unlogged"))
    assert (await theirs.refused(rule=TrustRule(identities=(ACME,))))[0] == Refusal.UNREADABLE


@pytest.mark.parametrize("name", GOOD)
async def test_a_bundle_without_a_key_for_another_image(theirs: Scene, name: str) -> None:
    other = theirs.image("v3", seed="other")
    theirs.attach(other, js(name))
    code, why = await theirs.refused(rule=TrustRule(identities=(ACME,)))
    assert code == Refusal.WRONG_DIGEST and IMAGE[:19] in why


async def test_a_pool_with_keys_takes_no_identity_and_the_other_way_round(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("keyless-dsse"))
    code, why = await theirs.refused(keys=(public("p256"),))
    assert code == Refusal.WRONG_KEY and "without a key" in why
    again = Scene(registry=theirs.registry)
    code, why = await again.refused(rule=TrustRule(identities=(ACME,)))
    assert code == Refusal.WRONG_IDENTITY and "no trusted root" in why
    await again.aclose()


async def test_a_trusted_root_of_others_proves_nothing_here(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("keyless-dsse"))
    scene = Scene(registry=theirs.registry, trusted_root=REAL / "trusted_root.json")
    assert (await scene.refused(rule=TrustRule(identities=(ACME,))))[0] == Refusal.WRONG_IDENTITY
    await scene.aclose()


async def test_identities_and_keys_together(theirs: Scene) -> None:
    theirs.attach(IMAGE, js("p256-message"))
    rule = TrustRule(keys=(public("p256"),), identities=(ACME,), need_all=True)
    code, why = await theirs.refused(rule=rule)
    assert code == Refusal.WRONG_IDENTITY and WORKFLOW in why
    theirs.attach(IMAGE, js("keyless-dsse"))
    assert (await theirs.judge(rule=rule)).allowed


async def test_provenance_without_a_key(theirs: Scene) -> None:
    asked = Provenance("https://github.com/actions/runner/*", "https://github.com/acme/gpu")
    theirs.attach(IMAGE, js("keyless-provenance"))
    assert (await theirs.judge(rule=TrustRule(identities=(ACME,), provenance=asked))).allowed
    wrong = Provenance(source="https://github.com/acme/other")
    assert (await theirs.refused(rule=TrustRule(identities=(ACME,), provenance=wrong)))[0] == Refusal.WRONG_PROVENANCE
    assert (await theirs.refused(rule=TrustRule(identities=(ACME,))))[0] == Refusal.UNSIGNED


@pytest.mark.parametrize("name", GOOD)
async def test_age_by_the_log(theirs: Scene, name: str) -> None:
    theirs.attach(IMAGE, js(name))
    assert (await theirs.judge(rule=TrustRule(identities=(ACME,), oldest=timedelta(days=3)))).allowed
    theirs.clock.advance(timedelta(days=4))
    assert (await theirs.refused(rule=TrustRule(identities=(ACME,), oldest=timedelta(days=3))))[0] == Refusal.TOO_OLD


def _flipped(value: Any, path: tuple[str | int, ...]) -> Any:
    """The same with one character changed at the end of a path."""
    if not path:
        text = str(value)
        at = len(text) // 5  # in a checkpoint: what is signed; the name beside the signature at its end is a hint
        return f"{text[:at]}{'A' if text[at] != 'A' else 'B'}{text[at + 1 :]}"
    copy = value.copy()
    copy[path[0]] = _flipped(value[path[0]], path[1:])
    return copy


@pytest.mark.parametrize(
    "path",
    [
        ("verificationMaterial", "certificate", "rawBytes"),
        ("verificationMaterial", "tlogEntries", 0, "canonicalizedBody"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionPromise", "signedEntryTimestamp"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "rootHash"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "checkpoint", "envelope"),
        ("verificationMaterial", "tlogEntries", 0, "logIndex"),
        ("verificationMaterial", "tlogEntries", 0, "integratedTime"),
        ("dsseEnvelope", "payload"),
        ("dsseEnvelope", "signatures", 0, "sig"),
        ("dsseEnvelope", "payloadType"),
        ("mediaType",),
    ],
    ids=lambda path: str(path[-1]),
)
async def test_no_piece_of_a_bundle_can_be_another_one(theirs: Scene, path: tuple[str | int, ...]) -> None:
    theirs.attach(IMAGE, packed(_flipped(json.loads(js("keyless-dsse")), path)))
    verdict = await theirs.judge(rule=TrustRule(identities=(ACME,)))
    assert not verdict.allowed and verdict.code in set(Refusal)


# sigstore-js, with keys


@pytest.mark.parametrize("form", ["message", "dsse"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bundle_by_a_key(theirs: Scene, kind: str, form: str) -> None:
    theirs.attach(IMAGE, js(f"{kind}-{form}"))
    verdict = await theirs.judge(keys=(public(kind),))
    assert verdict.allowed, verdict.why
    assert (await theirs.refused())[0] == Refusal.WRONG_KEY


@pytest.mark.parametrize("name", ["p256-logged", "p256-logged-dsse", "p256-stamped"])
async def test_age_of_a_keys_signature_by_log_and_by_timestamp(theirs: Scene, name: str) -> None:
    theirs.attach(IMAGE, js(name))
    verdict = await theirs.judge(keys=(public("p256"),), oldest=timedelta(days=3))
    assert verdict.allowed, verdict.why
    assert (verdict.evidence[0].log_index is not None) == ("logged" in name)
    theirs.clock.advance(timedelta(days=4))
    assert (await theirs.refused(keys=(public("p256"),), oldest=timedelta(days=3)))[0] == Refusal.TOO_OLD


async def test_a_borrowed_log_entry_makes_no_signature_young(theirs: Scene) -> None:
    old, fresh = json.loads(js("p256-message")), json.loads(js("p256-logged"))
    old["verificationMaterial"]["tlogEntries"] = fresh["verificationMaterial"]["tlogEntries"]
    theirs.attach(IMAGE, packed(old))
    assert (await theirs.judge(keys=(public("p256"),))).evidence[0].signed_at is None
    assert (await theirs.refused(keys=(public("p256"),), oldest=timedelta(days=3)))[0] == Refusal.TOO_OLD


async def test_a_date_that_no_log_promised_is_no_date(theirs: Scene) -> None:
    forged = json.loads(js("p256-logged"))
    entry = forged["verificationMaterial"]["tlogEntries"][0]
    entry["integratedTime"] = str(int(entry["integratedTime"]) + 1)
    theirs.attach(IMAGE, packed(forged))
    [evidence] = (await theirs.judge(keys=(public("p256"),))).evidence
    assert (evidence.signed_at, evidence.log_index) == (None, None)
    assert (await theirs.refused(keys=(public("p256"),), oldest=timedelta(days=3)))[0] == Refusal.TOO_OLD


async def test_the_entry_that_cosign_2_keeps_beside_a_tag_signature(theirs: Scene) -> None:
    """Its fields are those of the bundle's entry, under other names (SIGNATURE_SPEC.md)."""
    payload = simple_signing(IMAGE)
    entry = json.loads(js("p256-logged"))["verificationMaterial"]["tlogEntries"][0]
    note = {
        "SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
        "Payload": {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logIndex": int(entry["logIndex"]),
            "logID": bytes.hex(b64decode(entry["logId"]["keyId"])),
        },
    }
    found = times.tag_entry(json.dumps(note))
    assert found is not None
    known = times.witnesses(ROOT.read_bytes())
    signature = json.loads(js("p256-logged"))["messageSignature"]["signature"]
    moment = times.logged(known, found, b64decode(signature))
    assert moment is not None and moment.log_index == int(entry["logIndex"])
    theirs.sign(IMAGE, payload=payload, annotations={"dev.sigstore.cosign/bundle": json.dumps(note)})
    assert (await theirs.judge()).evidence[0].signed_at is None  # an entry for another signature


# Sigstore's own logs


def checked(name: str, root: str = "trusted_root") -> tuple[Signer, bundle.Statement]:
    path = REAL / f"{root}.json"
    read = bundle.read((REAL / f"{name}.json").read_bytes())
    signer = Keyless(path, times.witnesses(path.read_bytes())).check(read, "sha256:" + "0" * 64)
    assert isinstance(read.content, bundle.Envelope)
    return signer, bundle.statement(read.content)


def test_a_workflow_of_github_signed_this_in_2024() -> None:
    signer, said = checked("github-provenance")
    assert signer.issuer == ISSUER and signer.log_index == 153454647
    assert signer.signed_at == datetime(2024, 12, 4, 23, 13, 46, tzinfo=UTC)
    assert signer.is_one(Identity(ISSUER, "https://github.com/trailofbits/pypi-attestations/.github/workflows/*"))
    assert not signer.is_one(Identity(ISSUER, "https://github.com/trailofbits/other/*"))
    made = provenance.made(said)
    assert made is not None and made.sources == ("https://github.com/trailofbits/pypi-attestations",)
    assert provenance.lacks(Provenance("https://github.com/trailofbits/*", made.sources[0]), made) == ""


def test_a_workflow_of_gitlab_and_a_person_signed_these() -> None:
    signer, _ = checked("gitlab-publish")
    assert (signer.issuer, len(signer.subjects)) == ("https://gitlab.com", 1)
    signer, _ = checked("person-publish", "staging_root")
    assert signer.subjects == ("william@yossarian.net",)
    signer, said = checked("github-publish")
    assert signer.log_index == 101487427 and len(said.subjects) == 1


def test_the_log_of_another_world_does_not_prove_it() -> None:
    with pytest.raises(Refused) as caught:
        checked("github-provenance", "staging_root")
    assert caught.value.code == Refusal.WRONG_IDENTITY


# openssl


def openssl(*words: str | Path) -> None:
    program = shutil.which("openssl") or parts.lacks("openssl", "install openssl")
    subprocess.run([program, *map(str, words)], check=True, capture_output=True)


MAKES = {
    "p256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "ed25519": ["ED25519"],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_keys_and_signatures_of_openssl(scene: Scene, kind: str, tmp_path: Path) -> None:
    private, pem, payload, made = (tmp_path / name for name in ("private", "public", "payload", "signature"))
    openssl("genpkey", "-algorithm", *MAKES[kind], "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", pem)
    digest = scene.image()
    payload.write_bytes(simple_signing(digest))
    if kind == "ed25519":
        openssl("pkeyutl", "-sign", "-rawin", "-inkey", private, "-in", payload, "-out", made)
    else:
        openssl("dgst", "-sha256", "-sign", private, "-out", made, payload)
    scene.sign(digest, payload=payload.read_bytes(), signature=made.read_bytes())
    by = PublicKey("openssl.pub", pem.read_text("utf-8"))
    assert (await scene.judge(keys=(by,))).allowed
    assert (await scene.refused())[0] == Refusal.WRONG_KEY


@pytest.mark.parametrize("kind", KINDS)
async def test_openssl_can_check_the_evidence_that_a_node_is_sent(scene: Scene, kind: str, tmp_path: Path) -> None:
    by: SigningKey = key(f"{kind}.pub", kind)
    scene.sign(scene.image(), by)
    [evidence] = (await scene.judge(keys=(by.public,))).evidence
    pem, payload, made = (tmp_path / name for name in ("public", "payload", "signature"))
    pem.write_text(evidence.key_pem, "utf-8")
    payload.write_bytes(evidence.payload)
    made.write_bytes(evidence.signature)
    if kind == "ed25519":
        openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", pem, "-in", payload, "-sigfile", made)
    else:
        openssl("dgst", "-sha256", "-verify", pem, "-signature", made, payload)
