"""`ctl up`, `ctl down`, `ctl status`: a Ray cluster on this machine, and what a cluster is doing."""

from typing import Annotated

import typer

from cluster.cli.output import AsJson, print_json, print_table


def up(
    num_cpus: Annotated[int | None, typer.Option("--num-cpus", min=0, help="Logical CPUs [default: all].")] = None,
    port: Annotated[int, typer.Option("--port", min=1024, max=65535, help="Port of the head.")] = 6379,
    dashboard_port: Annotated[int, typer.Option("--dashboard-port", min=1024, max=65535, help="Dashboard's.")] = 8265,
    join: Annotated[str | None, typer.Option("--join", metavar="HOST:PORT", help="Join that head instead.")] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Open Ray's Prometheus ports, to the network and without a token.")
    ] = False,
) -> None:
    """Start a Ray cluster on this machine, protected by a token, or let this machine join one.

    It needs the head's token (~/.ray/auth_token) to join. `ctl down` ends what was started here.
    """
    from cluster.control import local
    from cluster.control.runtime import answers

    if join:
        local.join(join, num_cpus=num_cpus, metrics=metrics)
        print(f"Joined {join}. `ctl down` leaves it.")
        return
    if head := local.running_head():
        if not answers(head.address):
            raise local.dead(head)
        print(f"Already running: head {head.address}, dashboard {head.dashboard}.")
        return
    head = local.start_head(num_cpus=num_cpus, port=port, dashboard_port=dashboard_port, metrics=metrics)
    print(f"Ray is up: head {head.address}, dashboard {head.dashboard}.")
    print(
        "Submit with `ctl submit SCRIPT`; add a machine with its token and "
        f"`ctl up --join {head.address}`; end it with `ctl down`."
    )


def down() -> None:
    """End the Ray processes that `ctl up` started on this machine, and no others."""
    from cluster.control import local

    nodes = local.nodes()
    count = sum(local.stop(node) for node in reversed(nodes))  # the head, which came first, goes last
    print(f"Ended {count} processes." if nodes else "Nothing is running here.")


def status(as_json: AsJson = False) -> None:
    """Show the cluster's nodes, resources, jobs and endpoints."""
    from cluster.control.status import status as read_status

    found = read_status()
    if as_json:
        print_json(found)
        return
    print(f"Ray {found['ray_version']}, dashboard {found['dashboard']}\n")
    rows = [
        (
            node["id"][:12],
            node["address"],
            "head" if node["head"] else "worker",
            "alive" if node["alive"] else "dead",
            *(_share(node["resources"].get(name)) for name in ("CPU", "GPU")),
        )
        for node in found["nodes"]
    ]
    print_table(("node", "address", "role", "state", "CPUs used", "GPUs used"), rows, "No nodes.")
    print()
    active = [job for job in found["jobs"] if job["status"] in ("PENDING", "RUNNING")]
    rows = [(job["id"], job["status"], job["started_at"], job["entrypoint"]) for job in active]
    print_table(("job", "status", "started", "entrypoint"), rows, "No job is running; `ctl jobs list` shows past ones.")
    print()
    endpoints = [(endpoint["name"], endpoint["status"], endpoint["route"]) for endpoint in found["endpoints"]]
    print_table(("endpoint", "status", "route"), endpoints, "No endpoints.")


def _share(resource: dict[str, float] | None) -> str:
    return f"{resource['used']:g}/{resource['total']:g}" if resource else "-"
