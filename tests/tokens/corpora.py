"""Corpora out of given texts, as artifacts, without the stage that needs a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.core.build import build as build_artifact
from cluster.core.context import Context
from cluster.core.specs.spec import Spec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.tables import DOCUMENT_SCHEMA


class GivenSpec(Spec, frozen=True):
    """A corpus of given texts."""

    kind: ClassVar[str] = "corpus"
    stage: ClassVar[str] = "tests.tokens.corpora:build"

    train: tuple[str, ...] = ()
    """Texts of the train split."""
    heldout: tuple[str, ...] = ()
    """Texts of the held-out split."""
    language: str = ""
    """Language that the documents are labelled with."""


def write(folder: Path, texts: list[str], ids: list[str] | None = None, language: str = "", part: int = 100) -> None:
    """One split of a corpus, so many documents a file."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"language": language} if language else {}
    names = ids or [f"{folder.name}-{number}" for number in range(len(texts))]
    rows = [Document(name, text, metadata=metadata).row() for name, text in zip(names, texts, strict=True)]
    for start in range(0, len(rows), part):
        table = pa.Table.from_pylist(rows[start : start + part], schema=DOCUMENT_SCHEMA)
        pq.write_table(table, folder / f"part-{start:08d}.parquet", compression="zstd")


def build(ctx: Context[GivenSpec]) -> dict[str, Any]:
    for split in ("train", "heldout"):
        write(ctx.output.path / split, list(getattr(ctx.spec, split)), language=ctx.spec.language)
    return {}


def corpus(store: Store, train: list[str], heldout: list[str], language: str = "") -> Artifact:
    spec = GivenSpec(train=tuple(train), heldout=tuple(heldout), language=language)
    return build_artifact(spec, {}, store=store, name="given")


def english(shared: Path) -> list[str]:
    """The English texts of the evaluations: MMLU's questions, LAMBADA, ARC."""
    texts = [line for path in sorted(shared.glob("eval/mmlu/data/test/*.csv")) for line in path.read_text().split("\n")]
    for name in ("lambada_openai", "arc_easy"):
        lines = (shared / "eval" / "open_lm" / f"{name}.jsonl").read_text().split("\n")
        texts += [str(json.loads(line)) for line in lines if line]
    return texts


def chinese(shared: Path) -> tuple[list[str], list[str]]:
    """Chinese texts to learn from and others to measure on: news titles, classical and modern prose, medicine."""
    titles = [(shared / "zh" / "thucnews" / f"{name}.txt").read_text().split("\n") for name in ("dev", "test")]
    prose = [path.read_text() for path in sorted(shared.glob("zh/niutrans-classical-modern/**/bitext.txt"))]
    medical = (shared / "zh" / "medicalgpt-pretrain" / "medical_corpus.txt").read_text().split("\n")
    train, heldout = ([line.split("\t")[0] for line in lines if line] for lines in titles)
    return train + prose[::2] + medical[::2], heldout + prose[1::2] + medical[1::2]
