"""What specs and the inputs' own files can tell is refused before a cluster, an engine or a worker starts."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from cluster.core.build import build
from cluster.core.errors import TrunklineError
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    ConversationsSpec,
    Distillation,
    DpoSpec,
    Gae,
    Kto,
    Lora,
    PreferencesSpec,
    PretrainedSpec,
    ReferenceSpec,
    RewardSpec,
    RlhfSpec,
    ScalingSpec,
    SftSpec,
    Simpo,
    Spec,
    ValueFunction,
)
from pipelines.stages.alignment.checks import require_transport
from pipelines.stages.alignment.offline.answers import digest, last_answer
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.tuning.templates import prepare
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.made import make


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A model folder of 256 positions that chats, without its weights: whatever reads them fails."""
    folder = tmp_path_factory.mktemp("files")
    write_conversations(folder / "functions.jsonl", 40)
    write_model(folder / "model", folder / "functions.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prepare(tokenizer, "completion")
    tokenizer.save_pretrained(folder / "model")
    return {p.name: p.read_bytes() for p in (folder / "model").iterdir() if p.suffix != ".safetensors"}


@pytest.fixture
def conversations(store: Store, tmp_path: Path) -> Artifact:
    write_conversations(tmp_path / "functions.jsonl", 40)
    spec = ConversationsSpec(source="file", path=str(tmp_path / "functions.jsonl"), heldout_fraction=0.2)
    return build(spec, {}, store=store, name="tiny")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )


def model(store: Store, files: dict[str, bytes], spec: Spec | None = None, **changes: Any) -> Artifact:
    """The model with a changed configuration; None takes a field away."""
    config = json.loads(files["config.json"]) | changes
    data = json.dumps({name: value for name, value in config.items() if value is not None}).encode()
    name = f"m{abs(hash(data))}"
    return make(store, spec or PretrainedSpec(source=name), {}, files | {"config.json": data}, name)


def refused(spec: Spec, inputs: dict[str, Artifact], store: Store, words: str, **scaling: Any) -> None:
    with pytest.raises(TrunklineError, match=words) as caught:
        spec.check()
        build(spec, inputs, store=store, scaling=ScalingSpec(**scaling), name="x")
    assert caught.value.exit_code == 3
    assert caught.value.remedy


RLHF: dict[str, Any] = {"steps": 2, "group_size": 4, "global_batch_size": 8, "max_prompt_tokens": 128}

MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "quantized": ({"quantization_config": {"quant_method": "x"}}, "is quantized: its weights cannot be trained"),
    "BERT": ({"model_type": "bert"}, "of the family 'bert', which does not write from left to right"),
    "GLM of our own": ({"model_type": "blank_glm"}, "'blank_glm', which does not write from left to right"),
    "too few rows": ({"vocab_size": 100}, "its tokenizer has 300 token ids, and the model rows for 100"),
}


@pytest.mark.parametrize("fault", MODELS)
@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "rlhf"])
def test_a_model_that_cannot_be_trained(
    kind: str, fault: str, store: Store, files: dict[str, bytes], conversations: Artifact
) -> None:
    changes, words = MODELS[fault]
    inputs = {"model": model(store, files, **changes)}
    spec: Spec
    if kind == "sft":
        spec, inputs["conversations"] = SftSpec(method=Lora()), conversations
    elif kind == "rlhf":
        spec, inputs["prompts"] = RlhfSpec(**RLHF | {"max_completion_tokens": 64}), conversations
    else:
        spec = RewardSpec() if kind == "reward" else DpoSpec(loss=Simpo(), method=Lora())
        inputs["preferences"] = build(PreferencesSpec(), {"conversations": conversations}, store=store, name="tiny")
    refused(spec, inputs, store, words)


