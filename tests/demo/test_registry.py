"""The demo's registry: what a pull asks for, the signature beside the image, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo import image, launch, signature
from app.demo.layout import MANIFEST_TYPE


@pytest.fixture(scope="module")
def published(process: launch.Running) -> image.Published:
    return image.publish(process.folder, process.url)


@pytest.fixture
def registry(process: launch.Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{process.url}/v2", timeout=10, trust_env=False) as client:
        yield client


def sha256(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_a_tag_leads_to_bytes_that_are_their_digests(registry: httpx.Client, published: image.Published) -> None:
    assert registry.get("/").headers["docker-distribution-api-version"] == "registry/2.0"
    asked = registry.head("/sublet-demo/manifests/latest")
    assert (asked.headers["docker-content-digest"], asked.headers["content-type"]) == (published.digest, MANIFEST_TYPE)
    manifest = registry.get(f"/sublet-demo/manifests/{published.digest}")
    assert sha256(manifest.content) == published.digest
    assert int(asked.headers["content-length"]) == len(manifest.content) and not asked.content
    for part in (manifest.json()["config"], *manifest.json()["layers"]):
        blob = registry.get(f"/sublet-demo/blobs/{part['digest']}")
        assert (sha256(blob.content), len(blob.content)) == (part["digest"], part["size"])
    config = registry.get(f"/sublet-demo/blobs/{manifest.json()['config']['digest']}").json()
    assert (config["os"], config["architecture"]) == ("linux", image.machine_here())
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest.json()["layers"]]


def test_the_signature_is_cosigns_and_speaks_for_this_digest(registry: httpx.Client, published: image.Published) -> None:
    tag = f"{published.digest.replace(':', '-')}.sig"
    assert sorted(registry.get("/sublet-demo/tags/list").json()["tags"]) == sorted(["latest", tag])
    (layer,) = registry.get(f"/sublet-demo/manifests/{tag}").json()["layers"]
    raw = registry.get(f"/sublet-demo/blobs/{layer['digest']}").content
    said = json.loads(raw)["critical"]
    assert said["image"]["docker-manifest-digest"] == published.digest
    assert said["identity"]["docker-reference"] == published.repository
    assert said["type"] == "cosign container image signature"
    key = serialization.load_pem_public_key(published.public_key_file.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    made = base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"])
    key.verify(made, raw, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(made, raw.replace(b"sha256:", b"sha256;"), ec.ECDSA(hashes.SHA256()))


def test_the_key_is_made_once_and_is_nobody_elses(process: launch.Running, published: image.Published) -> None:
    path = process.folder / signature.KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert image.publish(process.folder, process.url) == published
    assert path.read_bytes() == before
    assert signature.public_pem(signature.private_key(process.folder)).encode() == published.public_key_file.read_bytes()


def test_a_key_of_another_kind_is_not_used(tmp_path: Path) -> None:
    (tmp_path / signature.KEY).write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    with pytest.raises(TypeError):
        signature.private_key(tmp_path)


def test_nothing_refers_to_it_and_that_is_said_in_the_specifications_form(
    registry: httpx.Client, published: image.Published
) -> None:
    answer = registry.get(f"/sublet-demo/referrers/{published.digest}")
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert answer.json()["manifests"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/sublet-demo/manifests/v9",
        f"/sublet-demo/manifests/sha256:{'0' * 64}",
        "/other/manifests/latest",
        f"/sublet-demo/blobs/sha256:{'0' * 64}",
        "/sublet-demo/blobs/..%2f..%2f..%2findex.json",
        "/sublet-demo/blobs/sha256:..",
        "/..%2fgit/blobs/sha256:00",
        "/%2e%2e/tags/list",
    ],
)
def test_what_is_not_there_is_not_found(registry: httpx.Client, published: image.Published, path: str) -> None:
    assert registry.get(path).status_code == 404


def test_a_registrys_words_for_it(registry: httpx.Client, published: image.Published) -> None:
    assert registry.get("/sublet-demo/manifests/v9").json()["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert registry.get(f"/sublet-demo/blobs/sha256:{'0' * 64}").json()["errors"][0]["code"] == "BLOB_UNKNOWN"
    assert registry.get("/other/tags/list").json()["errors"][0]["code"] == "NAME_UNKNOWN"


@pytest.mark.parametrize("verb", ["PUT", "POST", "PATCH", "DELETE"])
def test_it_only_reads(registry: httpx.Client, published: image.Published, verb: str) -> None:
    for path in ("/sublet-demo/manifests/latest", f"/sublet-demo/blobs/{published.digest}", "/sublet-demo/blobs/uploads"):
        assert registry.request(verb, path, content=b"{}").status_code in (404, 405)
    assert registry.get(f"/sublet-demo/manifests/{published.digest}").status_code == 200


def test_another_name_for_loopback_is_turned_away(registry: httpx.Client, published: image.Published) -> None:
    assert registry.get("/", headers={"Host": "registry.example"}).status_code == 421
