"""Whether the cluster has room for a group of workers at all: where it lacks it, Ray waits without a word."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from cluster.control.durable import telling

LOOK_SECONDS = 5.0


class Room:
    """Looks now and then whether a group can be placed, and tells people when it waits and when it goes on."""

    def __init__(self, count: int, resources: dict[str, float], notice: Callable[[str], None]) -> None:
        """`count` workers that each ask for `resources`, such as {"CPU": 1.0}."""
        self._count, self._resources, self._notice = count, resources, notice
        self._looked_at = time.monotonic()
        self._told = ""

    def look(self) -> None:
        """Tell what is waited for, where that has changed."""
        import ray

        if time.monotonic() - self._looked_at < LOOK_SECONDS or not ray.is_initialized():
            return
        self._looked_at = time.monotonic()
        lacking = self._lacking([node["Resources"] for node in ray.nodes() if node["Alive"]])
        if lacking == self._told:
            return
        self._told = lacking
        self._notice(f"waiting {lacking}" if lacking else "the cluster has what it waited for")
        telling.waits(lacking)

    def _lacking(self, nodes: Sequence[Mapping[str, float]]) -> str:
        """What the cluster has too little of; of the nodes that live, whoever uses them."""
        for name, each in self._resources.items():
            there = sum(node.get(name, 0.0) for node in nodes)
            if each and there < self._count * each:
                return f"for {self._count} x {each:g} {name}s, the cluster has {there:g}"
        wanted = {name: each for name, each in self._resources.items() if each}
        # One worker is on one node: cores that are left on two of them are none.
        rooms = [min((node.get(name, 0.0) + 1e-9) // each for name, each in wanted.items()) for node in nodes if wanted]
        if wanted and (placed := int(sum(rooms))) < self._count:
            told = " and ".join(f"{each:g} {name}s" for name, each in wanted.items())
            return f"for {self._count} x {told} on one node each, the nodes have room for {placed}"
        return ""
