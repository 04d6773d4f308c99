"""First changes that the docs show whole: each is one new file and one line in a listing, and works as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUIDE = ROOT / "docs" / "first-change-training.md"
SECTION = re.compile(r"^## (.+?)\n.*?^```diff\n(.*?)^```", re.MULTILINE | re.DOTALL)
DIFFS = dict(SECTION.findall(GUIDE.read_text()))

MODEL = """
import torch
from pipelines.specs import PretrainSpec
from pipelines.stages.training.models.models import build_model, configuration

config = configuration("llama-1m", {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
                       vocab_size=50, sequence_length=16, eos_token_id=0)
model = build_model(config, seed=1)
"""

# What uses each of them, by its section.
RUNS = {
    "A reward": """
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.rewards.calls import apply
from pipelines.stages.alignment.rewards.rewards import reward_function
from pipelines.stages.alignment.rewards.sample import Sample

RlhfSpec(rewards={"concise": 1.0}).check()
samples = [Sample([{"role": "user", "content": "Count."}], "one\\ntwo", finished) for finished in (True, False)]
assert apply("concise", reward_function("concise"), samples, 60) == [0.5, 0.0]
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


def test_the_guide_has_what_is_run() -> None:
    assert DIFFS.keys() == RUNS.keys()


@pytest.mark.parametrize("name", DIFFS)
def test_one_new_file_and_one_line(name: str) -> None:
    new, listing = re.split(r"(?m)^(?=diff --git )", DIFFS[name])[1:]
    assert "--- /dev/null" in new
    changed = [line for line in listing[listing.index("@@") :].splitlines() if line[:1] in "+-"]
    assert len(changed) == 1 and changed[0].startswith("+")


@pytest.mark.parametrize("name", DIFFS)
def test_it_works(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in ("cluster", "pipelines", "serving"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], input=DIFFS[name], text=True, cwd=copy, check=True)
    done = subprocess.run(
        [sys.executable, "-c", RUNS[name], str(tmp_path / "store")],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
