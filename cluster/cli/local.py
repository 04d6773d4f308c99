"""`ctl up`, `ctl down`, `ctl status`: a Ray cluster on this machine, and what a cluster is doing."""

from typing import Annotated

import typer

from cluster.cli.output import AsJson, print_json, print_table


def up(
    num_cpus: Annotated[int | None, typer.Option("--num-cpus", min=0, help="Logical CPUs [default: all].")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1024, max=65535, help="Port of the head [default: 6379].")
    ] = None,
    dashboard_port: Annotated[
        int | None, typer.Option("--dashboard-port", min=1024, max=65535, help="Dashboard's [default: 8265].")
    ] = None,
    dashboard_host: Annotated[
        str,
        typer.Option("--dashboard-host", metavar="ADDRESS", help="Address that the dashboard listens on [loopback]."),
    ] = "",
    join: Annotated[str | None, typer.Option("--join", metavar="HOST:PORT", help="Join that head instead.")] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Open Ray's Prometheus ports, to the network and without a token.")
    ] = False,
    no_recover: Annotated[
        bool,
        typer.Option("--no-recover", help="Leave jobs that the last head left behind (`ctl jobs recover`)."),
    ] = False,
) -> None:
    """Start the cluster that the context describes: without one, a Ray head on this machine, protected by a token.

    With --join this machine becomes a node of another head, whose token (~/.ray/auth_token) it needs. `ctl down` ends
    what was started. Jobs that were submitted from here and lost with its last head go on.
    """
    from dataclasses import replace

    import msgspec

    from cluster.control import clusters, local
    from cluster.core.clusters.kinds import Local
    from cluster.core.clusters.meant import CONTEXT, meant
    from cluster.core.errors import UsageError

    options: dict[str, object] = {"num_cpus": num_cpus, "port": port, "dashboard_port": dashboard_port}
    options |= {"dashboard_host": dashboard_host or None, "metrics": metrics or None}
    given = {name: value for name, value in options.items() if value is not None}
    found = meant()
    if join:
        if found.said_by == CONTEXT and not found.here:
            raise UsageError(f"--join: {found} is not this machine", "Leave the context out.")
        local.join(join, num_cpus=num_cpus, metrics=metrics)
        print(f"Joined {join}. `ctl down` leaves it.")
        return
    if isinstance(found.context, Local):
        found = replace(found, context=msgspec.structs.replace(found.context, **given))
    elif given:
        option = next(iter(given)).replace("_", "-")
        raise UsageError(
            f"--{option}: {found} is not this machine", f"Say it in the context: `ctl context show {found.name}`."
        )
    clusters.find(found).up(_tell)
    if not no_recover:
        _recover()


def _recover() -> None:
    from cluster.control.recovering import recover_own

    found, failed = recover_own(_tell)
    for store, why in failed.items():
        _tell(f"Jobs in {store} are left as they are: {why}")
    if found:
        what = "A job goes on" if len(found) == 1 else f"{len(found)} jobs go on"
        _tell(f"{what} that the last head left behind: {', '.join(found)}. `ctl jobs stop ID` ends one.")


def down() -> None:
    """End what `ctl up` started, and nothing else: without a context, the Ray processes of this machine."""
    from cluster.control import clusters

    clusters.find().down(_tell)


def _tell(text: str) -> None:
    print(text, flush=True)


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
