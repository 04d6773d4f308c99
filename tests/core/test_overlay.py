"""What merges and what replaces, and the nearest name at any depth, from a file, --set and a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import SpecError, nearest
from cluster.core.graph import read_changes
from cluster.core.specs.spec import override
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline
from pipelines.specs import (
    CorpusSpec,
    InfraSpec,
    JsonLinesSource,
    Length,
    LineDedup,
    MinHash,
    MixturePhase,
    MixtureSpec,
    PretrainSpec,
    RlhfSpec,
    ScalingSpec,
    TextSource,
)
from tests.core.toys import WordsSpec


@pytest.mark.parametrize(
    ("spec", "changes", "field", "value"),
    [
        (RlhfSpec(rewards={"python_parses": 1.0, "reward_model": 0.5}), {"rewards": {"m:f": 2}}, "rewards", {"m:f": 2}),
        (MixtureSpec(weights={"a": 1, "b": 2}), {"weights": {"b": 3}}, "weights", {"b": 3}),
        (MixtureSpec(max_epochs_of={"a": 1}), {"max_epochs_of": {}}, "max_epochs_of", {}),
        (
            PretrainSpec(objective={"infilling_short": 1, "infilling_document": 1}),
            {"objective": {"infilling_short": 1}},
            "objective",
            {"infilling_short": 1},
        ),
        (
            PretrainSpec(model={"model_type": "gpt2", "n_embd": 8}),
            {"model": {"model_type": "llama"}},
            "model",
            {"model_type": "llama"},
        ),
        (PretrainSpec(model_overrides={"a": {"b": 1}}), {"model_overrides": {"a": {"c": 2}}}, "model_overrides",
         {"a": {"c": 2}}),
        (ScalingSpec(deepspeed_overrides={"a": 1}), {"deepspeed_overrides": {"b": 2}}, "deepspeed_overrides", {"b": 2}),
        (InfraSpec(gpu_node_selector={"a": "b"}), {"gpu_node_selector": {"c": "d"}}, "gpu_node_selector", {"c": "d"}),
        (CorpusSpec(minhash=MinHash(rows=5)), {"minhash": {"bands": 3}}, "minhash", MinHash(rows=5, bands=3)),
        (CorpusSpec(), {"line_dedup": {"unit": "paragraph"}}, "line_dedup", LineDedup(unit="paragraph")),
        (CorpusSpec(rules=(Length(min_words=3),)), {"rules": []}, "rules", ()),
    ],
)  # fmt: skip
def test_a_struct_is_merged_and_a_value_replaced(spec: Any, changes: dict, field: str, value: Any) -> None:
    assert getattr(override(spec, changes, spec.kind), field) == value


def test_an_empty_mapping_is_a_value_too() -> None:
    with pytest.raises(SpecError, match=r"rlhf\.rewards: nothing to learn from"):
        override(RlhfSpec(rewards={"python_parses": 1.0}), {"rewards": {}}, "rlhf")


def changed(tmp_path: Path, store: Store, spec: Any, config: str, *sets: str) -> Any:
    file = tmp_path / "run.yaml"
    file.write_text(config)
    changes = read_changes(file, list(sets))
    return Pipeline(lambda step: step(spec)).graph(store, changes).steps[0].spec


SOURCES = (TextSource(path="a", license="MIT"), JsonLinesSource(path="b", text_field="body"))


@pytest.mark.parametrize(
    ("config", "sets", "minhash", "sources"),
    [
        ("", ["corpus.minhash.bands=3"], MinHash(rows=5, bands=3), SOURCES),
        ("corpus: {minhash: {bands: 3}}", ["corpus.minhash={shingle_words: 2}"],
         MinHash(rows=5, bands=3, shingle_words=2), SOURCES),
        ("", ["corpus.sources.1.text_field=x"], MinHash(rows=5),
         (SOURCES[0], JsonLinesSource(path="b", text_field="x"))),
        ("", ["corpus.sources.0={reader: jsonl, path: c}"], MinHash(rows=5), (JsonLinesSource(path="c"), SOURCES[1])),
        ("corpus: {sources: [{reader: text, path: z}]}", ["corpus.sources.0.name=n"], MinHash(rows=5),
         (TextSource(path="z", name="n"),)),
    ],
)  # fmt: skip
def test_layers_of_structs(
    tmp_path: Path, store: Store, config: str, sets: list[str], minhash: MinHash, sources: tuple
) -> None:
    found = changed(tmp_path, store, CorpusSpec(minhash=MinHash(rows=5), sources=SOURCES), config, *sets)
    assert (found.minhash, found.sources) == (minhash, sources)


@pytest.mark.parametrize(
    ("config", "sets", "rewards"),
    [
        ("rlhf: {rewards: {a: 1}}", [], {"a": 1}),
        ("", ["rlhf.rewards={a: 1}"], {"a": 1}),
        ("rlhf: {rewards: {a: 1}}", ["rlhf.rewards={b: 2}"], {"b": 2}),
        ("", ["rlhf.rewards.a=1"], {"python_parses": 1, "a": 1}),
        ("rlhf: {rewards: {a: 1}}", ["rlhf.rewards.b=2", "rlhf.rewards.c=3"], {"a": 1, "b": 2, "c": 3}),
        ("", ["rlhf.rewards.a=1", "rlhf.rewards={b: 2}"], {"b": 2}),
    ],
)
def test_layers_of_values(tmp_path: Path, store: Store, config: str, sets: list[str], rewards: dict) -> None:
    from cluster.core.specs.overlay import combine, lay

    file = tmp_path / "run.yaml"
    file.write_text(config)
    changes = read_changes(file, sets)
    assert lay(RlhfSpec, {"rewards": {"python_parses": 1.0}}, changes["rlhf"])["rewards"] == rewards
    assert combine(changes, changes)["rlhf"].keys() == {"rewards"}


PHASED = MixtureSpec(phases=(MixturePhase(weights={"a": 1}, until_tokens=5),))


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (CorpusSpec(), {"minhash": {"bnds": 3}}, "corpus.minhash.bnds: unknown field. Did you mean 'bands'"),
        (CorpusSpec(), {"near_duplicates": "drp"}, "corpus.near_duplicates: .*'drp'. Did you mean 'drop'"),
        (CorpusSpec(), {"near_duplicates": "Drop"}, "Did you mean 'drop'"),
        (CorpusSpec(), {"rules": [{"rule": "code_parot"}]}, r"corpus.rules\[0\].rule: .*Did you mean 'code_parrot'"),
        (CorpusSpec(), {"rules": [{"rule": "code-parrot"}]}, "Did you mean 'code_parrot'"),
        (CorpusSpec(), {"rules": [{"rule": "length", "min_word": 3}]}, r"corpus.rules\[0\].min_word: .*'min_words'"),
        (CorpusSpec(), {"rules": [{"min_words": 3}]}, r"corpus.rules\[0\]: 'rule' is missing"),
        (CorpusSpec(), {"sources": [{"reader": "txt", "path": "x"}]}, r"corpus.sources\[0\].reader: .*'text'"),
        (CorpusSpec(), {"sources": [{"reader": "jsonl", "path": "x", "asign": "train"}]}, "'assign'"),
        (CorpusSpec(), {"sources": [{"reader": "text", "assign": "heldot"}]}, r"sources\[0\].assign: .*'heldout'"),
        (CorpusSpec(), {"line_dedup": {"unit": "paragrah"}}, "corpus.line_dedup.unit: .*'paragraph'"),
        (PretrainSpec(), {"objective": "causel"}, "pretrain.objective: .*'causal'"),
        (PretrainSpec(), {"objective": {"infilling_shrt": 1}}, "pretrain.objective: .*'infilling_short'"),
        (PHASED, {"phases": [{"weigths": {"a": 1}}]}, r"mixture.phases\[0\].weigths: .*'weights'"),
        (CorpusSpec(near_duplicates="drp"), {}, "Did you mean 'drop'"),  # type: ignore[arg-type]
    ],
)
def test_the_nearest_name_at_any_depth(spec: Any, changes: dict, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        override(spec, changes, spec.kind)


@pytest.mark.parametrize("sets", ["corpus.minhash.bnds=3", "corpus.sources.0.reader=txt", "corpus.sources.7.path=x"])
def test_the_nearest_name_of_a_path(tmp_path: Path, store: Store, sets: str) -> None:
    with pytest.raises(SpecError, match=r"'bands'|'text'|corpus.sources: no item '7': there are 2"):
        changed(tmp_path, store, CorpusSpec(sources=SOURCES), "", sets)


def test_a_wrong_field_in_a_script_names_the_nearest(tmp_path: Path, store: Store) -> None:
    with pytest.raises(SpecError, match=r"test_overlay.py:\d+: unknown field 'wrds'. Did you mean 'words'"):
        Pipeline(lambda step: step(WordsSpec(wrds=("a",)))).graph(store)  # type: ignore[call-arg]
    with pytest.raises(SpecError, match=r"test_overlay.py:\d+: .*'bnds'. Did you mean 'bands'"):
        Pipeline(lambda step: step(CorpusSpec(minhash=MinHash(bnds=1)))).graph(store)  # type: ignore[call-arg]


def test_nearest_passes_over_capitals_and_hyphens() -> None:
    assert nearest("Near-Duplicates", ["minhash", "near_duplicates"]) == "Did you mean 'near_duplicates'?"
    assert nearest("qqq", ["b", "a"]) == "Known: a, b."
