"""Ways out of a guarded job, tried on a real engine through the real guard: rights, mounts, namespaces, others' containers."""

from __future__ import annotations

import json
import threading
from typing import Any

import psutil
import pytest

from tests.node.guarded import Reply, Ward


def test_a_verified_image_runs_and_everything_about_it_works(ward: Ward) -> None:
    """So that what follows is refused for its own reason."""
    (ward.job / "in").write_text("from the job's folder\n")
    container = ward.started({"Binds": [f"{ward.job}:/task"]}, Cmd=["sh", "-c", "cat /task/in; echo x >/task/out; sleep 600"])
    found = ward.ask("GET", f"/containers/{container}/json").body
    assert found["State"]["Running"] and found["HostConfig"]["Runtime"] == "sublet"
    run = ward.ask("POST", f"/containers/{container}/exec", {"Cmd": ["cat", "/task/out"], "AttachStdout": True})
    told = ward.ask("POST", f"/exec/{run.body['Id']}/start", {"Detach": False})
    assert told.raw.endswith(b"x\n")
    assert b"from the job's folder" in ward.ask("GET", f"/containers/{container}/logs", stdout="1").raw
    ward.remove(container)
    guard, waiting = psutil.Process(ward.keeper.pid), threading.Event()
    while [one for one in guard.children() if one.status() == psutil.STATUS_ZOMBIE]:
        waiting.wait(0.02)  # what each container leaves behind is collected


# 1 privileged


