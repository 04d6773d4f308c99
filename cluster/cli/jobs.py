"""`ctl jobs`: what was submitted, and how it is doing."""

import sys
from typing import Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.output import AsJson, print_json, print_table

jobs = group("Jobs of the cluster: list, show, logs, stop, retry.")

JobId = Annotated[str, typer.Argument(help="The job's id, as `ctl submit` printed it.", show_default=False)]


@jobs.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the jobs that the cluster remembers, oldest first."""
    from cluster.jobs import list_jobs

    found = list_jobs()
    if as_json:
        print_json([job.as_dict() for job in found])
        return
    rows = [(job.id, job.status, job.started_at, job.ended_at) for job in found]
    print_table(("job", "status", "started", "ended"), rows, "No job was submitted yet.")


@jobs.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show one job: its state, its command, its exit code, and the reason of a failure."""
    from cluster.jobs import get

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
    from cluster.jobs import logs as read_logs

    if follow:
        follow_to_end(job_id)
    else:
        sys.stdout.write(read_logs(job_id))


@jobs.command()
def stop(job_id: JobId) -> None:
    """Stop a job and wait until it has; it gets time to save its work."""
    from cluster.jobs import stop as stop_job

    print(f"{job_id}: {stop_job(job_id).status}")


@jobs.command()
def retry(job_id: JobId) -> None:
    """Submit a job's pipeline again, with the code as it is now; finished steps are not repeated. Prints the new id."""
    from cluster.jobs import retry as retry_job

    print(retry_job(job_id))


def follow_to_end(job_id: str) -> None:
    """Print a job's output until it ends; raise its failure, which carries its own exit code."""
    from cluster import jobs as api

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if error := api.failure(api.follow(job_id, write)):
        raise error
