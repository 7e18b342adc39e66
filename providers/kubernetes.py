"""A lease as one Pod of a Kubernetes cluster: CoreWeave's, a partner's, or your own.

The Pod asks for GPUs, runs once, in a restricted security context, and carries its hard end itself (`activeDeadlineSeconds`).
Its start-up script lies in a Secret that belongs to the Pod and goes with it. Its name is the lease's tag, so a second one
cannot be made; its id is name and uid, so that a later Pod of the same name is never taken for it, or ended in its place.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from providers.clock import SYSTEM, Clock
from providers.contract import (
    BootsFrom,
    Health,
    Instance,
    Need,
    NoCapacity,
    Offer,
    Order,
    Phase,
    Profile,
    ProviderError,
    Reach,
    Refused,
    Traits,
    Unclear,
    guarded,
    vet,
)
from providers.http import table, tables
from providers.kubernetes_offers import Node, availability, discovered, made, nodes_of, told_by
from providers.kubernetes_pods import KEY, MANAGED, OWNER, TAG, instance_of, name_of, pod_of, secret_of
from providers.kubernetes_settings import KubernetesSettings, Shape, shapes_of
from providers.kubernetes_wire import Cluster, Forbidden

POD = re.compile(r"(?P<name>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?):(?P<uid>[A-Za-z0-9-]{8,64})")
FOUND = re.compile(r"(?P<product>[^/]+)/x(?P<size>\d{1,3})/(?P<architecture>[a-z0-9]+)/(?P<region>[^/]+)")
PAGES = 500
OURS = f"{MANAGED}=sublet"
PROFILE = Profile(
    hardware="whatever the cluster's nodes have; CoreWeave's documents name GB300",
    footprint="where the cluster stands",
    residency="the cluster's nodes; its operator says more",
    pricing="the cluster tells no prices: the settings do",
    preemption="higher priorities, drains and the kubelet; shown as DisruptionTarget, after the pod's grace period",
    proven_against="vendor model: kubernetes-asyncio 36.1 with an API server of our own, whose bodies its models check",
    source="Kubernetes 1.36's API as in kubernetes-asyncio's models",
)


class KubernetesProvider:
    """See the module. An instance's id is NAME:UID of its Pod."""

    Settings = KubernetesSettings

    def __init__(self, name: str, settings: KubernetesSettings, *, clock: Clock = SYSTEM) -> None:
        self.name = name
        self.settings = settings
        self._clock = clock
        self._shapes = shapes_of(settings)
        self.traits = Traits(
            billing_granularity=settings.billing_granularity,
            billing_minimum=settings.billing_minimum,
            currency=settings.currency,
            spot=any(shape.spot for shape in self._shapes.values()),
            boots_from=BootsFrom.CONTAINER_IMAGE,
            own_hardware=settings.own,
            idempotent_create=True,
            unique_names=True,
            knows_at_once=True,  # get and list read etcd with a quorum: no resourceVersion is given
            unknown_window=timedelta(seconds=90),  # the API server's own limit for a request is 60 s
            user_data_limit=512 * 1024,  # a Secret holds 1 MiB in all
            tag_limit=63,
            dead_man_switch=True,
            offers_every=timedelta(seconds=15),
            profile=PROFILE,
            notes={"isolation": "a container on a shared kernel, restricted: no privileges, no account of the cluster"},
        )
        self._cluster = Cluster(settings, title=f"cluster {name}", clock=clock)

    async def offers(self, need: Need) -> Sequence[Offer]:
        """The settings' offers, and those that the nodes make where `prices` names their GPU."""
        with guarded("kubernetes offers"):
            nodes = await self._nodes()
            shapes = [told_by(shape, nodes) for shape in self._shapes.values()]
            return [self._offer(shape, nodes) for shape in (*shapes, *discovered(nodes or [], self.settings))]

    async def create(self, order: Order) -> Instance:
        """The Pod, and then its Secret: until that is there no node starts it. Asked again, it completes a half-made one."""
        with guarded("kubernetes create", maybe_created=True):
            vet(order, self.traits)
            shape, now = self._shape(order.offer), self._clock.now()
            body = pod_of(order, shape, self.settings, now)
            secret_of(order, "", self.settings)  # refuses what cannot be, before anything is there
            if no := await self._no_room(shape):
                pod = await self._pod(name_of(order.tag))  # it may be what fills the node
                if pod is None:
                    raise NoCapacity(no, reach=Reach.REGION)
                self._is_ours(order, pod)
            else:
                pod = await self._made(order, body)
            instance = self._instance(pod)
            if instance.phase is Phase.STARTING:
                await self._hand_over(order, str(table(pod["metadata"])["uid"]))
            return instance

    async def get(self, instance_id: str) -> Instance | None:
        """None for a 404 of the API server itself, and for a Pod of the same name with another uid: that one is gone."""
        with guarded("kubernetes get"):
            known = POD.fullmatch(instance_id)
            if known is None:
                return None
            pod = await self._pod(known["name"])
            return self._instance(pod) if pod is not None and table(pod["metadata"])["uid"] == known["uid"] else None

    async def owned(self, owner: str) -> Sequence[Instance]:
        with guarded("kubernetes owned"):
            rows = await self._pods(f"{OURS},{OWNER}={owner}")
            mine = [row for row in rows if table(table(row["metadata"]).get("labels") or {}).get(OWNER) == owner]
            return [self._instance(row) for row in mine]

    async def destroy(self, instance_id: str) -> None:
        """Asks for the end of this very Pod. Its Secret goes with it."""
        with guarded("kubernetes destroy"):
            known = POD.fullmatch(instance_id)
            if known is not None:
                await self._delete(known["name"], known["uid"])

    async def check(self) -> Health:
        """The login, the namespace, and whether nodes may be seen."""
        try:
            with guarded("kubernetes check"):
                _, version = await self._cluster.read("get_code", api="VersionApi")
                await self._cluster.read("list_namespaced_pod", self.settings.namespace, limit=1)
                nodes = await self._nodes()
        except ProviderError as error:
            return Health(False, str(error))
        facts = {"version": str(version.get("gitVersion", ""))[:50], "namespace": self.settings.namespace}
        facts["nodes"] = (
            "not to be seen with this key" if nodes is None else f"{sum(n.ready for n in nodes)} of {len(nodes)} ready"
        )
        unpriced = {product for node in nodes or () if (product := node.labels.get("nvidia.com/gpu.product", ""))}
        if unpriced := sorted(unpriced - self.settings.prices.keys() - {shape.gpu for shape in self._shapes.values()}):
            facts["without a price"] = ", ".join(unpriced)[:300]
        return Health(True, f"the cluster answers, and pods may be listed in {self.settings.namespace}", facts)

    async def aclose(self) -> None:
        await self._cluster.aclose()

    async def _no_room(self, shape: Shape) -> str:
        """A sentence if no node has room: such a Pod would wait for ever. Empty where that cannot be told."""
        if self.settings.autoscaled or not self.settings.list_nodes:
            return ""
        nodes = await self._nodes()
        if nodes is None or any(node.has_room(shape) for node in nodes):
            return ""
        fit = sum(node.carries(shape) for node in nodes)
        return f"{fit} of {len(nodes)} nodes could carry {shape.name}, and none has room"

    async def _nodes(self) -> list[Node] | None:
        """None where nodes are not to be listed."""
        if not self.settings.list_nodes:
            return None
        try:
            rows = await self._pages("list_node")
        except Forbidden:
            return None  # nodes belong to the whole cluster, and the key to a namespace of it
        return nodes_of(rows, await self._pods(OURS))

    async def _pods(self, selector: str) -> list[Mapping[str, Any]]:
        return await self._pages("list_namespaced_pod", self.settings.namespace, label_selector=selector)

    async def _pages(self, verb: str, *words: str, **rest: Any) -> list[Mapping[str, Any]]:
        """Every page. Where the list's token has run out (410), from the beginning again, once."""
        for _ in range(2):
            rows, token = list[Mapping[str, Any]](), ""
            for _ in range(PAGES):
                more = {"_continue": token} if token else {}
                status, page = await self._cluster.read(
                    verb, *words, limit=self.settings.page_size, accept=(410,), **more, **rest
                )
                if status == 410:
                    break
                rows += tables(page["items"])
                token = str(table(page["metadata"]).get("continue") or "")
                if not token:
                    return rows
            else:
                raise Unclear(f"{verb}: more than {PAGES} pages", maybe_created=False)
        raise Unclear(f"{verb}: the list changed faster than it could be read", maybe_created=False)

    async def _pod(self, name: str) -> Mapping[str, Any] | None:
        status, pod = await self._cluster.read("read_namespaced_pod", name, self.settings.namespace, accept=(404,))
        if status != 404:
            return table(pod)
        if pod.get("reason") == "NotFound" and table(pod.get("details") or {}).get("kind") == "pods":
            return None
        raise Unclear("the 404 is not about the pod", maybe_created=False)

    async def _made(self, order: Order, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The Pod, made now, or by an earlier call of this attempt."""
        verb, place = "create_namespaced_pod", self.settings.namespace
        status, said = await self._cluster.call(verb, place, accept=(409,), creates=True, body=body)
        if status != 409:
            return table(said)
        if said.get("reason") != "AlreadyExists":  # a resource quota that two creates changed at once, for one
            raise self._cluster.error(verb, 409, said)
        pod = await self._pod(name_of(order.tag))
        if pod is None:
            raise Unclear(f"pod {order.tag} was there and is gone", maybe_created=False)
        self._is_ours(order, pod)
        return pod

    def _is_ours(self, order: Order, pod: Mapping[str, Any]) -> None:
        """Raises if the Pod of this name is not what is asked for."""
        metadata = table(pod["metadata"])
        labels, notes = table(metadata.get("labels") or {}), table(metadata.get("annotations") or {})
        if labels.get(OWNER) != order.owner or notes.get(TAG) != order.tag:
            raise Refused(f"the name {order.tag} is taken by a pod that is not ours")
        if notes.get(KEY) != order.key:
            raise Unclear(f"a pod {order.tag} of another attempt is there")

    async def _hand_over(self, order: Order, uid: str) -> None:
        """The script and the login. A definite no takes the Pod back; a doubtful one leaves it to be found."""
        try:
            body = secret_of(order, uid, self.settings)
            await self._cluster.call(
                "create_namespaced_secret", self.settings.namespace, accept=(409,), creates=True, body=body
            )
        except Refused as error:
            await self._delete(name_of(order.tag), uid)
            raise Refused(str(error), why=error.why) from None
        except ProviderError as error:  # also when we are to wait: the Pod is there
            raise Unclear(f"the pod is there, and its script may not be: {error}", maybe_created=True) from None

    async def _delete(self, name: str, uid: str) -> None:
        """A 404 says that it is gone, a 409 that another Pod has the name now."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._cluster.read("delete_namespaced_pod", name, self.settings.namespace, accept=(404, 409), body=body)

    def _shape(self, offer: Offer) -> Shape:
        """What an offer's id means, also after a restart."""
        if offer.id in self._shapes:
            return self._shapes[offer.id]
        found = FOUND.fullmatch(offer.id)
        if found is None or found["product"] not in self.settings.prices:
            raise NoCapacity(f"{offer.id[:100]} is not offered any more")
        region = "" if found["region"] == "-" else found["region"]
        shape = made(found["product"], int(found["size"]), found["architecture"], region, self.settings)
        return replace(shape, memory_gib=offer.memory_gib or 0, disk_gib=offer.disk_gib or 0)

    def _offer(self, shape: Shape, nodes: Sequence[Node] | None) -> Offer:
        return Offer(
            id=shape.name,
            provider=self.name,
            region=shape.region,
            price_per_hour=shape.price_per_hour or Decimal(0),
            currency=self.settings.currency,
            seen_at=self._clock.now(),
            country=shape.country or None,
            gpu=shape.gpu or None if shape.gpus else None,
            gpus=shape.gpus,
            gpu_memory_gib=shape.gpu_memory_gib if shape.gpus else 0,
            memory_gib=shape.memory_gib or None,
            disk_gib=shape.disk_gib or None,
            architecture=shape.architecture or "amd64",
            spot=shape.spot,
            own=self.settings.own,
            availability=availability(shape, nodes, autoscaled=self.settings.autoscaled),
            title=f"a pod of {shape.gpus} × {shape.gpu or 'GPU'}" if shape.gpus else "a pod without GPUs",
            type=shape.name,
        )

    def _instance(self, pod: Any) -> Instance:
        return instance_of(table(pod), self.settings.region, self._clock.now(), self.settings.schedule_within)
