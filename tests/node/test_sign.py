"""The machine's own openssl says whether an image is signed: every kind of key and of document, and every way to be wrong."""

from __future__ import annotations

import hashlib
import shutil
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from app.node.agent import image, sign
from app.node.agent.image import Manifest, Unusable
from app.trust.keys import load
from tests.fakes.signer import SigningKey, pae, simple_signing, statement
from tests.parts import lacks

DIGEST = "sha256:" + "ab" * 32
NAMES = frozenset({DIGEST})


@pytest.fixture(autouse=True)
def openssl() -> str:
    return shutil.which("openssl") or lacks("openssl", "install openssl")


def signature(key: SigningKey, payload: bytes, kind: str = "cosign tag", **how: Any) -> sign.Signature:
    return sign.Signature(kind, payload, key.sign(payload, **how), key.public.pem)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa", "ed25519"])
def test_every_kind_of_key(kind: str) -> None:
    """The fingerprint is the one that the service shows."""
    key = SigningKey(kind=kind)
    found = sign.check((signature(key, simple_signing(DIGEST)),), NAMES)
    assert (found.problem, found.keys) == ("", (load(key.public).fingerprint,))
    assert found.openssl.startswith("OpenSSL ") or found.openssl.startswith("LibreSSL ")


def test_p384_with_either_hash() -> None:
    key = SigningKey(kind="p384")
    for hash_ in (hashes.SHA256(), hashes.SHA384()):
        assert sign.check((signature(key, simple_signing(DIGEST), hash_=hash_),), NAMES).problem == ""


def test_every_document_that_names_an_image() -> None:
    key, manifest = SigningKey(), b'{"schemaVersion": 2}'
    own = "sha256:" + hashlib.sha256(manifest).hexdigest()
    in_toto = pae("application/vnd.in-toto+json", statement("sha256:" + "01" * 32, DIGEST))
    assert sign.named(simple_signing(DIGEST)) == {DIGEST}
    assert sign.named(in_toto) == {DIGEST, "sha256:" + "01" * 32}
    assert sign.named(manifest) == {own}
    assert sign.check((signature(key, in_toto, "sigstore bundle"),), NAMES).problem == ""
    assert sign.check((signature(key, manifest, "sigstore bundle"),), frozenset({own})).problem == ""


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"null",
        b'{"critical": {"image": {"docker-manifest-digest": "' + DIGEST.encode() + b'"}}}',  # of no type
        simple_signing("sha256:" + "cd" * 32),
        pae("application/vnd.in-toto+json", statement("sha256:" + "cd" * 32)),
        b"DSSEv1 28 application/vnd.in-toto+json 9999 " + statement(DIGEST),
        b"DSSEv1 x",
        b"DSSEv1 4 abcd 2 {}",
        b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_a_good_signature_that_speaks_for_something_else(payload: bytes) -> None:
    found = sign.check((signature(SigningKey(), payload),), NAMES)
    assert "not this image" in found.problem and found.keys == ()


def test_signatures_that_do_not_hold() -> None:
    key, payload = SigningKey(), simple_signing(DIGEST)
    good = signature(key, payload)
    for wrong in (
        good._replace(key=SigningKey().public.pem),
        good._replace(signature=good.signature[:-1] + bytes([good.signature[-1] ^ 1])),
        good._replace(signature=b""),
        good._replace(payload=payload.replace(b"registry.test", b"registry.evil")),
        good._replace(key=SigningKey(kind="ed25519").public.pem),
        good._replace(key=SigningKey(kind="rsa").public.pem),
    ):
        assert "does not hold" in sign.check((wrong,), NAMES).problem
    for key_text in ("", "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----", key.pem()):
        assert "key" in sign.check((good._replace(key=key_text),), NAMES).problem
    assert "2 of 2" in sign.check((good, good._replace(signature=b"x")), NAMES).problem  # none is skipped


def test_provenance_alone_is_no_signature_of_the_image() -> None:
    one = signature(SigningKey(), pae("application/vnd.in-toto+json", statement(DIGEST)), "provenance")
    assert sign.check((one,), NAMES).problem == "no signature names this image"
    assert sign.check((), NAMES).problem == "no signature names this image"
    assert sign.check((one, signature(SigningKey(), simple_signing(DIGEST))), NAMES).problem == ""


