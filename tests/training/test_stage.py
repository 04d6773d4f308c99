"""The stage on a real cluster: its artifact, and that SIGTERM of a worker saves first and changes no bit.

Kills and SIGTERM of the driver: test_chaos, tests/cluster/test_signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from cluster.core.build import build
from cluster.core.errors import JobError, SpecError
from cluster.core.metrics import METRICS_FILE, TIMED, read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from pipelines.stages.training.checkpoints.checkpoints import Part
from tests.training.run_once import SCALING
from tests.training.tiny import BATCH, LENGTH, make_tokens, pretrain

pytestmark = pytest.mark.heavy

STEPS = 240
SCRIPT = Path(__file__).with_name("run_once.py")

Report = Callable[[float, float, str, dict[str, Any]], None]


def run(root: Path, spec: PretrainSpec, report: Report = lambda *progress: None, **scaling: Any) -> Artifact:
    store = Store(root)
    scaled = msgspec.structs.replace(SCALING, **scaling)
    return build(spec, {"tokens": make_tokens(store)}, store=store, scaling=scaled, name="tiny", report=report)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Artifact, list[Any]]:
    """A run that nothing happens to, with a checkpoint only if it is slow, and the progress that it told."""
    progress: list[Any] = []
    artifact = run(
        tmp_path_factory.mktemp("undisturbed"),
        pretrain(STEPS, optimizer="muon"),
        lambda *told: progress.append(told),
        checkpoint_every_seconds=1000.0,
    )
    return artifact, progress


def lines(artifact: Artifact) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read(artifact.location)]


def same(artifact: Artifact, reference: Artifact) -> None:
    assert artifact.metrics == reference.metrics
    assert artifact.record.files["model.safetensors"] == reference.record.files["model.safetensors"]
    assert lines(artifact) == lines(reference)


def committed(root: Path) -> list[Path]:
    return sorted(root.glob(".staging/pretrain-*/.train/checkpoints/step-*/00001-of-00002.part"))


def last_step(root: Path) -> int:
    """The step of the newest checkpoint."""
    return Part.decode(committed(root)[-1].read_bytes()).step


def await_checkpoints(root: Path, count: int = 1) -> None:
    """Return once a run below `root` has committed a checkpoint; its file system sends no events."""
    pause, deadline = threading.Event(), time.monotonic() + 480
    while len(committed(root)) < count:
        assert time.monotonic() < deadline, "no checkpoint"
        pause.wait(0.1)


def steps_told(root: Path) -> int:
    """The last step in the metrics of a run below `root`, which is not finished."""
    places = [path.parent for path in root.glob(f".staging/pretrain-*/{METRICS_FILE}")]
    found = read(Location(places[0])) if places else []
    return int(found[-1]["step"]) if found else 0


def await_steps(root: Path, steps: int) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 480
    while steps_told(root) < steps:
        assert time.monotonic() < deadline, "no steps"
        pause.wait(0.1)


def descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def training_workers() -> list[int]:
    """Process ids of the training workers of the cluster that this process started."""
    found = []
    for pid in descendants(os.getpid()):
        try:
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_the_artifact_is_a_hugging_face_folder(undisturbed: tuple[Artifact, list[Any]]) -> None:
    artifact, progress = undisturbed
    files = set(artifact.record.files)
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", METRICS_FILE} <= files
    assert not [name for name in files if name.startswith(".train")]
    model = AutoModelForCausalLM.from_pretrained(artifact.local())
    assert sum(p.numel() for p in model.parameters()) == artifact.metrics["parameters"]
    assert artifact.metrics["steps"] == STEPS
    assert artifact.metrics["tokens"] == STEPS * BATCH * LENGTH
    assert artifact.metrics["validation_loss"] < 0.7 * read(artifact.location)[0]["loss"]
    assert [line["step"] for line in read(artifact.location)] == list(range(10, STEPS + 1, 10))
    assert progress[-1][:3] == (STEPS, STEPS, "steps")


def test_validation_loss_is_what_the_saved_model_has(undisturbed: tuple[Artifact, list[Any]]) -> None:
    from pipelines.stages.tokens.reader import TokenStore
    from pipelines.stages.training.objectives.causal import CausalLM
    from pipelines.stages.training.sources import stack

    artifact, _ = undisturbed
    heldout = TokenStore(artifact.parent("tokens").local(), "heldout")
    model = AutoModelForCausalLM.from_pretrained(artifact.local())
    with torch.no_grad():
        loss = CausalLM(model, heldout.eos_token_id, "fp32")(stack(heldout, list(range(11))))
    assert float(loss) / (11 * LENGTH) == pytest.approx(artifact.metrics["validation_loss"], rel=1e-5)


def test_sigterm_of_a_worker_saves_first(undisturbed: tuple[Artifact, list[Any]], tmp_path: Path) -> None:
    """A worker whose node is taken away: it saves, goes, and is replaced; no step is taken twice."""
    saved: list[int] = []

    def terminate() -> None:
        await_steps(tmp_path, 20)
        assert not committed(tmp_path)
        os.kill(training_workers()[-1], signal.SIGTERM)
        await_checkpoints(tmp_path)
        saved.append(last_step(tmp_path))

    terminator = threading.Thread(target=terminate)
    terminator.start()
    artifact = run(tmp_path, pretrain(STEPS, optimizer="muon"), checkpoint_every_seconds=1000.0)
    terminator.join()
    assert saved and saved[0] >= 20
    same(artifact, undisturbed[0])


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step(ray_cluster: None, tmp_path: Path) -> None:
    spec = pretrain(STEPS, learning_rate=1e30, max_grad_norm=0.0, warmup_steps=0)
    with pytest.raises(JobError, match=r"diverged at step \d"):
        run(tmp_path, spec)


def test_what_is_wrong_is_told_before_a_cluster_is_asked_for(
    tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("a cluster was started"))
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )
    with pytest.raises(SpecError, match="Did you mean 'num_hidden_layers'"):
        run(tmp_path, pretrain(1, model_overrides={"num_hidden_layer": 2}))
    with pytest.raises(SpecError, match="3 workers"):
        run(tmp_path, pretrain(1), num_workers=3)
    with pytest.raises(SpecError, match=r"deepspeed_overrides\.gradient_clipping"):
        run(tmp_path, pretrain(1), deepspeed_overrides={"gradient_clipping": 0.5})
