"""Policies that are an adapter: what engines make of its tensors is what the learner computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from cluster.core.build import build
from cluster.core.errors import SpecError
from cluster.core.metrics import read
from cluster.core.specs.spec import convert, fields, fingerprint
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import AdapterSpec, PretrainedSpec, RlhfSpec, ScalingSpec
from pipelines.stages.alignment.adapter_sync import Frozen, Updates, open_policy
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.sync import greedy
from pipelines.stages.generation.engine import EngineOptions, checksum
from pipelines.stages.generation.fleet import Fleet, start
from pipelines.stages.training.models.models import load_model
from pipelines.stages.tuning.methods import Lora, QLora
from pipelines.stages.tuning.methods.lora import LowRank
from tests.alignment.tiny_chat import SCALING, rlhf, write_conversations, write_model

METHODS: dict[str, LowRank] = {
    "all": Lora(rank=4),
    "some, rslora": Lora(rank=4, targets=("q_proj", "down_proj"), rslora=True),
    "packed": QLora(rank=4),
    "packed, one updated": QLora(rank=4, targets=("q_proj",), double_quantization=False),
}
PROMPTS = [[5, 6, 7], [40, 41], list(range(50, 90))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapted")
    write_conversations(found / "functions.jsonl", 50)
    write_model(found / "model", found / "functions.jsonl")
    return found / "model"


def policy_of(method: LowRank, folder: Path, seed: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """A policy whose updates are large, and these."""
    policy = open_policy(Updates(method, "fp32", 0), folder)[1].eval()
    torch.manual_seed(seed)
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return policy, {name: parameter.detach().clone() for name, parameter in trained.items()}


@pytest.mark.heavy
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.timeout(600)
def test_the_weights_that_are_made_of_an_adapter_compute_what_the_policy_does(name: str, folder: Path) -> None:
    method = METHODS[name]
    policy, adapter = policy_of(method, folder, 1)
    assert all(".lora_" in each for each in adapter)
    merger = Updates(method, "fp32", 0).open(folder)
    made, plain = dict(merger.merged(adapter)), load_model(folder)
    before = {each: parameter.detach().clone() for each, parameter in plain.named_parameters()}
    assert checksum(merger.stored()) == checksum(before[each] for each in made)
    assert not plain.load_state_dict(made, strict=False).unexpected_keys
    tokens = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        found, expected = (token_logprobs(model.eval(), tokens, 1.0) for model in (plain, policy))
        begun = token_logprobs(Frozen(policy), tokens, 1.0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert float((found - begun).abs().max()) > 0.1
    if isinstance(method, Lora):
        whole = policy.merge_and_unload()
        assert all(torch.equal(whole.get_parameter(each), weight) for each, weight in made.items())
        torch.testing.assert_close(begun, token_logprobs(load_model(folder).eval(), tokens, 1.0).detach())
    again = dict(merger.merged(policy_of(method, folder, 2)[1]))  # nothing stays of the adapter before
    assert not any(torch.equal(again[each], made[each]) for each in made if "q_proj" in each)
    assert all(torch.equal(weight, made[each]) for each, weight in merger.merged(adapter))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": {"type": "prompt-tuning"}}, "rlhf.method: engines take whole weights"),
        ({"method": {"type": "freeze"}}, "rlhf.method: engines take whole weights"),
        ({"method": {"type": "lora", "dora": True}}, "rlhf.method.dora"),
        ({"method": {"type": "lora", "init": "pissa"}}, "rlhf.method.init"),
        ({"method": {"type": "lora", "also": ["head"]}}, "rlhf.method.also"),
        ({"method": {"type": "qlora", "weights": "int8"}}, "rlhf.method.weights"),
        ({"method": {"type": "lora"}, "optimizer": "muon"}, "rlhf.optimizer: muon trains whole matrices"),
        ({"method": {"type": "lora"}, "advantage": {"type": "gae", "critic": {"start": "head"}}}, "critic.start"),
    ],
)
def test_what_engines_cannot_take_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        convert(changes, RlhfSpec, "rlhf")


def test_a_packed_model_is_not_cut(tmp_path: Path) -> None:
    spec = RlhfSpec(method=QLora())
    spec.check_scaling(ScalingSpec(zero_stage=2))
    with pytest.raises(SpecError, match=r"scaling.zero_stage"):
        spec.check_scaling(ScalingSpec(zero_stage=3))


def test_the_method_is_part_of_the_fingerprint_where_it_is_given() -> None:
    assert fingerprint(RlhfSpec(method=Lora()), {"model": "m"}) != fingerprint(RlhfSpec(), {"model": "m"})


@pytest.mark.heavy
@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["all", "some, rslora"])
def test_after_twenty_syncs_of_an_adapter_greedy_tokens_are_those_of_transformers(
    name: str, folder: Path, tmp_path: Path, ray_cluster: None
) -> None:
    method = METHODS[name]
    artifact = build(PretrainedSpec(source=str(folder)), {}, store=Store(tmp_path), name="tiny")
    options = EngineOptions(max_model_len=128, takes_weights=True, updates=Updates(method, "fp32", 0))
    (handle,) = start(artifact, options, ScalingSpec())
    fleet = Fleet([handle], timeout_seconds=240, max_failures=0)
    try:
        for version in range(20):
            policy, adapter = policy_of(method, folder, version)
            fleet.sync(version, adapter)
            found = fleet.generate(PROMPTS, [0, 0, 0], temperature=0.0, max_tokens=24, eos_token_id=0)
            assert [c.tokens for c in found] == [greedy(policy, prompt, 0, 24) for prompt in PROMPTS]
            for prompt, completion in zip(PROMPTS, found, strict=True):
                tokens = torch.tensor([prompt + completion.tokens])
                expected = token_logprobs(policy, tokens, 1.0)[0, len(prompt) - 1 :]
                torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)
    finally:
        ray.kill(handle)


@pytest.mark.heavy
@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("changes", [{"method": {"type": "lora", "rank": 8}}, {"method": {"type": "qlora"}}])
def test_an_adapter_is_learned_and_every_sync_of_it_verified(
    changes: dict[str, Any], chat_inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """It alone travels; the artifact is a whole model with the adapter beside it."""
    asked = fields(rlhf(40, learning_rate=5e-3, evaluation_prompts=60)) | changes | {"max_staleness": 1}
    spec, store = convert(asked, RlhfSpec, "rlhf"), Store(tmp_path)
    for artifact in (*chat_inputs.values(), chat_inputs["model"].parent("model")):
        artifact.location.get(tmp_path / artifact.kind / artifact.record.folder)
    scaling = ScalingSpec(**fields(SCALING) | {"verify_rollout_prompts": 4})
    found = build(spec, chat_inputs, store=store, scaling=scaling, name="tiny")
    lines = read(found.location)
    assert lines[-1]["verified_syncs"] == 20
    trained = found.metrics["trained_parameters"]
    assert trained < found.metrics["parameters"] and all(line["sync_bytes"] == 4 * trained for line in lines)
    assert lines[0]["rollout_logprob_gap"] < 1e-4 and lines[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert found.metrics["heldout_reward"] > found.metrics["first_heldout_reward"]
    assert greedy(load_model(found.local()).eval(), [5, 6, 7], 0, 4)
    alone = build(AdapterSpec(), {"model": found}, store=store, name="alone")
    assert alone.metrics["base"] == chat_inputs["model"].record.ref
