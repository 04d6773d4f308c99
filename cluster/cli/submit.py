"""`ctl submit`: a pipeline as a job of the cluster."""

from typing import Annotated

import typer

from cluster.cli.options import Config, HardwareName, Name, Script, Sets, StoreRoot


def submit(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    hardware: HardwareName = "",
    store: StoreRoot = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait: print the job's id and leave.")] = False,
) -> None:
    """Run a pipeline on the cluster and follow its log; exit as it exits.

    Ctrl-C, SIGTERM or a dropped SSH session stops the job: what it finished is kept. With --detach it runs on without
    you. The cluster is the one that is named (--context, RAY_ADDRESS), else the one that `ctl up` started here.
    """
    from cluster.cli.jobs import follow_to_end
    from cluster.control import jobs
    from cluster.core.errors import InterruptedRun
    from cluster.core.graph import read_changes
    from cluster.core.signals import held
    from cluster.core.storage.store import Store

    submission = jobs.Submission(
        script=str(script.absolute()),
        changes=read_changes(config, set_ or []),
        name=name,
        store=Store(store).root.url,
    )
    job_id = jobs.submit(submission, hardware)
    if detach:
        print(job_id)
        return
    print(f"Submitted job {job_id}; Ctrl-C stops it.", flush=True)
    try:
        follow_to_end(job_id)
    except KeyboardInterrupt:
        with held():
            print(f"Stopping job {job_id} ...", flush=True)
            jobs.stop(job_id)
        raise InterruptedRun(f"job {job_id} was stopped", f"Go on with `ctl jobs retry {job_id}`.") from None
