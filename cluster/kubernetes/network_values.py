"""A NetworkPolicy's values as the API server takes them: directions, peers, ports."""

from __future__ import annotations

import ipaddress

from cluster.core.specs import kubernetes_names as names
from cluster.kubernetes.findings import At, Problems
from cluster.kubernetes.metadata import one_of, selector

DIRECTIONS = ("Ingress", "Egress")
PROTOCOLS = ("TCP", "UDP", "SCTP")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def check(body: At) -> Problems:
    spec = body["spec"]
    yield from selector(spec["podSelector"])
    for kind in spec["policyTypes"].items():
        yield from one_of(kind, DIRECTIONS)
    if len(spec["policyTypes"].value or ()) > len(DIRECTIONS):
        yield spec["policyTypes"].error("names more than two", "Name each direction once.")
    for rules, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec[rules].items():
            for peer in rule[peers].items():
                yield from _peer(peer)
            for port in rule["ports"].items():
                yield from _port(port)


def _peer(peer: At) -> Problems:
    chosen = [name for name in ("podSelector", "namespaceSelector", "ipBlock") if peer[name].value is not None]
    if not chosen:
        yield peer.error("names no peer", "Give podSelector, namespaceSelector or ipBlock; or no list, for everyone.")
    for name in ("podSelector", "namespaceSelector"):
        yield from selector(peer[name])
    if "ipBlock" not in chosen:
        return
    if len(chosen) > 1:
        yield peer["ipBlock"].error("does not go with a selector", "Make it a peer of its own.")
    whole = _network(peer / "ipBlock.cidr")
    if whole is None:
        yield (peer / "ipBlock.cidr").error("is no network", "Write it as 10.0.0.0/8.")
    for place in (peer / "ipBlock.except").items():
        part = _network(place)
        if part is None:
            yield place.error("is no network", "Write it as 10.1.0.0/16.")
        elif whole is not None and not _within(part, whole):
            yield place.error(f"is not a part of {whole}", "Leave it out.")


def _network(at: At) -> Network | None:
    """As Go's net.ParseCIDR reads it: with bits behind the prefix or not."""
    try:
        return ipaddress.ip_network(at.text(), strict=False) if "/" in at.text() else None
    except ValueError:
        return None


def _within(part: Network, whole: Network) -> bool:
    return part.version == whole.version and part.subnet_of(whole) and part != whole  # type: ignore[arg-type]


def _port(at: At) -> Problems:
    if "protocol" in at:
        yield from one_of(at["protocol"], PROTOCOLS)
    port, last = at["port"], at["endPort"]
    if isinstance(port.value, str):
        if not names.is_port_name(port.value):
            yield port.error(
                f"{port.value!r} cannot be a port's name", "At most 15 of a-z, 0-9 and -, a letter among them."
            )
    elif port.value is not None and port.value not in names.PORTS:
        yield port.error(f"is {port.value}", "Give 1 to 65535.")
    if last.value is None:
        return
    if port.number() is None:
        yield last.error("goes with a port that is a number", "Give that, or leave it out.")
    elif last.value not in names.PORTS or last.value < port.value:
        yield last.error(f"is {last.value}", "Give a port of 1 to 65535 that is not before the first.")