def test_a_reference_that_does_not_know_the_answers(
    store: Store, files: dict[str, bytes], conversations: Artifact
) -> None:
    """It was made for another length, or without what KTO asks."""
    pairs = build(PreferencesSpec(), {"conversations": conversations}, store=store, name="tiny")
    inputs = {"model": model(store, files), "preferences": pairs}
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    rows = [row for split in ("train", "heldout") for row in read_preferences(pairs.local(), split)]
    digests = [
        digest(last_answer(tokenizer, row["prompt"], row[side])) for row in rows for side in ("chosen", "rejected")
    ]
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array(digests[2:], np.uint64), logprobs=np.full(len(digests) - 2, -9.0))
    inputs["reference"] = make(store, ReferenceSpec(), inputs, {"logprobs.npz": buffer.getvalue()}, "r")
    refused(DpoSpec(), inputs, store, r"reference/r-\w+ does not have [12] of the \d+ sequences")
    inputs["preferences"] = build(PreferencesSpec(seed=1), {"conversations": conversations}, store=store, name="tiny")
    refused(DpoSpec(loss=Kto()), inputs, store, "and for kto with `mismatched: true`")
    refused(
        DpoSpec(template="llama3"), inputs, store, r"dpo\.template: llama3 needs .* which the model's tokenizer has not"
    )


def test_a_family_without_a_classifier(store: Store, files: dict[str, bytes], conversations: Artifact) -> None:
    pairs = build(PreferencesSpec(), {"conversations": conversations}, store=store, name="tiny")
    inputs = {"model": model(store, files, model_type="codegen"), "preferences": pairs}
    refused(RewardSpec(), inputs, store, "no sequence classifier of the family 'codegen'")


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 256),
        ({"max_position_embeddings": None, "n_positions": 200, "model_type": "gpt2"}, 200),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 150, "vocab_size": 300}}, 150),
    ],
)
def test_prompt_and_completion_beyond_the_policys_context(
    store: Store, files: dict[str, bytes], conversations: Artifact, changes: dict[str, Any], limit: int
) -> None:
    inputs = {"model": model(store, files, **changes), "prompts": conversations}
    words = rf"rlhf.max_prompt_tokens and rlhf.max_completion_tokens: 128 and 129 are 257 tokens .* takes {limit}\."
    refused(RlhfSpec(**RLHF | {"max_completion_tokens": 129}), inputs, store, words)


def test_prompt_and_completion_beyond_the_reward_models_context(
    store: Store, files: dict[str, bytes], conversations: Artifact
) -> None:
    """In the reward model's own tokens, of the longest prompt that is there."""
    reward = model(store, files, RewardSpec(), model_type="gpt2", max_position_embeddings=None, n_positions=96)
    inputs = {"model": model(store, files), "prompts": conversations, "reward": reward}
    spec = RlhfSpec(**RLHF | {"max_completion_tokens": 90, "rewards": {"reward_model": 1.0}})
    refused(
        spec, inputs, store, r"rlhf.max_prompt_tokens: prompt functions.jsonl:\d+ and a completion of 90 .* takes 96"
    )


def test_a_reward_model_without_a_chat_template(store: Store, files: dict[str, bytes], conversations: Artifact) -> None:
    plain = {name: data for name, data in files.items() if not name.startswith("chat_template")}
    inputs = {"model": model(store, files), "prompts": conversations, "reward": model(store, plain, RewardSpec())}
    spec = RlhfSpec(**RLHF | {"max_completion_tokens": 9, "rewards": {"reward_model": 1.0}})
    refused(spec, inputs, store, "chat template")


