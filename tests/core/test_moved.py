"""Scripts that were written for the tree of before still import what they need."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

SCRIPT = """
import cluster.errors as old, cluster.core.errors as new
from cluster.specs import *
from cluster.spec import override
from cluster.store import Store
from cluster.specs.sources import JsonLinesSource
from pipelines.ordered import ordered_map
from pipelines.corpus.rules import apply
from pipelines.corpus.rules.language import identify
from pipelines.corpus.rules.pii import RemovePersonalData
from pipelines.corpus.documents import Document
from pipelines.tokens.tokenizer import train
from pipelines.tuning.encoding import encode
from pipelines.alignment.preferences import _of_file
from cluster.pipeline import main, pipeline
assert old.InputError is new.InputError
assert CorpusSpec.kind == "corpus"
try:
    import pipelines.corpus.no_such
except ModuleNotFoundError as error:
    print(error.name)
"""


def test_old_names_are_found(tmp_path) -> None:  # type: ignore[no-untyped-def]
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False, timeout=240
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == "pipelines.stages.corpus.no_such\n"
