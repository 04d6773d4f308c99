"""Tasks of lm-eval on a model of the store: the figures are those of lm-eval's own command line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.evaluation import ARC_FILE, WIKITEXT_FILE, compare, directly, spec_of
from cluster.core.errors import InputError, NotReadyError
from cluster.core.storage.artifact import Artifact
from cluster.pipeline import build
from pipelines.specs import BenchmarkSpec
from pipelines.stages.evaluation.results import RESULTS_FILE, SAMPLES_FILE, Outcome, Results, aggregate
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.heavy

QUESTIONS = 8

pytest.importorskip("lm_eval")
for name in (ARC_FILE, WIKITEXT_FILE):
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"{SHARED_DATA / name} is missing", allow_module_level=True)


def write_beginning(folder: Path) -> None:
    """The first questions of ARC-easy, and the beginnings of the first two pages of WikiText."""
    for name in (ARC_FILE, WIKITEXT_FILE):
        (folder / name).parent.mkdir(parents=True)
    lines = (SHARED_DATA / ARC_FILE).read_text().splitlines(keepends=True)
    (folder / ARC_FILE).write_text("".join(lines[:QUESTIONS]))
    lines = (SHARED_DATA / WIKITEXT_FILE).read_text().split("\n")
    titles = [number for number, line in enumerate(lines) if line.startswith(" = ") and not line.startswith(" = =")]
    (folder / WIKITEXT_FILE).write_text("\n".join([*lines[: titles[0] + 4], *lines[titles[1] : titles[1] + 4]]))


def test_figures_are_those_of_lm_eval_run_directly(smollm2_model: Artifact, tmp_path: Path) -> None:
    """Every digit that lm-eval writes, of ARC-easy and WikiText."""
    write_beginning(tmp_path)
    spec = spec_of(tmp_path, limit=0, max_length=256)
    made = build(spec, {"model": smollm2_model}, store=smollm2_model.store, name="smollm2")
    direct, _ = directly(smollm2_model.local(), spec)
    for name, ours, theirs in compare(made, direct):
        assert ours == theirs, name

    report = msgspec.json.decode(made.location.read_bytes(RESULTS_FILE), type=Results)
    outcomes = msgspec.json.Decoder(Outcome).decode_lines(made.location.read_bytes(SAMPLES_FILE))
    assert set(report.data_sha256) == set(spec.tasks)
    assert report.versions["lm_eval"]
    for result in report.results:
        own = [o for o in outcomes if (o.task, o.metric) == (result.task, result.metric)]
        assert len(own) == result.samples == {"arc_easy": QUESTIONS, "wikitext": 2}[result.task]
        again = aggregate(result.aggregation, [o.value for o in own], [o.weight for o in own])
        assert again == pytest.approx(result.value)
        assert result.ci_low is not None and result.ci_high is not None
        assert result.ci_low <= result.value <= result.ci_high


@pytest.mark.exhaustive
def test_what_cannot_be_asked_is_named(smollm2_model: Artifact, tmp_path: Path) -> None:
    def said(**fields: object) -> str:
        with pytest.raises((InputError, NotReadyError)) as raised:
            build(BenchmarkSpec(**fields), {"model": smollm2_model}, store=smollm2_model.store, name="x")  # type: ignore[arg-type]
        return str(raised.value)

    assert "Did you mean 'arc_easy'?" in said(tasks=("arc_eazy",))
    assert "holds no data of arc_easy" in said(tasks=("arc_easy",), data=str(tmp_path))
    assert "hold no solved examples" in said(tasks=("arc_easy",), data=str(SHARED_DATA), num_fewshot=5)
