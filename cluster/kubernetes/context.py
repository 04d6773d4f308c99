"""A namespace of Kubernetes as a cluster: `ctl up` makes a RayCluster there, of what `ctl infra render` writes, and all
else goes through the API server to the dashboard of its head. Its store outlives it."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

from cluster.control.clusters import Cluster
from cluster.core.clusters.kinds import Kubernetes
from cluster.core.errors import NotReadyError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert
from cluster.kubernetes.api import Api
from cluster.kubernetes.following import PODS, POLL_SECONDS, ray_cluster, until_ready
from cluster.kubernetes.forward import Forward
from cluster.kubernetes.objects import Order
from cluster.kubernetes.pods import COMPONENT, HEAD_PORTS, Manifest
from cluster.kubernetes.tree import manifests

OWN, SHARED = "cluster", "common"  # components: what `down` deletes, and what stays, the store among it
TOKEN_KEY = "auth_token"  # in the secret that KubeRay makes, which has the RayCluster's name
GONE_SECONDS = 240.0  # for pods to end, which may take their grace period

_forwards: dict[tuple[str, str], Forward] = {}  # of this process, by context and service


class InKubernetes(Cluster):
    """A RayCluster of KubeRay."""

    runs_commands: ClassVar[bool] = True

    @property
    def context(self) -> Kubernetes:
        assert isinstance(self.meant.context, Kubernetes)
        return self.meant.context

    @cached_property
    def api(self) -> Api:
        return Api(self.context.kubeconfig, self.context.context, self.context.namespace)

    @cached_property
    def infra(self) -> InfraSpec:
        return self.context.infra_spec(self.api.namespace)

    def dashboard_url(self) -> str:
        found = ray_cluster(self.api, self.infra.name)
        service = ((found or {}).get("status") or {}).get("head", {}).get("serviceName")
        if not service:
            what = "the head of RayCluster" if found else "there is no RayCluster"
            raise NotReadyError(
                f"{what} {self.infra.name} in namespace {self.api.namespace}" + (" is not there yet" if found else ""),
                "Start it with `ctl up`, which waits until it is ready.",
            )
        self._take_token()
        key = (self.meant.name, service)
        if key not in _forwards:
            _forwards[key] = Forward(self.api, service, HEAD_PORTS["dashboard"])
        return _forwards[key].url

    def head_address(self) -> str:
        raise NotReadyError(
            f"{self.meant} is reached through Kubernetes' API server: a process here cannot join it",
            "Send it there with `ctl submit`.",
        )

    def up(self, tell: Callable[[str], None]) -> None:
        name, there = self.infra.name, ray_cluster(self.api, self.infra.name)
        for body in self._manifests(OWN, SHARED):
            if body["kind"] == "Namespace" and self.api.find(body):
                continue  # whose labels are its owner's
            self.api.apply(as_scaled(body, there) if body["kind"] == "RayCluster" and there else body)
        tell(f"RayCluster {name} in namespace {self.api.namespace}: as its context says. Waiting for its head.")
        for line in until_ready(self.api, name, self.infra.start_deadline_seconds):
            tell(line)
        store = self.infra.store or f"the volume {name}-store"
        tell(f"Ray is up in namespace {self.api.namespace}, with {store} as its store.")
        tell("Submit with `ctl submit SCRIPT`; end it with `ctl down`, which keeps the store.")

    def down(self, tell: Callable[[str], None]) -> None:
        there = [body for body in self._manifests(OWN) if self.api.find(body)]
        for body in there:
            self.api.delete(body)
        deadline = time.monotonic() + GONE_SECONDS
        while pods := self.api.items("v1", "Pod", PODS.format(self.infra.name)):
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"{len(pods)} pods of {self.infra.name} do not end in {GONE_SECONDS:.0f} s",
                    f"Look at them: `kubectl -n {self.api.namespace} get pods`.",
                )
            time.sleep(POLL_SECONDS)
        names = ", ".join(f"{body['kind']} {body['metadata']['name']}" for body in there)
        tell(f"Deleted {names}. The store and the network's rules stay." if there else "Nothing is running there.")

    def _manifests(self, *components: str) -> list[Manifest]:
        scaling = convert(dict(self.context.scaling), ScalingSpec, "scaling")
        order = Order(self.infra, scaling, EndpointSpec(model="-"), {}, OWN)
        rendered = [body for bodies in manifests(order).values() for body in bodies]
        return [body for body in rendered if body["metadata"]["labels"][COMPONENT] in components]

    def _take_token(self) -> None:
        """Have Ray take the cluster's own token, unless the context says where one is."""
        if self.context.token_env or self.context.token_file:
            return
        secret = self.api.find({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.infra.name}})
        if secret is None:
            raise NotReadyError(
                f"namespace {self.api.namespace} has no secret {self.infra.name} with the cluster's token",
                "KubeRay makes it with the cluster: wait with `ctl up`.",
            )
        os.environ["RAY_AUTH_TOKEN"] = base64.b64decode(secret["data"][TOKEN_KEY]).decode()
        os.environ["RAY_AUTH_MODE"] = "token"


def as_scaled(body: Manifest, there: Manifest) -> Manifest:
    """A RayCluster's manifest with as many pods in its groups as the autoscaler has made of them since."""
    now = {group["groupName"]: group.get("replicas") for group in there["spec"].get("workerGroupSpecs", ())}
    groups = [
        {**group, "replicas": group["replicas"] if now.get(group["groupName"]) is None else now[group["groupName"]]}
        for group in body["spec"]["workerGroupSpecs"]
    ]
    return {**body, "spec": {**body["spec"], "workerGroupSpecs": groups}}