@pytest.mark.parametrize(
    "body",
    [
        {"HostConfig": {"Privileged": True}},
        {"hostconfig": {"pRIVILEGED": True}},
        {"HostConfig": {"NetworkMode": "none"}, "Privileged": True},  # the engine takes it at the top, too
        {"Privileged": True},
        {"HostConfig": {"Privileged": False, "privileged": True}},  # of two, the engine takes the last
        {"HostConfig": {}, "hostconfig": {"Privileged": True}},
        {"Ho\u017ftConfig": {"Privileged": True}},  # Go folds the long s onto s
        {"HostConfig": {"CapAdd": ["SYS_ADMIN"]}},
        {"HostConfig": {"CapAdd": ["all"]}},
        {"HostConfig": {"SecurityOpt": ["seccomp=unconfined"]}},
        {"HostConfig": {"SecurityOpt": ["apparmor:unconfined"]}},
        {"HostConfig": {"SecurityOpt": ["no-new-privileges=false"]}},
        {"HostConfig": {"MaskedPaths": []}},
        {"HostConfig": {"ReadonlyPaths": []}},
        {"HostConfig": {"Devices": [{"PathOnHost": "/dev/sda", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]}},
        {"HostConfig": {"DeviceCgroupRules": ["a *:* rwm"]}},
        {"HostConfig": {"Sysctls": {"kernel.core_pattern": "|/x"}}},
        {"HostConfig": {"Runtime": "runc"}},
        {"HostConfig": {"Runtime": "io.containerd.runc.v2"}},
        {"HostConfig": {"CgroupParent": "/"}},
        {"HostConfig": {"Annotations": {"org.systemd.property.ExecStart": "x"}}},
        {"HostConfig": {"OomScoreAdj": -1000}},
        {"HostConfig": {"SomethingNew": True}},
        {"SomethingNew": ["x"]},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_privileged_and_whatever_comes_near(ward: Ward, body: dict[str, Any]) -> None:
    reply = ward.ask("POST", "/containers/create", {"Image": ward.image.reference, "Cmd": ["id"], **body})
    assert reply.refused, reply


def test_a_privileged_exec(ward: Ward) -> None:
    container = ward.started()
    for body in ({"Cmd": ["id"], "Privileged": True}, {"Cmd": ["id"], "privileged": True}):
        assert "privileged exec" in ward.ask("POST", f"/containers/{container}/exec", body).refused
    ward.remove(container)


# 2 host mounts


def test_host_mounts_however_they_are_written(ward: Ward) -> None:
    outside = ward.folder / "secret"
    outside.mkdir(exist_ok=True)
    (ward.job / "link").symlink_to("/etc")
    (ward.job / "deep/er").mkdir(parents=True)
    (ward.job / "turn").symlink_to(ward.job / "deep/er")
    wrong = [
        "/",
        "/etc",
        "/var/run/docker.sock",
        str(ward.folder / "engine/engine.sock"),
        str(outside),
        f"{ward.job}/../secret",
        f"{ward.job}/turn/../../secret",  # the kernel follows the link first, the engine cleans the path first
        f"{ward.job}/link",
        f"{ward.job}/link/ssh",
        f"{ward.job}/./",
        f"//{str(ward.job)[1:]}",
        f"{ward.job}2",
        "/proc/self/root",
    ]
    for path in wrong:
        for host in (
            {"Binds": [f"{path}:/x"]},
            {"Binds": [f"{path}:/x:ro"]},
            {"Mounts": [{"Type": "bind", "Source": path, "Target": "/x"}]},
            {"Mounts": [{"Type": "bind", "Source": path, "Target": "/x", "ReadOnly": True}]},
        ):
            assert ward.create(host).refused, host
    hook = str(ward.folder / "hook")
    assert ward.create({"Binds": [f"{hook}:/x"]}).refused and ward.create({"Binds": [f"{hook}:/x:rw"]}).refused
    ward.remove(ward.started({"Binds": [f"{hook}:/x:ro"]}))


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["JOB:/x:shared"]},
        {"Binds": ["JOB:/x:z"]},
        {"Binds": ["../etc:/x"]},
        {"Binds": ["JOB"]},
        {"Binds": [7]},
        {"Binds": "JOB:/x"},
        {"Mounts": [{"Type": "bind", "Source": "JOB", "Target": "/x", "BindOptions": {"Propagation": "rshared"}}]},
        {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": {"DriverConfig": {"Name": "nfs"}}}]},
        {
            "Mounts": [
                {
                    "Type": "volume",
                    "Target": "/x",
                    "VolumeOptions": {
                        "DriverConfig": {"Name": "local", "Options": {"o": "bind", "device": "/", "type": "none"}}
                    },
                }
            ]
        },
        {"Mounts": [{"Type": "image", "Source": "x", "Target": "/x"}]},
        {"Mounts": [{"Type": "npipe", "Source": "x", "Target": "/x"}]},
        {"Mounts": [{"Type": "bind", "Source": "JOB", "Target": "/x", "VolumeOptions": {"DriverConfig": {"Name": "x"}}}]},
        {"VolumeDriver": "flocker"},
        {"VolumesFrom": ["nobody"]},
    ],
    ids=lambda host: json.dumps(host)[:60],
)
def test_mounts_with_tricks(ward: Ward, host: dict[str, Any]) -> None:
    assert ward.create(json.loads(json.dumps(host).replace("JOB", str(ward.job)))).refused


def test_a_volume_that_is_a_folder_of_the_host(ward: Ward) -> None:
    options = {"type": "none", "o": "bind", "device": "/"}
    for body in (
        {"Name": "host", "Driver": "local", "DriverOpts": options},
        {"Name": "host", "driveropts": options},
        {"Name": "host", "Driver": "vieux/sshfs"},
        {"Name": "host", "ClusterVolumeSpec": {"Group": "x"}},
        {"Name": "../host"},
    ):
        assert ward.ask("POST", "/volumes/create", body).refused, body
    assert ward.ask("POST", "/volumes/create", {"Name": "mine", "Driver": "local", "Labels": {"a": "b"}}).status == 201


def test_a_link_that_moves_between_the_look_and_the_mount(ward: Ward) -> None:
    """The guard sees a folder of the job; the engine would mount what the link is then. The second look refuses it."""
    moving = ward.job / "moving"
    moving.mkdir()
    container = ward.made({"Binds": [f"{moving}:/host"]}, Cmd=["sh", "-c", "ls /host; sleep 600"])
    over = threading.Event()

    def swap() -> None:
        good, bad = ward.job / "good", ward.job / "bad"
        good.symlink_to(ward.job / "deep-down")
        while not over.is_set():
            for target in ("/", str(ward.job)):
                bad.unlink(missing_ok=True)
                bad.symlink_to(target)
                bad.replace(moving)

    moving.rmdir()
    moving.symlink_to(ward.job)
    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: list[Reply] = []
    try:
        for _ in range(3):
            seen.append(ward.ask("POST", f"/containers/{container}/start"))
            inside = ward.ask("POST", f"/containers/{container}/exec", {"Cmd": ["ls", "/host"], "AttachStdout": True})
            if inside.status == 201:
                told = ward.ask("POST", f"/exec/{inside.body['Id']}/start", {"Detach": False}).raw
                assert b"proc" not in told
            ward.ask("POST", f"/containers/{container}/kill")
    finally:
        over.set()
        swapping.join()
    ward.remove(container)


def test_what_the_runtime_mounted_counts(ward: Ward) -> None:
    """The same without chance: the agent makes a container that sees the host, and even it is not started."""
    body = {"Image": ward.image.reference, "Cmd": ["id"], "HostConfig": {"NetworkMode": "none", "Binds": ["/etc:/x"]}}
    made = ward.agent("POST", "/containers/create", body)
    assert made.status == 201
    reply = ward.agent("POST", f"/containers/{made.body['Id']}/start")
    assert reply.status >= 400 and "Sublet refuses to start it: /x is /etc of the host" in reply.message
    for host, why in (({"CapAdd": ["NET_ADMIN"]}, "more capabilities"), ({"PidMode": "host"}, "pid namespace")):
        made = ward.agent("POST", "/containers/create", {**body, "HostConfig": {"NetworkMode": "none", **host}})
        reply = ward.agent("POST", f"/containers/{made.body['Id']}/start")
        assert why in reply.message, reply


# 3 host namespaces


@pytest.mark.parametrize(
    "host",
    [
        {"NetworkMode": "host"},
        {"NetworkMode": "container:AGENT"},
        {"NetworkMode": "container:nobody"},
        {"NetworkMode": "nobody"},
        {"PidMode": "host"},
        {"PidMode": "container:AGENT"},
        {"IpcMode": "host"},
        {"IpcMode": "container:AGENT"},
        {"UTSMode": "host"},
        {"UsernsMode": "host"},
        {"CgroupnsMode": "host"},
        {"Cgroup": "container:AGENT"},
        {"VolumesFrom": ["AGENT"]},
        {"Links": ["AGENT:x"]},
    ],
    ids=str,
)
def test_namespaces_of_the_host_and_of_others(ward: Ward, host: dict[str, Any]) -> None:
    assert ward.create(json.loads(json.dumps(host).replace("AGENT", ward.runner[0]))).refused


def test_the_host_network_under_another_name(ward: Ward) -> None:
    host = next(one for one in ward.ask("GET", "/networks").body if one["Name"] == "host")
    assert ward.create({"NetworkMode": host["Id"]}).refused
    assert ward.create({"NetworkMode": host["Id"][:12]}).refused
    for body in (
        {"Name": "h", "Driver": "host"},
        {"Name": "h", "Driver": "macvlan", "Options": {"parent": "eth0"}},
        {"Name": "h", "Driver": "bridge", "Options": {"com.docker.network.bridge.name": "eth0"}},
        {"Name": "h", "IPAM": {"Config": [{"Subnet": "169.254.169.0/24"}]}},
        {"Name": "h", "ConfigFrom": {"Network": "x"}},
        {"Name": "h", "Scope": "swarm"},
    ):
        assert ward.ask("POST", "/networks/create", body).refused, body
    container = ward.made({"NetworkMode": "none"})
    assert ward.ask("POST", "/networks/host/connect", {"Container": container}).refused
    endpoint: dict[str, Any] = {"EndpointsConfig": {"host": {}}}
    assert ward.create(NetworkingConfig=endpoint).refused
    ward.remove(container)


# 12 exec into somebody else's container


def test_somebody_elses_container_is_not_touched(ward: Ward) -> None:
    name, whole = ward.runner
    run = ward.agent("POST", f"/containers/{name}/exec", {"Cmd": ["id"]}).body["Id"]
    for there in (name, whole, whole[:12], whole[:2]):
        for method, path in (
            ("POST", "exec"),
            ("POST", "attach"),
            ("POST", "start"),
            ("POST", "stop"),
            ("POST", "kill"),
            ("POST", "restart"),
            ("POST", "pause"),
            ("POST", "rename?name=mine"),
            ("POST", "resize?h=1&w=1"),
            ("POST", "wait"),
            ("GET", "json"),
            ("GET", "logs?stdout=1"),
            ("GET", "top"),
            ("GET", "stats?stream=0"),
            ("GET", "changes"),
        ):
            body = {"Cmd": ["id"]} if path == "exec" else None
            assert "not a container of this job" in ward.ask(method, f"/containers/{there}/{path}", body).refused, path
        assert ward.ask("DELETE", f"/containers/{there}?force=1").refused
    for method, path, body in (
        ("POST", f"/exec/{run}/start", {"Detach": True}),
        ("POST", f"/exec/{run}/resize?h=1&w=1", None),
        ("GET", f"/exec/{run}/json", None),
    ):
        assert "not in one of this job's" in ward.ask(method, path, body).refused
    for new in (whole[:3], whole[:12]):  # so that it could be taken for the other's id
        body = {"Image": ward.image.reference, "Cmd": ["id"]}
        assert "not a container of this job" in ward.ask("POST", "/containers/create", body, name=new).refused
    assert ward.agent("GET", f"/containers/{whole}/json").body["State"]["Running"]
