"""Specs of corpora: which documents, cleaned how."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec
from pipelines.stages.corpus.dedup.spec import LineDedup, MinHash
from pipelines.stages.corpus.readers import AnySource
from pipelines.stages.corpus.readers.installed import InstalledPythonSource
from pipelines.stages.corpus.rules import AnyRule
from pipelines.stages.corpus.rules.code import CodeParrot


class CorpusSpec(Spec, frozen=True):
    """Documents from any sources, cleaned and filtered by rules, without duplicates, split into train and heldout."""

    kind: ClassVar[str] = "corpus"
    stage: ClassVar[str] = "pipelines.stages.corpus.stage:build"
    revision: ClassVar[int] = 4
    inputs: ClassVar[dict[str, str]] = {"known": "corpus"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("known",)
    measured_inputs: ClassVar[tuple[str, ...]] = ("known",)

    sources: tuple[AnySource, ...] = (InstalledPythonSource(),)
    """Where documents come from; of duplicates the one of the first source is kept."""
    rules: tuple[AnyRule, ...] = (CodeParrot(),)
    """What is done to each document, in this order: cleaners change its text, filters reject it."""
    max_bytes: Annotated[int, Meta(ge=0)] = 0
    """Text that the rules keep, read in a seeded order of the files (before de-duplication); 0 reads everything."""
    near_duplicates: Literal["keep", "drop"] = "keep"
    """What happens to near-duplicates. They never part: all of a cluster are in train, or all are held out."""
    minhash: MinHash = MinHash()
    """How near-duplicates are found."""
    line_dedup: LineDedup | None = None
    """Also remove lines or paragraphs that many documents repeat."""
    keep_index: bool = False
    """Keep what de-duplication knows, so that a later corpus can be compared with this one (its input `known`)."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.04
    """Share of the documents held out for evaluation."""
    part_bytes: Annotated[int, Meta(ge=1)] = 16_000_000
    """Text in one file of the corpus: the unit of work of the stages that follow."""
    max_bad_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """The run fails when a larger share of the documents cannot be read, or of the files' bytes; a file that breaks off
    counts whole."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the order of the files and of the held-out split."""

    def check(self) -> None:
        if not self.sources:
            raise SpecError("corpus.sources: a corpus needs a source", "Give `sources: [{reader: text, path: ...}]`.")
        for number, source in enumerate(self.sources):
            encoding = getattr(source, "encoding", "")
            if encoding and not _is_encoding(encoding):
                raise SpecError(
                    f"corpus.sources[{number}].encoding: {encoding!r} is no encoding of text",
                    "Give a name that Python knows, such as cp1250, iso-8859-2, koi8-r, big5 or shift_jis.",
                )


def _is_encoding(name: str) -> bool:
    try:
        return isinstance(b"a".decode(name, "replace"), str)
    except LookupError:
        return False
