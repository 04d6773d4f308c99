"""Specs of vocabularies: more pieces for a tokenizer that exists, and a model that knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import names_files
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS

Tokenizer = Annotated[str, names_files(beside=("tokenizer_config.json",))]


class VocabularySpec(Spec, frozen=True):
    """A tokenizer with new pieces behind its own: text without a new piece keeps its ids.

    The pieces are trained on `corpus`, or are those of another tokenizer (`merge`, as Chinese-LLaMA). Reported are
    coverage, fertility and compression before and after, over the held-out split of `corpus` and of `unchanged`.
    """

    kind: ClassVar[str] = "vocabulary"
    stage: ClassVar[str] = "pipelines.stages.tokens.tokenizers.vocabulary:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {
        "tokenizer": "tokenizer|vocabulary",
        "corpus": "corpus",
        "unchanged": "corpus",
    }
    optional_inputs: ClassVar[tuple[str, ...]] = ("tokenizer", "corpus", "unchanged")
    measured_inputs: ClassVar[tuple[str, ...]] = ("unchanged",)

    base: Tokenizer = ""
    """The published tokenizer to extend, where there is no input `tokenizer`: a SentencePiece
    `.model`, a `tokenizer.json` (tokenizer_config.json beside it), or a folder of these or of GPT-2's two files."""
    merge: Tokenizer = ""
    """Another published tokenizer, in the same formats, whose pieces are added; empty trains pieces on `corpus`."""
    script: str = ""
    """Unicode script that every new piece holds a character of, such as `Han`, so that text of other scripts keeps its
    ids; empty takes any piece."""
    num_pieces: Annotated[int, Meta(ge=1)] = 20_000
    """Pieces to train (`merge` takes all of the other tokenizer's)."""
    sample_bytes: Annotated[int, Meta(ge=1)] = 50_000_000
    """About how much text of the train split to train on, chosen by a hash of the documents' ids."""
    character_coverage: Annotated[float, Meta(gt=0, le=1)] = 0.9995
    """Share of the sample's characters that have a piece of their own afterwards (SentencePiece models only)."""
    report_bytes: Annotated[int, Meta(ge=1)] = 2_000_000
    """About how much text of each held-out split to measure on."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if ("tokenizer" in inputs) == bool(self.base):
            raise SpecError(
                "vocabulary.base: a tokenizer to extend is needed, once", "Give `base` or an input, not both."
            )
        if not self.merge and "corpus" not in inputs:
            raise SpecError(
                "vocabulary.merge: is empty, and there is no input `corpus` to train on", "Give one of both."
            )


class ExtendedModelSpec(Spec, frozen=True):
    """A model with rows for the new pieces of a vocabulary, to train further.

    A new row of the embeddings and of the head is the mean of the rows of the pieces that the old tokenizer splits the
    new one into.
    """

    kind: ClassVar[str] = "extended"
    stage: ClassVar[str] = "pipelines.stages.tokens.tokenizers.embeddings:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "tokenizer": "vocabulary"}

    pad_to_multiple_of: Annotated[int, Meta(ge=1)] = 1
    """Rows are rounded up to a multiple of this, which some tensor cores and parallel layouts ask for."""
