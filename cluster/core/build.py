"""Building one artifact: find it, or take the lease, run the stage, and commit."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from cluster.core import provenance
from cluster.core.context import Context, Report, silent, unheard
from cluster.core.errors import SpecError
from cluster.core.identity import references
from cluster.core.import_strings import import_string
from cluster.core.specs import spec as specs
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.draft import Draft
from cluster.core.storage.fence import FencedLocation
from cluster.core.storage.holder import Holder
from cluster.core.storage.lease import Lease
from cluster.core.storage.stopping import stoppable
from cluster.core.storage.store import Store

POLL_SECONDS = 1.0

Stage = Callable[[Context[Any]], dict[str, Any]]


def load_stage(spec: Spec) -> Stage:
    """The function named by the spec's import string, `package.module:function`."""
    stage: Stage = import_string(spec.stage)
    return stage


def build(
    spec: Spec,
    inputs: dict[str, Artifact],
    *,
    store: Store,
    scaling: ScalingSpec | None = None,
    name: str,
    named: dict[str, str] | None = None,
    report: Report = silent,
    waiting: Callable[[Holder], None] = lambda holder: None,
    notice: Callable[[str], None] = unheard,
) -> Artifact:
    """The artifact of a spec: from the store, or built now, or awaited where another run is building it.

    `named`: what the spec names, where it was looked at before. `waiting` is told, once, who holds the lease; `notice`
    what the stage wants people to know at once. A stage that fails leaves its half-finished work for the next attempt.
    Where the lease is lost, because its file could not be renewed, the stage is stopped: another run may be at work in
    the same place.
    """
    if not hasattr(spec, "stage"):
        raise SpecError(f"{spec.kind} is not a stage: it has nothing to build")
    named = references.named(spec, store.local_root) if named is None else named
    fingerprint = specs.fingerprint(spec, {n: a.fingerprint for n, a in inputs.items()}, named)
    if artifact := store.find(spec.kind, fingerprint):
        return artifact
    targets = [f"{spec.kind}/{fingerprint}", *(artifact.record.target for artifact in inputs.values())]
    lease = store.lease(spec.kind, fingerprint)
    with store.using(targets):
        try:
            with stoppable() as lease.lost:
                if artifact := _await_turn(store, lease, spec.kind, fingerprint, waiting):
                    return artifact
                # The run before may have finished between the look into the store and the lease.
                if artifact := store.find(spec.kind, fingerprint):
                    return artifact
                store.clear_staging(spec.kind, name, fingerprint)
                draft = Draft.of(spec, inputs, store, name, named)
                return _run_stage(spec, draft, inputs, store, scaling or ScalingSpec(), report, notice, lease)
        except BaseException:
            if lease.is_lost:
                lease.check()  # says why it was stopped, or why it failed
            raise
        finally:
            lease.release()  # not stoppable: what goes on here is the end, however the stage ended


def _await_turn(
    store: Store, lease: Lease, kind: str, fingerprint: str, waiting: Callable[[Holder], None]
) -> Artifact | None:
    """Take the lease, or return the artifact that another run finished meanwhile."""
    told = False
    pause = threading.Event()
    while not lease.acquire():
        holder = lease.holder()
        if holder is not None and not told:
            waiting(holder)
            told = True
        pause.wait(POLL_SECONDS)  # another machine's file system sends no events
        if artifact := store.find(kind, fingerprint):
            return artifact
    return None


def _run_stage(
    spec: Spec,
    draft: Draft,
    inputs: dict[str, Artifact],
    store: Store,
    scaling: ScalingSpec,
    report: Report,
    notice: Callable[[str], None],
    lease: Lease,
) -> Artifact:
    started = datetime.datetime.now(datetime.UTC)
    clock = time.monotonic()
    code, user_code = provenance.code(), provenance.user_code()  # before the stage: edits meanwhile are not its code
    place, print_ = FencedLocation(draft.location.url, lease.fence), draft.fingerprint
    context = Context(
        references.located(spec), inputs, place, scaling, draft.name, print_, report, notice, written=spec
    )
    metrics = load_stage(spec)(context)
    for given in inputs.values():
        if isinstance(given, Draft):  # read to its end or not: what it was part of must exist
            given.wait()
    now = references.named(spec, store.local_root)
    if changed := sorted(where for where, digest in draft.record.named.items() if now.get(where, digest) != digest):
        notice(f"what {' and '.join(changed)} names changed while it was read: remove {draft.record.ref} and run again")
    record = msgspec.structs.replace(
        draft.record,
        scaling=specs.fields(scaling),
        code=code,
        user_code=user_code,
        versions=provenance.versions(),
        started_at=started.isoformat(timespec="milliseconds"),
        duration_seconds=round(time.monotonic() - clock, 3),
        metrics=metrics,
    )
    return store.commit(record, draft.location, lease)
