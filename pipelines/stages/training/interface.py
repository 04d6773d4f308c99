"""The network interface over which CPUs exchange: the one that has the node's address.

gloo takes the interface that the machine's own name leads to. Debian writes `127.0.1.1 NAME` into /etc/hosts, and
nobody on another node reaches that. Within one node the name does, and a laptop that changes its network goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

VARIABLE = "GLOO_SOCKET_IFNAME"


class GroupConfig(TorchConfig):
    """Ray's configuration of torch's process group, with the interface chosen where the group spans nodes."""

    @property
    def backend_cls(self) -> Any:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(_node_address))) > 1:
            worker_group.execute(use_node_interface)
        super().on_start(worker_group, backend_config)


def _node_address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())


def use_node_interface(address: str = "") -> None:
    """Have gloo take the interface with an address of this machine (its node's), unless GLOO_SOCKET_IFNAME is set."""
    import psutil

    if VARIABLE in os.environ:
        return
    interfaces = {
        name: [each.address for each in addresses if each.family in (socket.AF_INET, socket.AF_INET6)]
        for name, addresses in psutil.net_if_addrs().items()
    }
    if name := interface_of(address or _node_address(), interfaces):
        os.environ[VARIABLE] = name


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str:
    """The interface that has an address; empty where none has (it is translated on the way): gloo then guesses."""
    return next((name for name, own in interfaces.items() if address in (a.partition("%")[0] for a in own)), "")
