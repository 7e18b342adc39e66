"""Signs the demo's image as cosign does with a key file: a payload that names the digest, and a signature beside the image.

The key is made once and stays in the forge's folder: what it signs is trusted by this demo's own settings and by nobody else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.demo.keys import private_file
from app.demo.layout import CONFIG_TYPE, MANIFEST_TYPE, Layout

KEY, PUBLIC = "image-signing.pem", "image-signing.pub"
PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
FOR = "sublet.demo.signed"  # the annotation that says for whom and with which key
SIGNATURE = "dev.cosignproject.cosign/signature"


def private_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The demo's signing key; made at the first call, with its public half beside it."""
    path = folder / KEY
    if not path.is_file():
        form = serialization.PrivateFormat.PKCS8
        made = ec.generate_private_key(ec.SECP256R1())
        private_file(path, made.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode())
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds another kind of key than the one that was put there")
    private_file(folder / PUBLIC, public_pem(key))
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def tag_of(digest: str) -> str:
    """The tag under which cosign looks for the signatures of a digest."""
    return digest.replace(":", "-") + ".sig"


def sign(shelf: Layout, repository: str, digest: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> dict[str, Any]:
    """The descriptor of the signature's manifest: the one that is there, or a new one that is put into the layout."""
    mark = {FOR: f"{repository} {hashlib.sha256(public_pem(key).encode()).hexdigest()}"}
    there = shelf.find(tag_of(digest))
    if there is not None and mark.items() <= there["annotations"].items():
        return there
    payload = {
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": {"creator": "sublet demo", "timestamp": int(now.timestamp())},
    }
    raw = json.dumps(payload, separators=(",", ":"), sort_keys=True).encode()
    layer = shelf.add(PAYLOAD_TYPE, raw)
    signed = base64.b64encode(key.sign(raw, ec.ECDSA(hashes.SHA256()))).decode()
    config = {
        "architecture": "",
        "os": "",
        "created": "0001-01-01T00:00:00Z",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": shelf.add(CONFIG_TYPE, json.dumps(config).encode()),
        "layers": [{**layer, "annotations": {SIGNATURE: signed}}],
    }
    return {**shelf.add(MANIFEST_TYPE, json.dumps(manifest).encode()), "annotations": mark}
