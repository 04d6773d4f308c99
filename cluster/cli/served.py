"""What the commands about endpoints share: their spec, the cluster that is meant, what runs there."""

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cluster.core.specs.endpoint import EndpointSpec
    from serving.endpoints import Endpoint

SERVE_PATH = "/api/serve/applications/"


def changes_of(sets: list[str]) -> dict[str, Any]:
    """Fields of --set endpoint.FIELD=VALUE. Raises SpecError for what is no field of an endpoint."""
    from cluster.core.errors import SpecError
    from cluster.core.graph import read_changes

    changes = read_changes(None, sets)
    if unknown := [step for step in changes if step != "endpoint"]:
        raise SpecError(f"--set {unknown[0]}: there is only the endpoint", "Write --set endpoint.FIELD=VALUE.")
    return dict(changes.get("endpoint", {}))


def spec_of(model: str, port: int | None, name: str, sets: list[str]) -> "EndpointSpec":
    """The endpoint's spec by a command's options. Raises SpecError."""
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.specs.spec import override

    changes = changes_of(sets)
    given = {"port": port, "served_name": name or None}
    fields = {"endpoint": {k: v for k, v in given.items() if v is not None}}
    return override(EndpointSpec(model=model), {**changes, **fields["endpoint"]}, "endpoint")


def join_cluster(*options: str) -> bool:
    """Whether there is a running cluster (one that is named, or this machine's); what follows then joins it.

    Where only a process of the cluster can join, the whole command line (`ctl GROUP COMMAND ...`) runs there instead,
    with `options` besides, and this process ends as it did.
    """
    from cluster.control import clusters, nodes
    from cluster.core.clusters.kinds import Address
    from cluster.core.clusters.meant import Meant, choose, meant

    found = meant()
    if clusters.find(found).runs_commands:
        from cluster.control.on_head import run_on_head

        _, group, command, *rest = sys.argv
        run_on_head([group, command, *options, *rest])
        raise typer.Exit()
    if not found.here:
        return True
    head = nodes.cluster_head()
    if head is not None:
        context = found.context
        choose(
            Meant(
                Address(address=head.address, token_file=context.token_file, token_env=context.token_env),
                said_by=found.said_by,
            )
        )
    return head is not None


def serve_details() -> dict[str, Any]:
    """Serve's account of itself, of the running cluster."""
    from cluster.control.dashboard import dashboard_url, request

    return request("GET", dashboard_url(), SERVE_PATH) or {}


def running() -> list["Endpoint"]:
    """The endpoints of the running cluster."""
    from serving.endpoints import from_details

    return from_details(serve_details())


def tell(text: str) -> None:
    print(text, flush=True)
