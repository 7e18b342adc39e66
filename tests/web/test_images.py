"""Images on pages and over HTTP: evidence and red marks, revocations by those who may, and what a guarded node is told."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from app.core.images import Evidence, Mode, TrustRule, to_json
from app.core.model import Pool
from app.core.states import State
from app.kit.clock import SystemClock
from app.kit.threads import InlineLane
from app.store import audit, images, nodes
from app.store.people import Role
from app.trust.access import RegistryAccess
from app.trust.judge import ImageTrust
from app.web.auth import hashed
from providers.contract import Secret
from tests.fakes.registry import FakeRegistry
from tests.fakes.signer import SigningKey
from tests.web import story
from tests.web.conftest import Rebuilt, Service, pool, well
from tests.web.story import IMAGE, INDEX, NOW, UNSIGNED, afternoon, bare, live_to, refused

PAGE = {"accept": "text/html"}
MINUTE = timedelta(minutes=1)
API = "/api/v1/images"
KEY = SigningKey("cosign.pub")


# --- what people see


async def test_the_lease_page_shows_who_signed_its_image_and_what_did_not_count(service: Service) -> None:
    afternoon(service.db)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases/brave-otter-41")).text
    assert "Image and node proof" in page
    proof = page[page.index('id="proof"') :]
    for words in (
        INDEX,
        "cosign.pub (SHA256:2Zr9Yk)",
        "log 7041992",
        "none of the pool&#39;s keys made it",
        "contained",
        "OpenSSL 3.5.4",
    ):
        assert words in proof, words
    assert "unsigned" not in page and "revoked" not in page


async def test_a_refusal_opens_with_the_check_that_failed(service: Service) -> None:
    refused(service.db, 5, "sad-mole-11", NOW - MINUTE)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases/sad-mole-11")).text
        view = (await client.get("/leases/sad-mole-11.json")).json()
    assert "Refused, so nothing was rented: " in page and "No machine was ever created for it" in page
    rows = re.findall(r"<tr><th scope=\"row\">(\w+)</th><td>", page[page.index('id="image-checks" open') :])
    assert rows[0] == "signature"
    assert (view["image"]["code"], view["reason"]) == ("unsigned", "image_refused")


async def test_every_lease_of_an_unsigned_pool_wears_a_red_mark_in_lists_page_and_json(
    service: Service, rebuilt: Rebuilt
) -> None:
    afternoon(service.db)
    bare(service.db, 7, "odd-puma-07", NOW - 2 * MINUTE)
    plain = pool(name="plain", image=None, trust=None, mode=Mode.BARE)
    shown = rebuilt(pools={"rubin": pool(), "plain": plain})
    async with shown.client(Role.VIEWER, **PAGE) as client:
        for path in ("/leases", "/"):
            page = (await client.get(path)).text
            row = page[page.index('href="/leases/odd-puma-07"') :]
            assert "unsigned</span>" in row[: row.index("</tr>")]
            assert page.count("unsigned</span>") == 1, "the signed ones wear none"
        assert "<strong>Unsigned:</strong> the pool <code>plain</code> says" in page
        page = (await client.get("/leases/odd-puma-07")).text
        assert "unsigned</span>" in page and "It runs on the bare machine, where nothing proves what is there." in page
        marks = {one["name"]: one["signed"] for one in (await client.get("/leases.json")).json()["leases"]}
        assert marks["odd-puma-07"] is False and marks["brave-otter-41"] is True
        assert (await client.get("/overview.json")).json()["unsigned_pools"] == ["plain"]
    async with service.client(Role.VIEWER, **PAGE) as client:
        assert "<strong>Unsigned:</strong>" not in (await client.get("/")).text


async def test_a_lease_that_runs_what_was_revoked_wears_it(service: Service) -> None:
    afternoon(service.db)
    images.revoke(service.db, INDEX, "CVE-2026-1234 <b>", "ada", NOW)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases/brave-otter-41")).text
        assert "Revoked since.</strong> The image sha256:999999999999… was revoked: CVE-2026-1234 &lt;b&gt;" in page
        assert "revoked</span>" in (await client.get("/leases")).text
        view = (await client.get("/leases/brave-otter-41.json")).json()
    assert view["revoked"].startswith("The image sha256:999999999999… was revoked")


async def test_a_revoked_part_of_the_image_shows_on_the_page(service: Service) -> None:
    afternoon(service.db)
    images.revoke(service.db, story.AMD64, "its base", "ada", NOW)
    async with service.client(Role.VIEWER) as client:
        view = (await client.get("/leases/brave-otter-41.json")).json()
    assert "was revoked: its base" in view["revoked"]


async def test_what_a_registry_says_is_escaped(service: Service) -> None:
    evil = "<script>alert(1)</script>\u202e"
    bad = replace(
        UNSIGNED,
        asked=evil,
        why=evil,
        manifests=((evil, "sha256:x", "sha256:y"),),
        checks=(replace(UNSIGNED.checks[0], what=evil, asked=evil, seen=evil, passed=False),),
        evidence=(Evidence(evil, False, evil, None, None, evil),),
    )
    lease = story.plan(service.db, 9, "mean-crab-66", NOW - MINUTE)
    story.move(service.db, lease.id, State.RELEASED, NOW, image_verdict=to_json(bad))
    images.remember(service.db, lease.id, evil, bad, NOW)
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases/mean-crab-66")).text
    assert "<script>alert" not in page and "\u202e" not in page and "&lt;script&gt;alert(1)" in page


# --- revoked


async def test_an_operator_revokes_and_only_an_admin_takes_it_back(service: Service) -> None:
    digest, why = "sha256:" + "c" * 64, {"reason": "it leaks"}
    async with service.client(Role.OPERATOR) as client:
        assert (await client.post(f"{API}/revoke", json={"digest": digest, **why})).json()["revoked"] is True
        again = await client.post(f"{API}/revoke", json={"digest": digest, **why})
        assert again.status_code == 409 and "revoked before" in again.text
        assert (await client.post(f"{API}/unrevoke", json={"digest": digest, **why})).status_code == 403
        (told,) = (await client.get(f"{API}/revoked")).json()["revoked"]
    assert (told["digest"], told["why"], told["actor"]) == (digest, "it leaks", "operator")
    async with service.client(Role.ADMIN) as client:
        assert (await client.post(f"{API}/unrevoke", json={"digest": digest, "reason": "another one"})).status_code == 200
        assert (await client.post(f"{API}/unrevoke", json={"digest": digest, "reason": "again"})).status_code == 404
    actions = [(entry.actor, entry.action, entry.text) for entry in audit.listing(service.db, f"image:{digest}")]
    assert actions == [("admin", "image.unrevoked", "another one"), ("operator", "image.revoked", "it leaks")]


async def test_what_the_settings_revoke_is_listed_and_taken_out_there(service: Service, rebuilt: Rebuilt) -> None:
    both, one = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    pools = {
        "rubin": pool(trust=TrustRule(revoked=frozenset({both, one}))),
        "other": pool(name="other", trust=TrustRule(revoked=frozenset({both}))),
        "bare": pool(name="bare", trust=None, image=None),
    }
    async with rebuilt(pools=pools).client(Role.ADMIN) as client:
        told = (await client.get(f"{API}/revoked")).json()["revoked"]
        assert [(row["digest"], row["actor"], row["pool"]) for row in told] == [
            (both, "settings", ""),
            (one, "settings", "rubin"),
        ]
        no = await client.post(f"{API}/unrevoke", json={"digest": both, "reason": "x"})
        assert no.status_code == 409 and "settings" in no.text


@pytest.mark.parametrize(
    "body", [{"digest": "latest", "reason": "x"}, {"digest": "sha256:12", "reason": "x"}, {"digest": INDEX}]
)
async def test_a_revocation_names_a_digest_and_a_reason(service: Service, body: dict[str, str]) -> None:
    async with service.client(Role.OPERATOR) as client:
        assert (await client.post(f"{API}/revoke", json=body)).status_code == 422


# --- doctor


@asynccontextmanager
async def judged(service: Service, registry: FakeRegistry, rebuilt: Rebuilt, **pools: Pool) -> AsyncGenerator[Service]:
    """The service with the real judge, on the wire of this registry."""
    wire = registry.client()
    secret = Secret(registry.password) if registry.auth else None
    access = RegistryAccess(registry.host, username=registry.username if secret else "", password=secret)
    trust = ImageTrust({registry.host: access}, SystemClock(), client=wire, lane=InlineLane())
    yield rebuilt(trust=trust, pools=pools or service.parts.pools, registry_checks={registry.host: well})
    await trust.aclose()
    await wire.aclose()


def guarded(**rule: object) -> Pool:
    values = {"keys": (KEY.public,), **rule}
    return pool(image="registry.test/ci/gpu:v3", mode=Mode.GUARDED, trust=TrustRule(**values))  # pyright: ignore[reportArgumentType]


async def test_doctor_says_of_each_pool_whether_its_image_would_pass(service: Service, rebuilt: Rebuilt) -> None:
    registry = FakeRegistry()
    digest = registry.image("ci/gpu", "v3")
    registry.image("ci/raw", "v1")
    pools = {
        "rubin": guarded(),
        "raw": replace(guarded(), name="raw", image="registry.test/ci/raw:v1"),
        "bare": pool(name="bare", trust=None, image=None, mode=Mode.BARE),
    }
    registry.sign("ci/gpu", digest, KEY)
    async with judged(service, registry, rebuilt, **pools) as shown, shown.client(Role.VIEWER) as client:
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["image rubin"]["status"] == "ok" and "is signed by cosign.pub" in checks["image rubin"]["text"]
        assert checks["image raw"]["status"] == "fail" and "is not signed" in checks["image raw"]["text"]
        assert checks["image raw"]["fix"].startswith("`sublet image verify registry.test/ci/raw:v1 --pool raw`")
        assert checks["signatures"]["status"] == "warn" and "`signed = false` in bare:" in checks["signatures"]["text"]
        assert checks["image keys"]["text"].startswith("cosign.pub (SHA256:")
        assert checks["registry registry.test"]["status"] == "ok"
        images.revoke(service.db, digest, "it leaks", "ada", NOW)
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["image rubin"]["status"] == "fail" and "is revoked" in checks["image rubin"]["text"]
        registry.down = True
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["image rubin"]["status"] == "warn" and "Its jobs wait." in checks["image rubin"]["text"]


async def test_doctor_is_content_where_every_pool_asks_for_a_signature(service: Service) -> None:
    async with service.client(Role.VIEWER) as client:
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
    assert checks["signatures"] == {
        "name": "signatures",
        "status": "ok",
        "text": "Every pool asks for a signed image.",
        "fix": "",
    }


# --- what a guarded node is told

SESSION = "s" * 43


def at_work(service: Service, mode: Mode = Mode.GUARDED, state: State = State.BUSY) -> str:
    """The id of a lease whose node has a session."""
    lease = live_to(service.db, 21, "calm-ibex-21", State.LAUNCHING, NOW - 5 * MINUTE, mode=str(mode), join_hash="j" * 64)
    joined = nodes.join(service.db, lease.id, "j" * 64, hashed(SESSION), NOW - 4 * MINUTE, NOW + 60 * MINUTE)
    assert joined is nodes.Joined.JOINED
    at = NOW - 3 * MINUTE
    for step in list(State)[2:]:
        story.move(service.db, lease.id, step, at)
        if step is state:
            break
    return lease.id


async def asks(client: httpx.AsyncClient, reference: str) -> httpx.Response:
    return await client.post("/node/image", json={"reference": reference}, headers={"authorization": f"Bearer {SESSION}"})


async def test_a_guarded_job_gets_a_container_only_from_what_is_signed_and_only_by_digest(
    service: Service, rebuilt: Rebuilt
) -> None:
    registry = FakeRegistry(auth="bearer")
    digest = registry.image("ci/tools", "1")
    registry.sign("ci/tools", digest, KEY)
    registry.image("ci/raw", "1")
    lease_id = at_work(service)
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        reply = await asks(client, "registry.test/ci/tools:1")
        assert reply.status_code == 200 and reply.headers["cache-control"] == "no-store"
        told = reply.json()
        assert told["allowed"] and told["reference"] == f"registry.test/ci/tools@{digest}" and told["digest"] == digest
        assert told["manifests"] == [["amd64", digest, told["manifests"][0][2]]]
        assert [one["kind"] for one in told["signatures"]] == ["cosign tag"]
        assert registry.tokens[told["access"]["password"]] == "repository:ci/tools:pull"
        no = (await asks(client, "registry.test/ci/raw:1")).json()
        assert not no["allowed"] and "is not signed" in no["why"] and no["signatures"] == [] and no["access"] is None
        elsewhere = (await asks(client, "ubuntu:24.04")).json()
        assert not elsewhere["allowed"] and "docker.io is not among the registries" in elsewhere["why"]
    kept = images.asked_of(service.db, lease_id)
    assert [(one.asked, one.verdict.allowed) for one in kept] == [
        ("registry.test/ci/raw:1", False),
        ("registry.test/ci/tools:1", True),
        ("ubuntu:24.04", False),
    ]
    assert told["access"]["password"] not in str([to_json(one.verdict) for one in kept])
    async with service.client(Role.VIEWER, **PAGE) as client:
        page = (await client.get("/leases/calm-ibex-21")).text
    assert "Containers that its job asked for" in page and "registry.test/ci/raw:1" in page and "is not signed" in page


async def test_a_tag_means_one_digest_for_the_whole_lease(service: Service, rebuilt: Rebuilt) -> None:
    registry = FakeRegistry()
    digest = registry.image("ci/tools", "1")
    registry.sign("ci/tools", digest, KEY)
    at_work(service)
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        assert (await asks(client, "registry.test/ci/tools:1")).json()["digest"] == digest
        moved = registry.image("ci/tools", "1", seed="moved")
        registry.sign("ci/tools", moved, KEY)
        assert (await asks(client, "registry.test/ci/tools:1")).json()["digest"] == digest
        images.revoke(service.db, digest, "it leaks", "ada", NOW)
        no = (await asks(client, "registry.test/ci/tools:1")).json()
        assert not no["allowed"] and "was revoked: it leaks" in no["why"]


async def test_a_registry_that_is_away_means_ask_again(service: Service, rebuilt: Rebuilt) -> None:
    registry = FakeRegistry()
    registry.down = True
    lease_id = at_work(service)
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        reply = await asks(client, "registry.test/ci/tools:1")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "registry_away")
    assert 1 <= int(reply.headers["retry-after"]) <= 30
    assert images.asked_of(service.db, lease_id) == [], "nobody knows: so it is neither a yes nor a no"


@pytest.mark.parametrize("mode", [Mode.CONTAINED, Mode.BARE])
async def test_in_another_mode_no_container_is_allowed(service: Service, rebuilt: Rebuilt, mode: Mode) -> None:
    registry = FakeRegistry()
    registry.sign("ci/tools", registry.image("ci/tools", "1"), KEY)
    at_work(service, mode)
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        told = (await asks(client, "registry.test/ci/tools:1")).json()
    assert not told["allowed"] and f"The mode of this lease is {mode}" in told["why"] and registry.seen == []


async def test_a_pool_that_left_the_settings_trusts_nothing(service: Service, rebuilt: Rebuilt) -> None:
    registry = FakeRegistry()
    at_work(service)
    async with judged(service, registry, rebuilt, other=replace(guarded(), name="other")) as shown, shown.client() as client:
        told = (await asks(client, "registry.test/ci/tools:1")).json()
    assert not told["allowed"] and "is not in the settings any more" in told["why"]


async def test_one_lease_asks_for_fifty_images(service: Service, rebuilt: Rebuilt) -> None:
    registry = FakeRegistry()
    lease_id = at_work(service)
    for number in range(images.MOST_ASKED):
        images.remember(service.db, lease_id, f"registry.test/ci/{number}:1", UNSIGNED, NOW)
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        told = (await asks(client, "registry.test/ci/one-more:1")).json()
        assert not told["allowed"] and "has asked for 50 images" in told["why"] and registry.seen == []
        assert (await asks(client, "registry.test/ci/7:1")).json()["allowed"] is False and registry.seen != []


@pytest.mark.parametrize(
    "body", [{}, {"reference": ""}, {"reference": "a b"}, {"reference": "x" * 601}, {"reference": "a", "b": 1}]
)
async def test_a_question_that_is_none_is_refused(service: Service, body: dict[str, object]) -> None:
    at_work(service)
    async with service.client(authorization=f"Bearer {SESSION}") as client:
        assert (await client.post("/node/image", json=body)).status_code == 422


async def test_whoever_has_no_session_or_whose_lease_ends_asks_for_nothing(service: Service) -> None:
    async with service.client() as client:
        assert (await asks(client, "registry.test/ci/tools:1")).status_code == 401
        at_work(service, state=State.DRAINING)
        assert (await asks(client, "registry.test/ci/tools:1")).status_code == 410


async def test_only_good_signatures_of_the_machines_platform_are_sent(service: Service, rebuilt: Rebuilt) -> None:
    """The agent takes every signature that it is sent for one that must hold, so it is sent none of another platform."""
    registry = FakeRegistry()
    index = registry.index("ci/tools", "1")
    amd64, arm64 = registry.platforms("ci/tools", index)
    for digest in (amd64, arm64):
        registry.sign("ci/tools", digest, SigningKey("stranger.pub"))
        registry.sign("ci/tools", digest, KEY)
    lease_id = at_work(service)
    assert lease_id and story.OFFER.get("architecture") is None
    async with judged(service, registry, rebuilt, rubin=guarded()) as shown, shown.client() as client:
        told = (await asks(client, "registry.test/ci/tools:1")).json()
    assert told["allowed"] and {one["digest"] for one in told["signatures"]} == {amd64, arm64}, "nobody knows the platform"
    assert all(one["key"] == KEY.public.pem for one in told["signatures"])


def test_the_verdict_of_the_story_is_one() -> None:
    assert IMAGE.allowed and not UNSIGNED.allowed and UNSIGNED.code == "unsigned"
