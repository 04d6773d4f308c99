"""`ctl jobs`: what was submitted, and how it is doing."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json, print_table

jobs = group("Jobs: list, show, logs, stop, retry, recover, schedules, profile. Their records are in the store.")

JobId = Annotated[str, typer.Argument(help="The job's id, as `ctl submit` printed it.", show_default=False)]


@jobs.command("list")
def list_(
    store: StoreRoot = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="Those that the cluster remembers, instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the jobs of the store, and of those that were submitted with another one from here; oldest first.

    It asks no cluster: what died reads LOST, whatever its cluster says or said. Where the store is a volume of
    Kubernetes, which only pods see, the cluster is asked all the same.
    """
    from cluster.core.clusters.meant import is_hidden
    from cluster.core.storage.store import default_root

    if cluster or is_hidden(store or default_root()):
        from cluster.control.jobs import on_cluster

        found = on_cluster()
    else:
        from cluster.control.durable.finding import jobs as in_stores

        found = in_stores(store)
    if as_json:
        print_json([job.as_dict() for job in found])
        return
    rows = [(job.id, job.status, job.started_at, job.ended_at, job.message) for job in found]
    print_table(("job", "status", "started", "ended", ""), rows, "No job was submitted yet.")


@jobs.command()
def show(job_id: JobId, store: StoreRoot = None, as_json: AsJson = False) -> None:
    """Show one job: its state and why, its command and code, its attempts and what happened to them."""
    from cluster.control.durable import finding
    from cluster.control.jobs import get

    job = get(job_id, store).as_dict()
    record = finding.find(job_id, store)
    submitted = record.submitted() if record else None
    events = list(record.events()) if record else []
    if submitted:
        job |= {
            "store": record.root.url if record else "",
            "code": str(submitted.code),
            "user_code": str(submitted.user_code) if submitted.user_code else "",
            "submitted_by": f"{submitted.user}@{submitted.host}",
            "retry_of": submitted.retry_of,
        }
    if as_json:
        told = [{name: getattr(event, name) for name in event.__struct_fields__} for event in events]
        print_json(job | {"events": told})
        return
    print_table(("field", "value"), [(key, value) for key, value in job.items() if value not in ("", None)], "")
    if events:
        print()
        print_table(("at", "attempt", "event"), [(event.at, event.attempt, event.text) for event in events], "")


@jobs.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and exit as it did.")
    ] = False,
    store: StoreRoot = None,
) -> None:
    """Print a job's output, of all attempts. Ctrl-C ends the following, not the job."""
    from cluster.control.jobs import logs as read_logs

    if follow:
        follow_to_end(job_id, store)
    else:
        for text in read_logs(job_id, store):
            sys.stdout.write(text)


@jobs.command()
def stop(job_id: JobId, store: StoreRoot = None) -> None:
    """Stop a job and wait until it has; it gets time to save its work."""
    from cluster.control.jobs import stop as stop_job

    print(f"{job_id}: {stop_job(job_id, store).status}")


@jobs.command()
def retry(
    job_id: JobId,
    as_submitted: Annotated[
        bool, typer.Option("--as-submitted", help="With the code that was submitted, out of the store.")
    ] = False,
    store: StoreRoot = None,
) -> None:
    """Submit a job again: its fields and inputs as they were, the code as it is now. Prints the new id.

    Finished steps are not repeated.
    """
    from cluster.control.jobs import retry as retry_job

    print(retry_job(job_id, as_submitted=as_submitted, store=store))


@jobs.command()
def recover(store: StoreRoot = None) -> None:
    """Hand jobs that were lost with their head to the cluster that runs now; prints their ids.

    Each goes on from what it had finished, as far as it has --retries left.
    """
    from cluster.control.recovering import recover as recover_jobs

    for job_id in recover_jobs(store, notice=lambda text: print(text, file=sys.stderr, flush=True)):
        print(job_id)


@jobs.command()
def schedules(store: StoreRoot = None, as_json: AsJson = False) -> None:
    """List schedules (`ctl submit --every`, `--cron`): when they are due, and how their last run went.

    A schedule is a job: `ctl jobs stop ID` ends it, and its runs are listed by `ctl jobs list`.
    """
    from cluster.control.schedules.listing import schedules as listed

    found = listed(store)
    if as_json:
        print_json([one.as_dict() for one in found])
        return
    rows = [(one.id, one.when, one.status, one.next, one.last, one.last_status) for one in found]
    print_table(("schedule", "when", "status", "next", "last run", ""), rows, "There is no schedule.")


@jobs.command()
def prune(
    older_than_days: Annotated[float, typer.Option(min=0, help="Of jobs that have ended so long ago.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it they are only listed.")] = False,
    store: StoreRoot = None,
) -> None:
    """List, or with --yes remove, the records and logs of old jobs, and code that no job is left of.

    Artifacts stay: they are `ctl artifacts gc`'s.
    """
    from cluster.control.durable.pruning import prune as prune_jobs
    from cluster.core.storage.location import Location
    from cluster.core.storage.store import default_root

    found = prune_jobs(Location(store or default_root()), older_than_days, dry_run=not yes)
    for name in found:
        print(name)
    if found and not yes:
        print("Nothing was removed: say --yes.")


@jobs.command()
def profile(
    job: Annotated[str, typer.Argument(help="A job's id, or the name of a run: NAME, KIND/NAME.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Training steps to look at.")] = 3,
    rank: Annotated[int, typer.Option(min=0, help="Training worker whose trace is copied.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to [default: NAME-steps-A-B-rank-R.json.gz].")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for the profile.")] = 600.0,
    store: StoreRoot = None,
) -> None:
    """Profile some steps of a training run while it runs, for https://ui.perfetto.dev.

    It is looked for in the store that it writes to. The traces of all workers stay in the artifact, in `profiles/`.
    """
    from cluster.core.storage.store import Store
    from pipelines.stages.training.telemetry import profiles

    opened = Store(store)
    one = profiles.find(opened, job)
    found, place = profiles.profile(opened, one, steps, timeout)
    target = out or Path(f"{one.run.name}-steps-{found.first_step}-{found.last_step}-rank-{rank}.json.gz")
    profiles.copy_trace(place, found, rank, target)
    print(f"{target}: steps {found.first_step} to {found.last_step} of {one.ref}; open it in https://ui.perfetto.dev")


def follow_to_end(job_id: str, store: str | None = None) -> None:
    """Print a job's output until it ends; raise its failure, which carries its own exit code."""
    from cluster.control import jobs as api

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if error := api.failure(api.follow(job_id, write, store)):
        raise error
