"""`ctl submit`: a pipeline as a job of the cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import Config, HardwareName, Name, Script, Sets, StoreRoot
from cluster.cli.output import AsJson, print_json, print_table, size

if TYPE_CHECKING:
    from cluster.control.durable.shapes import Policy, Schedule
    from cluster.control.preview import Preview

Several = list[str] | None


def submit(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    hardware: HardwareName = "",
    store: StoreRoot = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait: print the job's id and leave.")] = False,
    job_id: Annotated[str, typer.Option("--id", help="The job's id: the same id is submitted once.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would travel and run; submit nothing.")] = False,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts after a lost node, or a code to --retry-on.")
    ] = 3,
    retry_on: Annotated[Several, typer.Option(metavar="CODE", help="Exit code that another attempt may cure.")] = None,
    backoff: Annotated[
        float, typer.Option(min=0, help="Seconds before the second attempt; then twice as long.")
    ] = 10.0,
    max_runtime: Annotated[str, typer.Option(help="End an attempt after so long, such as 90s, 30m, 4h, 2d.")] = "",
    after: Annotated[Several, typer.Option(metavar="JOB", help="Begin when this job has succeeded.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Wait until what the job needs is free.")] = False,
    priority: Annotated[int, typer.Option(help="Of jobs that wait the highest goes first; implies --queue.")] = 0,
    notify: Annotated[
        Several, typer.Option(metavar="REFERENCE", help="Webhook to tell of retries and the end: env:NAME, file:PATH.")
    ] = None,
    secret: Annotated[
        Several, typer.Option(metavar="NAME=REFERENCE", help="Variable of the job, from env:NAME or file:PATH there.")
    ] = None,
    every: Annotated[str, typer.Option(help="Again and again: at once, and then after 30m, 6h, 1d.")] = "",
    cron: Annotated[str, typer.Option(help="Again and again, as cron has it: '0 3 * * *', @daily.")] = "",
    time_zone: Annotated[str, typer.Option(help="Time zone of --cron, such as Europe/Paris.")] = "UTC",
    as_json: AsJson = False,
) -> None:
    """Run a pipeline on the cluster and follow its log; exit as it exits.

    Ctrl-C, SIGTERM or a dropped SSH session stops the job: what it finished is kept. With --detach it runs on without
    you; so does a schedule (--every, --cron). The cluster is the one that is named (--context, RAY_ADDRESS), else the
    one that `ctl up` started here.
    """
    from cluster.cli.jobs import follow_to_end
    from cluster.control import jobs
    from cluster.core.errors import InterruptedRun
    from cluster.core.graph import read_changes
    from cluster.core.signals import held
    from cluster.core.storage.store import Store

    policy = _policy(retries, retry_on, backoff, max_runtime, after, queue, priority, notify, secret)
    submission = jobs.Submission(
        script=str(script.absolute()),
        changes=read_changes(config, set_ or []),
        name=name,
        store=Store(store).root.url,
    )
    schedule = _schedule(every, cron, time_zone, config, set_ or [])
    if dry_run:
        from cluster.control.preview import preview

        _print_preview(preview(submission, hardware, policy, job_id, schedule), as_json)
        return
    job_id = jobs.submit(submission, hardware, job_id=job_id, policy=policy, schedule=schedule)
    if schedule:
        print(f"Schedule {job_id}: `ctl jobs schedules` says when, `ctl jobs stop {job_id}` ends it.")
        return
    if detach:
        print(job_id)
        return
    print(f"Submitted job {job_id}; Ctrl-C stops it.", flush=True)
    try:
        follow_to_end(job_id, submission.store)
    except KeyboardInterrupt:
        with held():
            print(f"Stopping job {job_id} ...", flush=True)
            jobs.stop(job_id, submission.store)
        raise InterruptedRun(f"job {job_id} was stopped", f"Go on with `ctl jobs retry {job_id}`.") from None


def _policy(
    retries: int,
    retry_on: Several,
    backoff: float,
    max_runtime: str,
    after: Several,
    queue: bool,
    priority: int,
    notify: Several,
    secret: Several,
) -> "Policy":
    from cluster.control.durable import references
    from cluster.control.durable.shapes import Policy
    from cluster.core.errors import UsageError

    for hook in notify or []:
        references.check("--notify", hook)
    secrets = {}
    for given in secret or []:
        name, equals, reference = given.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError("--secret: not of the form NAME=REFERENCE", "Try --secret HF_TOKEN=file:/run/secrets/hf.")
        references.check(f"--secret {name}", reference)
        secrets[name] = reference
    codes = []
    for code in retry_on or []:
        if not code.isdigit() or not 1 <= int(code) <= 255:
            raise UsageError(f"--retry-on {code}: not an exit code", "Give a number from 1 to 255.")
        codes.append(int(code))
    return Policy(
        retries=retries,
        retry_codes=tuple(sorted({*Policy().retry_codes, *codes})),
        backoff_seconds=backoff,
        max_runtime_seconds=_seconds("--max-runtime", max_runtime) if max_runtime else 0.0,
        after=tuple(after or ()),
        queue=queue or bool(priority),
        priority=priority,
        notify=tuple(notify or ()),
        secrets=secrets,
    )


def _schedule(every: str, cron: str, time_zone: str, config: Path | None, sets: list[str]) -> "Schedule | None":
    if not every and not cron:
        return None
    import datetime

    from cluster.control.durable.shapes import Schedule
    from cluster.control.schedules import times
    from cluster.core.errors import UsageError

    if every and cron:
        raise UsageError("--every and --cron: two schedules", "Leave one of them out.")
    found = Schedule(
        every_seconds=_seconds("--every", every) if every else 0.0,
        cron=cron,
        time_zone=time_zone,
        config=config.read_text() if config else "",
        sets=tuple(sets),
    )
    times.check(found, datetime.datetime.now(datetime.UTC))
    return found


def _seconds(option: str, text: str) -> float:
    from cluster.core.errors import UsageError

    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (text[:-1], text[-1:]) if text[-1:] in units else (text, "s")
    try:
        found = float(number) * units[unit]
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise UsageError(f"{option} {text}: not a time", "Write 90s, 30m, 4h or 2d.")
    return found


def _print_preview(found: "Preview", as_json: bool) -> None:
    if as_json:
        print_json(found.as_dict())
        return
    rows = [(step.key, "is there" if step.built else "to build", step.ref, why) for step, why in found.shown_steps()]
    print_table(("step", "state", "artifact", "why"), rows, "The pipeline has no steps.")
    print(f"\ntravels    {found.files:,} files of {found.root}, {size(found.archive_bytes)}{found.kept_note()}")
    print(f"           largest: {', '.join(f'{name} ({size(number)})' for name, number in found.largest)}")
    print(f"code       Trunkline: {found.code}")
    print(f"           yours: {found.user_code}")
    print(f"runs       {found.command}")
    print(f"needs      {found.needs()}")
    print(f"store      {found.store}")
    print(f"cluster    {found.cluster}")
    for note in found.notes:
        print(f"note       {note}")
