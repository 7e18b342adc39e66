"""A web without an engine, and an engine without a web: what each answers, and what it says of the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
from fastapi import FastAPI

from app.store import replicas
from app.store.people import Role
from app.store.replicas import Replica
from app.web.app import build, build_probe
from tests.web.conftest import NOW, URL, Service

ENGINE = Replica("engine-a", "engine", "1.2.3", NOW - timedelta(hours=1), NOW, NOW)
WEB = Replica("web-b", "web", "1.2.3", NOW - timedelta(hours=1), NOW)


def asking(service: Service, app: FastAPI | None = None) -> httpx.AsyncClient:
    """A client of a web that has no engine in its process."""
    transport = httpx.ASGITransport(app or build(replace(service.parts, engine_beat=None, replica="web-b")))
    headers = {"authorization": f"Bearer {service.tokens[Role.ADMIN]}"}
    return httpx.AsyncClient(transport=transport, base_url=URL, headers=headers)


async def test_a_web_says_whether_any_engine_is_at_work_and_takes_deliveries_all_the_same(service: Service) -> None:
    async with asking(service) as client:
        reply = await client.get("/readyz")
        assert (reply.status_code, reply.json()["ok"], reply.json()["engine"], reply.json()["engines"]) == (200, True, False, 0)
        replicas.tell(service.db, ENGINE)
        assert (await client.get("/readyz")).json()["engine"] is True
        service.clock.advance(20)
        told = (await client.get("/readyz")).json()
        assert (told["engine"], told["replica"]) == (False, "web-b")


async def test_doctor_and_metrics_show_every_process(service: Service) -> None:
    replicas.tell(service.db, ENGINE)
    replicas.tell(service.db, replace(WEB, note="Its machine's clock is 2 h ahead of the database's, which counts."))
    async with asking(service) as client:
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["engine"]["status"] == "ok" and "1 is at work" in checks["engine"]["text"]
        assert "engine, 1.2.3, up 1" in checks["replica engine-a"]["text"]
        assert checks["replica web-b"]["status"] == "warn" and "2 h ahead" in checks["replica web-b"]["text"]
        page = (await client.get("/health-page", headers={"accept": "text/html"})).text
        assert "replica engine-a" in page
        metrics = (await client.get("/metrics")).text
        assert 'sublet_replicas{role="engine",version="other"} 1.0' in metrics, "of another version than this one"
        assert 'sublet_replica_age_seconds{role="all"} -1.0' in metrics
        service.clock.advance(60)
        checks = {one["name"]: one for one in (await client.get("/api/v1/doctor")).json()["checks"]}
        assert checks["engine"]["status"] == "fail" and "sublet up --role engine" in checks["engine"]["fix"]
        assert "silent" in checks["replica engine-a"]["text"]
        assert 'sublet_replicas{role="engine",version="other"} 0.0' in (await client.get("/metrics")).text


async def test_an_engine_shows_its_health_and_nothing_else(service: Service) -> None:
    app = build_probe(service.parts)
    async with asking(service, app) as client:
        codes = {
            path: (await client.get(path)).status_code for path in ("/healthz", "/metrics", "/", "/queue", "/api/v1/whoami")
        }
        assert codes == {"/healthz": 200, "/metrics": 200, "/": 404, "/queue": 404, "/api/v1/whoami": 404}
        assert (await client.post("/hooks/github", content=b"{}")).status_code == 404
        assert (await client.get("/readyz")).status_code in (200, 503)
        assert (await client.get("/healthz")).headers["x-content-type-options"] == "nosniff"
