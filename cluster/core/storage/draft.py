"""Drafts: artifacts that are read while another run, or another thread of this one, is still building them.

Whoever reads a draft needs to hear nothing from whoever writes it: shards appear in the staging place, the artifact
in the store, and the builder's lease tells whether more will come.
"""

from __future__ import annotations

import time

from cluster.core.errors import JobError
from cluster.core.identity import references
from cluster.core.specs import spec as specs
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact, Code, Parent, Record
from cluster.core.storage.store import Store

POLL_SECONDS = 0.5


class Draft(Artifact):
    """An artifact by its name, its parents and the place where it is being built; of files and metrics it knows none.

    Picklable, so that workers on other nodes can follow it.
    """

    store: Store

    @classmethod
    def of(
        cls, spec: Spec, inputs: dict[str, Artifact], store: Store, name: str, named: dict[str, str] | None = None
    ) -> Draft:
        """The draft of what `build(spec, inputs, store=store, name=name, named=named)` builds."""
        named = references.named(spec, store.local_root) if named is None else named
        fingerprint = specs.fingerprint(spec, {n: a.fingerprint for n, a in inputs.items()}, named)
        record = Record(
            kind=spec.kind,
            name=name,
            fingerprint=fingerprint,
            revision=spec.revision,
            spec=specs.fields(spec),
            parents={n: Parent(a.kind, a.name, a.fingerprint) for n, a in inputs.items()},
            scaling={},
            code=Code("", ""),
            versions={},
            started_at="",
            duration_seconds=0.0,
            metrics={},
            files={},
            named=named,
        )
        return cls(record, store.staging(spec.kind, name, fingerprint), store)

    def finished(self) -> Artifact | None:
        """The artifact, once it is committed."""
        return self.store.find(self.kind, self.fingerprint)

    def has_builder(self) -> bool:
        """Whether someone alive holds the lease."""
        return self.store.lease(self.kind, self.fingerprint).holder() is not None

    def pause(self, had_builder: bool) -> None:
        """Wait a little for more of the draft. `had_builder` was asked before the reader looked, in vain.

        Raises JobError where there was none: it had ended without an artifact, and nothing would ever come.
        """
        if not had_builder:
            raise JobError(f"{self.record.ref} is no longer being built", "Run the same command again.")
        time.sleep(POLL_SECONDS)  # other machines' file systems and object stores send no events

    def wait(self) -> Artifact:
        """The finished artifact. Raises JobError where its builder has ended without one."""
        while True:
            had_builder = self.has_builder()
            if artifact := self.finished():
                return artifact
            self.pause(had_builder)
