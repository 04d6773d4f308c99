"""A command that has to be a part of the cluster, where this process cannot join: it runs on the head, as a job of Ray.

The Trunkline of the head's own image runs it: what it starts outlives the command. Its output comes here, and it ends
as it does there.
"""

from __future__ import annotations

import secrets
import shlex
import sys
from collections.abc import Sequence

from cluster.control import dashboard, onray
from cluster.control.submitting import entrypoint
from cluster.core.errors import JobError
from cluster.core.signals import held


def run_on_head(arguments: Sequence[str]) -> None:
    """Run `ctl` there with these arguments, and wait for it. Raises JobError with its exit code where it fails."""
    url = dashboard.dashboard_url()
    ray_id = f"ctl-{secrets.token_hex(4)}"
    onray.submit(url, ray_id, entrypoint("ctl", *arguments))
    try:
        job = onray.follow(url, ray_id, _write)
    except KeyboardInterrupt:
        with held():
            onray.stop(url, ray_id)
        raise
    if job.status != "SUCCEEDED":
        error = JobError(f"`ctl {shlex.join(arguments)}` failed on the head", "What it said is above.")
        error.exit_code = job.exit_code or JobError.exit_code
        raise error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
