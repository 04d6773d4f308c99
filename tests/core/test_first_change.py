"""docs/first-change.md: each change is as small as it says, applies to this code, and does what it is for.

A section is a heading, a block of `diff`, and a program here that runs in a copy of the packages to which the diff was
applied.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "first-change.md").read_text()
PACKAGES = ("cluster", "pipelines", "serving")

READER = """
from pathlib import Path

from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec, CsvSource

Path("in").mkdir()
Path("in/a.csv").write_text('id,text,stars\\n1,"Good, and\\ncheap.",5\\n2\\n')
Path("in/b.txt").write_text("no table")
(source,) = convert({"sources": [{"reader": "csv", "path": "in"}]}, CorpusSpec, "corpus").sources
assert source == CsvSource(path="in")
(file,) = source.list_files()
good, broken = source.read(file)
assert (good.id, good.text, good.metadata) == ("a.csv#1", "Good, and\\ncheap.", {"id": "1", "stars": "5"})
assert (broken.position, broken.reason.partition(":")[0]) == ("row 2", "no_text")
"""

RULE = """
from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec, UpperCase
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import apply

given = [{"rule": "not_empty"}, {"rule": "upper_case", "max_fraction": 0.5}]
rules = convert({"rules": given}, CorpusSpec, "corpus").rules
assert rules[1] == UpperCase(max_fraction=0.5)
assert [apply(rules, Document("d", text))[1] for text in ("FREE MONEY, now!", "A big SALE for all.", "1984", "")] == [
    "upper_case",
    "",
    "",
    "empty",
]
"""

MODEL = """
import torch
from pipelines.specs import PretrainSpec
from pipelines.stages.training.models.models import build_model, configuration

config = configuration("llama-1m", {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
                       vocab_size=50, sequence_length=16, eos_token_id=0)
model = build_model(config, seed=1)
"""

SECTIONS = {
    "A reader": READER,
    "A rule": RULE,
    "A reward": """
from cluster.core.specs.spec import convert
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.rewards.named import named
from pipelines.stages.alignment.rewards.pool import Pool
from pipelines.stages.alignment.rewards.sample import Sample

spec = convert({"rewards": {"concise": 1.0, "short": {"type": "concise", "lines": 2}}}, RlhfSpec, "rlhf")
samples = [Sample([{"role": "user", "content": "Count."}], "one\\ntwo\\nthree", ended) for ended in (True, False)]
pool = Pool(named(spec.rewards), 0, 1, 1 << 30)
assert pool.score(samples, 60) == {"concise": [1 / 3, 0.0], "short": [2 / 3, 0.0]}
pool.close()
""",
    "An objective": MODEL
    + """
import numpy as np
from cluster.core.specs.spec import convert
from pipelines.stages.training.models.models import require_objective
from pipelines.stages.training.objectives.markers import Markers
from pipelines.stages.training.objectives.objective import Drawing
from pipelines.stages.training.objectives.objectives import objective_for
from pipelines.stages.training.samples import Sampler

spec = convert({"objective": "continuation"}, PretrainSpec, "pretrain")
for name in spec.shares:
    require_objective("llama", name)
sampler = Sampler(spec.shares, Drawing(spec.masked_fraction, Markers({}, np.arange(1, 50), None, 50), 0))
batch = sampler.batch(np.arange(34).reshape(2, 17), [[0, 1], [0, 2]])
objective = objective_for(spec.shares)(model, 0, "fp32").eval()
count = objective.count_labels(batch)
assert 0 < count < 32
with torch.no_grad():
    assert 0 < float(objective(batch)) / count < 6
""",
    "An optimizer": MODEL
    + """
from cluster.core.specs.spec import convert
from pipelines.stages.training.optimizers.optimizers import build_optimizer
from pipelines.stages.training.sizing.footprint import trace

spec = convert({"optimizer": "lion", "learning_rate": 0.01}, PretrainSpec, "pretrain")
weight = model.get_input_embeddings().weight
before = weight.detach().clone()
optimizer = build_optimizer(model, spec)
optimizer.set_factor(1.0)
for parameter in model.parameters():
    parameter.grad = torch.ones_like(parameter)
optimizer.step()
assert torch.allclose(before - weight, torch.tensor(0.01))
assert trace(config, spec, 16).state_bytes == 4 * model.num_parameters()
""",
    "A stage": """
import sys
assert "torch" not in sys.modules
import io
import pyarrow as pa
import pyarrow.parquet as pq
from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import SPECS, CorpusSpec
from tests.made import make

file = io.BytesIO()
pq.write_table(pa.table({"text": ["a\\nbb", "twelve chars"]}), file)
store = Store(sys.argv[1])
corpus = make(store, CorpusSpec(), {}, {"train/part-00000.parquet": file.getvalue()}, "texts")
found = build(SPECS["line_lengths"](), {"corpus": corpus}, store=store, name="texts")
assert found.metrics == {"lines": 3}
assert found.location.read_bytes("counts.json") == b'{"0": 2, "10": 1}'
""",
}


def diff_of(section: str) -> str:
    """The change that a section of the guide shows."""
    found = re.search(rf"^## {re.escape(section)}\n(?:(?!^## ).*\n)*?```diff\n((?:.*\n)*?)```$", GUIDE, re.MULTILINE)
    assert found, section
    return found[1]


def test_every_change_is_run() -> None:
    assert GUIDE.count("```diff") == len(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_change_is_one_file_and_one_line(section: str) -> None:
    files = diff_of(section).split("diff --git ")[1:]
    (listing,) = [file for file in files if "\nnew file mode " not in file]
    assert len(files) == 2
    assert re.findall(r"^-(?!-- )|^\+(?!\+\+ )", listing, re.MULTILINE) == ["+"]


@pytest.mark.heavy
@pytest.mark.parametrize("section", SECTIONS)
def test_a_change_does_what_it_says(section: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        # With what is compiled already, but for what another process is writing just now.
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc.*"))
    apply = ["git", "apply", "--whitespace=error", "-"]
    done = subprocess.run(apply, input=diff_of(section), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = f"import cluster\nassert cluster.__file__.startswith({str(tmp_path)!r})\n{SECTIONS[section]}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
