"""The files that environments read beside their prompts: the index of a corpus, made once before training."""

from __future__ import annotations

import tempfile
from pathlib import Path

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.tools.search import INDEX_FILE, documents, write_index

CORPUS = "corpus"


def index_corpus(corpus: Artifact, state: Location) -> None:
    """Leave an index of a corpus's documents in a run's state, where there is none yet."""
    if state.exists(INDEX_FILE):
        return
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        write_index(Path(folder) / INDEX_FILE, documents(corpus))
        state.write_file(INDEX_FILE, Path(folder) / INDEX_FILE)


def files_of(searches: bool, state: Location) -> dict[str, Path]:
    """The files by name, on this machine: of an object store a copy, which stays as long as this process's folder for
    temporary files."""
    if not searches:
        return {}
    if state.is_local:
        return {CORPUS: state.path / INDEX_FILE}
    path = Path(tempfile.mkdtemp(prefix="trunkline-")) / INDEX_FILE
    path.write_bytes(state.read_bytes(INDEX_FILE))
    return {CORPUS: path}