def test_a_teacher_that_cannot_read_what_the_policy_writes(
    store: Store, files: dict[str, bytes], conversations: Artifact
) -> None:
    """Or a critic that begins as a reward model of another tokenizer."""
    tokenizer = json.loads(files["tokenizer.json"])
    vocabulary = tokenizer["model"]["vocab"]
    first, second = [piece for piece, number in vocabulary.items() if number in (40, 41)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    other = files | {"tokenizer.json": json.dumps(tokenizer).encode()}
    spec = RlhfSpec(**RLHF | {"max_completion_tokens": 64, "advantage": Distillation(), "rewards": {}})
    inputs = {"model": model(store, files), "prompts": conversations}
    refused(spec, inputs, store, "`distillation` and the input `teacher` go together")
    refused(spec, inputs | {"teacher": model(store, other, hidden_act="relu")}, store, "as the teacher .* is not the")
    short = model(store, files, max_position_embeddings=100)
    refused(spec, inputs | {"teacher": short}, store, "192 tokens together, and the teacher, .* takes 100")
    critic = Gae(critic=ValueFunction(start="reward"))
    spec = RlhfSpec(**RLHF | {"max_completion_tokens": 64, "advantage": critic, "rewards": {"reward_model": 1.0}})
    inputs["reward"] = model(store, other, RewardSpec(), hidden_act="relu")
    refused(spec, inputs, store, "as a critic .* is given the policy's token ids")


@pytest.mark.parametrize(
    ("fields", "scaling", "words"),
    [
        ({"rewards": {"json:dumps": 1.0, "json:no": 1.0}}, {}, "rlhf.rewards: json:no cannot be imported"),
        ({"rewards": {"operator:add": 1.0}}, {}, r"operator:add\(a, b, /\) cannot be called with one Sample"),
        ({"rewards": {"math:pi": 1.0}}, {}, "math:pi is a value of type float, not a function"),
        ({"rewards": {"reward_modell": 1.0}}, {}, "no function 'reward_modell'. Did you mean 'reward_model'"),
        ({"rewards": {"reward_model": 1.0}}, {}, "`reward_model` and the input `reward` go together"),
        ({"rewards": {}}, {}, "rlhf.rewards: nothing to learn from"),
        ({}, {"num_workers": 3}, "rlhf.global_batch_size: 8 sequences do not divide among 3 workers"),
        ({"group_size": 3}, {}, "rlhf.group_size: 3 does not divide the global batch of 8"),
        ({"max_prompt_tokens": 8}, {}, "no train prompt fits into 8 tokens"),
        ({}, {"sequence_parallel_size": 2}, "rlhf does not share sequences"),
        ({"max_staleness": 1}, {"colocated_fraction": 0.4}, "engines rest while workers learn"),
    ],
)
def test_fields_of_rlhf(
    store: Store,
    files: dict[str, bytes],
    conversations: Artifact,
    fields: dict[str, Any],
    scaling: dict[str, Any],
    words: str,
) -> None:
    inputs = {"model": model(store, files), "prompts": conversations}
    refused(RlhfSpec(**RLHF | {"max_completion_tokens": 64} | fields), inputs, store, words, **scaling)


def test_weights_that_have_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_transport(ScalingSpec())
    with pytest.raises(TrunklineError, match=r"scaling.weight_transport: nixl needs the package"):
        require_transport(ScalingSpec(weight_transport="nixl"))
    with pytest.raises(TrunklineError, match=r"scaling.gpus_per_rollout: engines beside workers"):
        convert({"colocated_fraction": 0.4, "gpus_per_rollout": 1}, ScalingSpec, "scaling")


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), 0])
def test_weights_that_teach_nothing(weight: float) -> None:
    with pytest.raises(
        TrunklineError, match=r"rlhf\.rewards(: nothing to learn from|\.python_parses: .* not a finite)"
    ):
        convert({"rewards": {"python_parses": weight}}, RlhfSpec, "rlhf")


def test_a_name_that_is_not_built_in_is_refused_when_the_spec_is_read() -> None:
    with pytest.raises(TrunklineError, match="Did you mean 'python_parses'"):
        convert({"rewards": {"python_parse": 1.0}}, RlhfSpec, "rlhf")
    assert convert({"rewards": {"my_rules:length": 1}}, RlhfSpec, "rlhf").rewards == {"my_rules:length": 1}
