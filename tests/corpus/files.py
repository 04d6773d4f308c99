"""A folder of Python files with everything that a corpus must survive, and the corpus built from it."""

from __future__ import annotations

import random
from pathlib import Path

from pipelines.specs import CodeParrot, CorpusSpec, TextSource
from pipelines.stages.corpus.documents import Broken, Document
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import UNREADABLE

WORDS = ["value", "index", "result", "self", "path", "count", "name", "key", "item", "data", "size", "node", "left"]


def source(seed: int, lines: int = 60) -> str:
    """A program-like text that no other seed shares."""
    rng = random.Random(seed)
    body = [
        f"def function_{seed}_{i}({rng.choice(WORDS)}, {rng.choice(WORDS)}_{rng.randrange(10**6)}):"
        for i in range(lines)
    ]
    return (
        "\n".join(f"{line}\n    return {rng.random()} + {rng.choice(WORDS)}_{rng.randrange(10**6)}" for line in body)
        + "\n"
    )


def write_corpus(root: Path, documents: int = 120) -> dict[str, int]:
    """Write the files; return how many of each planted kind there are."""
    root.mkdir(parents=True)
    for i in range(documents):
        (root / f"module_{i:03d}.py").write_text(source(i))
    planted = {
        "empty.py": "\n \n",
        "long_line.py": "x = '" + "ab c" * 400 + "'\n",
        "symbols.py": "(((((((((((((((((((+++++++++++++++++++\n" * 30,
        "generated.py": "# This file was AUTOMATICALLY GENERATED, do not edit\nx = 1\n",
        "wide.py": ("y = " + "some words " * 15 + "\n") * 20,
        "huge.py": source(9999, 3000),
    }
    for name, text in planted.items():
        (root / name).write_text(text)
    (root / "broken.py").write_bytes(b"\x00\x01\x02" * 100)
    for i in range(5):  # the same but for white space
        (root / f"copy_{i}.py").write_text(source(i).replace("\n", "  \n"))
    for i in range(documents):  # the same but for its last line
        (root / f"near_{i:03d}.py").write_text(source(i) + f"print({i})\n")
    return {"files": 2 * documents + len(planted) + 1 + 5, "exact": 5, "near": documents, "unreadable": 1}


def read_file(source: Source) -> tuple[list[Document | Broken], str]:
    """What the one file of a source holds, and what ended it early."""
    (file,) = source.list_files()
    found: list[Document | Broken] = []
    try:
        found.extend(source.read(file))
    except UNREADABLE as error:
        return found, str(error)
    return found, ""


def spec(root: Path, **fields: object) -> CorpusSpec:
    sources = (TextSource(path=str(root), suffixes=(".py",)),)
    defaults = {"sources": sources, "rules": (CodeParrot(max_bytes=100_000),), "part_bytes": 60_000}
    return CorpusSpec(**{**defaults, "heldout_fraction": 0.2, **fields})  # type: ignore[arg-type]