def test_a_certificate_brings_its_key() -> None:
    """As keyless signatures have it; whom it names was the service's to judge."""
    key = SigningKey()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ci")])
    start = datetime(2026, 11, 1, tzinfo=UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.private.public_key())
    made = made.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(minutes=10))
    pem = made.sign(SigningKey().private, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    found = sign.check((signature(key, simple_signing(DIGEST))._replace(key=pem),), NAMES)
    assert (found.problem, found.keys) == ("", (load(key.public).fingerprint,))


def test_without_openssl_and_with_an_old_one(tmp_path: Path) -> None:
    one = signature(SigningKey(kind="ed25519"), simple_signing(DIGEST))
    assert "openssl is not on this machine" in sign.check((one,), NAMES, str(tmp_path)).problem
    old = tmp_path / "openssl"
    old.write_text('#!/bin/sh\n[ "$1" = version ] && echo "OpenSSL 1.1.1w  11 Sep 2023" && exit 0\nexit 1\n')
    old.chmod(0o755)
    found = sign.check((one,), NAMES, str(tmp_path))
    assert "cannot check Ed25519: the image needs OpenSSL 3" in found.problem and found.openssl.startswith("OpenSSL 1.1.1w")
    old.write_text("#!/bin/sh\nexit 3\n")
    assert sign.check((one,), NAMES, str(tmp_path)).problem == "openssl ended with 3"


# What the service tells


def told(**more: Any) -> dict[str, Any]:
    """An answer's `image`."""
    usual: dict[str, Any] = {
        "mode": "contained",
        "reference": f"r.example/ci/gpu@{DIGEST}",
        "digest": DIGEST,
        "manifests": [
            ["amd64", "sha256:" + "01" * 32, "sha256:" + "02" * 32],
            ["arm64", "sha256:" + "03" * 32, "sha256:" + "04" * 32],
        ],
        "signatures": [],
        "signed": True,
        "allow_build": False,
        "access": None,
    }
    return {**usual, **more}


def test_what_the_service_tells_is_read_whole_or_not_at_all() -> None:
    assert image.read(None) is None
    assert image.read({"mode": "bare"}) is None
    found = image.read(told(access={"username": "", "password": "token-of-a-minute"}))
    assert found is not None and found.manifests[0] == Manifest("amd64", "sha256:" + "01" * 32, "sha256:" + "02" * 32)
    assert found.names("amd64") == {DIGEST, "sha256:" + "01" * 32}
    assert found.ids == {DIGEST, *("sha256:" + f"0{number}" * 32 for number in range(1, 5))}
    assert "token-of-a-minute" not in repr(found)


EMPTY = {"payload": "", "signature": "", "key": ""}
WRONG: list[dict[str, Any]] = [
    {"mode": "open"},
    {"mode": None},
    {"signed": None},
    {"signed": "no"},
    {"reference": "r.example/ci/gpu:v1"},
    {"reference": f"r.example/ci/gpu@{DIGEST}; reboot"},
    {"digest": "sha256:" + "ff" * 32},
    {"manifests": [["amd64", "x", "y"]]},
    {"manifests": [["amd64"]]},
    {"signatures": [{"payload": "!", "signature": "", "key": ""}]},
    {"signatures": [{}]},
    {"signatures": [EMPTY] * 33},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_cannot_be_read_is_not_taken_for_bare(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unusable):
        image.read(told(**wrong))


def test_a_signed_platform_is_enough_where_the_index_itself_is_not_signed() -> None:
    """The service has looked that every platform is."""
    key = SigningKey()
    for digest, problem in (("sha256:" + "01" * 32, ""), ("sha256:" + "03" * 32, "not this image"), (DIGEST, "")):
        payload = simple_signing(digest)
        row = {
            "kind": "cosign tag",
            "payload": b64encode(payload).decode(),
            "signature": b64encode(key.sign(payload)).decode(),
            "key": key.public.pem,
        }
        found = image.read(told(signatures=[row]))
        assert found is not None
        assert (problem in image.check(found, "amd64").problem) if problem else not image.check(found, "amd64").problem


def test_the_report() -> None:
    found = image.read(told())
    assert found is not None
    missing = image.report(found, image.check(found, "amd64"))
    assert (missing["checked"], missing["problem"]) == (False, "the service sent no signature of the image")
    pinned = image.read(told(signed=False))
    assert pinned is not None
    nothing: dict[str, Any] = {"checked": False, "openssl": "", "keys": [], "problem": ""}
    assert image.report(pinned, image.check(pinned, "amd64")) == {"digest": DIGEST, "mode": "contained", **nothing}
