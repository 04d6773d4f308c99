"""`ctl jobs`: what was submitted, and how it is doing."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json, print_table

jobs = group("Jobs of the cluster: list, show, logs, stop, retry, profile.")

JobId = Annotated[str, typer.Argument(help="The job's id, as `ctl submit` printed it.", show_default=False)]


@jobs.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the jobs that the cluster remembers, oldest first."""
    from cluster.control.jobs import list_jobs

    found = list_jobs()
    if as_json:
        print_json([job.as_dict() for job in found])
        return
    rows = [(job.id, job.status, job.started_at, job.ended_at) for job in found]
    print_table(("job", "status", "started", "ended"), rows, "No job was submitted yet.")


@jobs.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job: its state, its command, its exit code, and the reason of a failure."""
    from cluster.control.jobs import get

    job = get(job_id).as_dict()
    if as_json:
        print_json(job)
        return
    rows = [(key, value) for key, value in job.items() if value not in ("", None)]
    print_table(("field", "value"), rows, "")


@jobs.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job ends, and exit as it did.")
    ] = False,
) -> None:
    """Print a job's output. Ctrl-C ends the following, not the job."""
    from cluster.control.jobs import logs as read_logs

    if follow:
        follow_to_end(job_id)
    else:
        for text in read_logs(job_id):
            sys.stdout.write(text)


@jobs.command()
def stop(job_id: JobId) -> None:
    """Stop a job and wait until it has; it gets time to save its work."""
    from cluster.control.jobs import stop as stop_job

    print(f"{job_id}: {stop_job(job_id).status}")


@jobs.command()
def retry(job_id: JobId) -> None:
    """Submit a job again: its fields and inputs as they were, the code as it is now. Prints the new id.

    Finished steps are not repeated.
    """
    from cluster.control.jobs import retry as retry_job

    print(retry_job(job_id))


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


def follow_to_end(job_id: str) -> None:
    """Print a job's output until it ends; raise its failure, which carries its own exit code."""
    from cluster.control import jobs as api

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if error := api.failure(api.follow(job_id, write)):
        raise error
