"""Ways out of a guarded job: images that nobody has verified, however they come, and GPUs that nobody asked for."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.node.guarded import Ward

# 4 an image named by a local id, and images that nobody has verified


def test_an_image_by_a_local_id_or_under_a_borrowed_name(ward: Ward) -> None:
    """What is on the engine is not what was verified, whatever it is called."""
    other = ward.push("ci/other", "v1", what="another")
    ward.keeper.engine.pull(other.reference, None)
    local = ward.keeper.engine.image(other.reference)
    assert local is not None and local["Id"] == other.config
    for name in (other.config, other.config[7:], other.config[7:19], other.reference, f"{other.repository}:v1"):
        reply = ward.create(Image=name)
        assert reply.refused, name
    assert "Name it as registry/repository:tag" in ward.create(Image=other.config[7:19]).refused
    ward.agent("POST", f"/images/{other.config}/tag", repo=f"{ward.registry.host}/ci/tools", tag="v9")
    ward.allow(f"{ward.registry.host}/ci/tools:v9", ward.image)
    assert "is not the one that was verified" in ward.create(Image=f"{ward.registry.host}/ci/tools:v9").refused
    ward.remove(ward.made(Image=ward.image.config))  # by its id, and verified: as GitLab's runner does


def test_a_tag_that_moves_after_its_verification(ward: Ward) -> None:
    """The service has seen the old digest; the engine pulls the new one: it is there, and does not run."""
    name = f"{ward.registry.host}/ci/moving:v1"
    signed = ward.push("ci/moving", "v1", what="signed")
    ward.allow(name, signed)
    ward.push("ci/moving", "v1", what="evil")
    pulled = ward.ask("POST", "/images/create", fromImage=name.rpartition(":")[0], tag="v1")
    assert pulled.status == 200 and b"error" not in pulled.raw
    assert "its tag was moved" in ward.create(Image=name).refused
    again = ward.ask("POST", "/images/create", fromImage=name.rpartition(":")[0], tag=signed.digest)
    assert again.refused == f"The image {signed.reference} may not run here: nobody has signed it."


def test_a_pull_of_what_is_not_verified(ward: Ward) -> None:
    before = len(ward.asked)
    other = ward.push("ci/never", "v1", what="never")
    for query in (
        {"fromImage": other.repository, "tag": "v1"},
        {"fromImage": other.repository, "tag": other.digest},
        {"fromImage": f"{other.repository}:v1"},
        {"fromImage": other.reference},
        {"fromImage": f"{ward.image.repository}:v1", "tag": "v2"},
        {"fromImage": other.repository},
        {"fromImage": ""},
        {"fromImage": "Not A Name", "tag": "v1"},
    ):
        assert ward.ask("POST", "/images/create?" + urlencode(query)).refused, query
    assert ward.asked[before:] == [
        f"{other.repository}:v1",
        other.reference,
        f"{ward.image.repository}:v2",
    ]  # each name once, and none that is no name
    assert ward.keeper.engine.image(other.reference) is None


# 5 load, 6 commit, 7 build, and their like


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/images/load"),
        ("POST", "/images/create?fromSrc=-&repo=x&tag=y"),
        ("POST", "/images/create?fromImage=x&fromSrc=-&tag=y"),
        ("GET", "/images/x/get"),
        ("GET", "/images/get?names=x"),
        ("POST", "/images/x/push"),
        ("POST", "/commit?container=OWN&repo=x"),
        ("POST", "/build?remote=http://evil.example/"),
        ("POST", "/build"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("PUT", "/containers/OWN/archive?path=/"),
        ("GET", "/containers/OWN/archive?path=/"),
        ("HEAD", "/containers/OWN/archive?path=/"),
        ("GET", "/containers/OWN/export"),
        ("POST", "/containers/OWN/copy"),
        ("POST", "/containers/OWN/update"),
        ("POST", "/containers/OWN/checkpoints"),
        ("POST", "/containers/OWN/start?checkpoint=x&checkpoint-dir=/"),
        ("GET", "/containers/OWN/attach/ws"),
        ("GET", "/containers/OWN/top?ps_args=e"),
        ("GET", "/plugins"),
        ("POST", "/plugins/pull?remote=x&name=x"),
        ("POST", "/plugins/sublet/disable"),
        ("POST", "/swarm/init"),
        ("POST", "/services/create"),
        ("POST", "/secrets/create"),
        ("GET", "/distribution/169.254.169.254/x/json"),
        ("GET", "/images/search?term=x"),
        ("GET", "/debug/pprof/heap"),
        ("GET", "/metrics"),
        ("POST", "/containers/json"),
        ("DELETE", "/containers/create"),
    ],
)
def test_other_ways_to_bring_in_or_take_out(ward: Ward, method: str, path: str) -> None:
    """Refused, or not there at all on this engine: then it answers by itself, without having done anything."""
    container = ward.made()
    reply = ward.ask(method, path.replace("OWN", container), headers={"Content-Type": "application/json"})
    known = reply.status not in (404, 405)
    assert reply.refused or method == "HEAD" or not known, reply
    assert reply.status >= 400
    ward.remove(container)


# GPUs


def request(**values: Any) -> dict[str, Any]:
    return {
        "DeviceRequests": [{"Driver": "", "Count": 0, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}, **values}]
    }


def device(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


@pytest.mark.parametrize(
    "host",
    [
        request(Count=-1),
        request(Count=1),
        request(Count=2),
        request(DeviceIDs=["0", "1"]),
        request(DeviceIDs=["GPU-3faa8e21-1111-2222-3333-444444444444"]),
        request(Driver="cdi", DeviceIDs=["nvidia.com/gpu=all"], Capabilities=[]),
        request(Driver="cdi", DeviceIDs=["nvidia.com/gpu=0", "nvidia.com/gpu=1"], Capabilities=None),
        {"Devices": [device("/dev/nvidia0"), device("/dev/nvidiactl"), device("/dev/nvidia-uvm")]},
    ],
    ids=lambda host: json.dumps(host)[:70],
)
def test_the_gpus_that_were_asked_for(ward: Ward, host: dict[str, Any]) -> None:
    """Two GPUs of this lease. There is no driver here, so the engine says so at the start: it was let through."""
    reply = ward.create(host)
    assert reply.status == 201, reply
    assert not ward.ask("POST", f"/containers/{reply.body['Id']}/start").refused
    ward.remove(reply.body["Id"])


@pytest.mark.parametrize(
    "host",
    [
        request(Count=3),
        request(Count=-2),
        request(Count=True),
        request(DeviceIDs=["0", "1", "2"]),
        request(DeviceIDs=["/dev/sda"]),
        request(Driver="other", Count=1),
        request(Count=1, Options={"visible": "all"}),
        request(Count=1, Capabilities=[["gpu", "sys_admin"]]),
        request(Driver="cdi", DeviceIDs=["vendor.com/device=all"]),
        request(Driver="cdi", DeviceIDs=["nvidia.com/gpu=0", "vendor.com/nic=0"]),
        {"DeviceRequests": request(Count=2)["DeviceRequests"] * 2},
        {"DeviceRequests": "all"},
        {"Devices": [device(f"/dev/nvidia{number}") for number in range(3)]},
        {"Devices": [device("/dev/nvidia0/../sda")]},
        {"Devices": [device("/dev/kmsg")]},
        {"Devices": [device("/dev")]},
        {"Devices": ["/dev/nvidia0"]},
        {"Runtime": "nvidia"},  # not on this machine
    ],
    ids=lambda host: json.dumps(host)[:70],
)
def test_more_gpus_and_other_devices(ward: Ward, host: dict[str, Any]) -> None:
    assert ward.create(host).refused


@pytest.mark.parametrize(
    "variable", ["LD_PRELOAD=/proc/self/cwd/x.so", "LD_AUDIT=x", "LD_LIBRARY_PATH=/proc/self/cwd", "LD_LIBRARY_PATH=JOB"]
)
def test_libraries_of_the_job_do_not_reach_the_vendors_hook(ward: Ward, variable: str) -> None:
    variable = variable.replace("JOB", str(ward.job))
    assert "not taken together with GPUs" in ward.create(request(Count=1), Env=[variable]).refused
    ward.remove(ward.made(Env=[variable]), ward.made(request(Count=1), Env=["LD_LIBRARY_PATH=/usr/local/cuda/lib64"]))
