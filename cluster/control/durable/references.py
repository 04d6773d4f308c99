"""Secrets by reference: `env:NAME` or `file:PATH`, looked up where they are used, and never written down."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.core.errors import InputError, NotReadyError

FORMS = "Write env:NAME or file:PATH: what a secret is stays where the job runs."


def check(option: str, reference: str) -> None:
    """Raise InputError where something is no reference, such as the secret itself; it is not repeated."""
    scheme, colon, rest = reference.partition(":")
    if scheme not in ("env", "file") or not colon or not rest:
        raise InputError(f"{option}: not a reference", FORMS)
    if scheme == "file" and not os.path.isabs(rest):
        raise InputError(f"{option}: {reference} is not an absolute path", "The job runs in a folder of its own.")


def value(reference: str) -> str:
    """What a reference leads to on this machine."""
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        if rest not in os.environ:
            raise NotReadyError(f"{reference}: the variable is not set where the job runs", "Set it on the cluster.")
        return os.environ[rest]
    try:
        return Path(rest).read_text().strip()
    except OSError as error:
        raise NotReadyError(
            f"{reference}: {error.strerror}", "The file must be on the node that runs the job."
        ) from None
