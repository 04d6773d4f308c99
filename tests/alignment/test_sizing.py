"""Sizing of reward models and RLHF: what is predicted is what the tensors of a real step take; where memory is short,
what would spare some is said."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace as changed

from cluster.control.planning.hardware import Hardware, named
from cluster.control.planning.prediction import Prediction, predict
from cluster.core.errors import SpecError
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    ConversationsSpec,
    Distillation,
    Full,
    Gae,
    Lora,
    PretrainedSpec,
    RewardSpec,
    RlhfSpec,
    ScalingSpec,
    SftSpec,
    TrainingSpec,
    ValueFunction,
)
from pipelines.stages.alignment import sizing
from pipelines.stages.alignment.critic import Critic
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.ranking import Ranking
from pipelines.stages.generation.engine import EngineOptions
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.optimizers.optimizers import build_optimizer
from tests.cli.command import ctl
from tests.made import make

PROMPT, COMPLETION, ROWS, VOCAB = 24, 40, 4, 512
LENGTH = PROMPT + COMPLETION
ONE = ScalingSpec(num_workers=1, zero_stage=0)
MACHINE = Hardware("a machine", 24 * 10**9, threads=1)


def config(model: str) -> Any:
    return configuration(model, {}, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=0)


def configured(store: Store, name: str, spec: Any = None) -> Artifact:
    """A folder that has a configuration, and no weights: planning reads none."""
    data = config(name).to_json_string(use_diff=False).encode()
    return make(store, spec or PretrainedSpec(source=name), {}, {"config.json": data}, name)


def rlhf(**fields: Any) -> RlhfSpec:
    sizes = {"max_prompt_tokens": PROMPT, "max_completion_tokens": COMPLETION, "global_batch_size": ROWS}
    return RlhfSpec(**{**sizes, "group_size": 2, "rewards": {"python_parses": 1.0}, **fields})


def sized(
    store: Store, spec: TrainingSpec, inputs: dict[str, Any], scaling: ScalingSpec = ONE, hardware: Hardware = MACHINE
) -> Prediction:
    found = predict(Step(spec.kind, spec, inputs, ""), store, scaling, hardware)
    assert found
    return found


def with_prompts(store: Store, **models: Artifact) -> dict[str, Any]:
    spec = ConversationsSpec(source="file", path="c.jsonl")
    return {**models, "prompts": make(store, spec, {}, {"train.jsonl": b""}, "prompts")}


def held(objective: Objective, spec: TrainingSpec, run: Callable[[], torch.Tensor]) -> tuple[int, ...]:
    """Bytes of weights, of gradients, of the optimizer's state after a step, and the most that a second pass takes
    besides, as the allocator counts them."""
    optimizer = build_optimizer(objective.model, spec, beside=objective.beside())
    optimizer.set_factor(1.0)
    run().backward()
    optimizer.step()
    parameters = list(objective.parameters())
    state = sum(t.nbytes for kept in optimizer.state.values() for t in kept.values() if torch.is_tensor(t) and t.dim())
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run().backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    there = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        there += event.nbytes()
        most = max(most, there)
    return sum(p.nbytes for p in parameters), gradients, state, most


def predicted(found: Prediction) -> tuple[int, ...]:
    memory = found.memory
    return memory.weights, memory.gradients, memory.optimizer, memory.activations


CRITICS: dict[str, Any] = {
    "none": None,
    "head": ValueFunction(start="head"),
    "policy": ValueFunction(start="policy"),
}


@pytest.mark.parametrize(
    ("family", "precision", "critic"),
    [
        ("llama-1m", "fp32", "none"),
        ("llama-1m", "bf16", "policy"),
        ("gpt2-1m", "fp32", "head"),
        ("gpt2-1m", "fp32", "policy"),
    ],
)
@pytest.mark.heavy
def test_a_step_of_rlhf_takes_what_was_predicted(store: Store, family: str, precision: Any, critic: str) -> None:
    model, fields = configured(store, family), CRITICS[critic]
    advantage = {} if fields is None else {"advantage": Gae(critic=fields)}
    spec = rlhf(precision=precision, **advantage)
    policy = build_model(config(model.name), 0)
    values = None
    if fields is not None:
        trunk = None if fields.start == "head" else build_model(config(model.name), 0).base_model
        values = Critic(fields, trunk, torch.nn.Linear(policy.config.hidden_size, 1))
    objective = PolicyGradient(
        policy, precision, loss=spec.loss, kl_coef=0.1, kl_penalty="token", temperature=1.0, critic=values
    )
    shape = (ROWS, LENGTH - 1)
    batch = {name: torch.zeros(shape) for name in ("behaviour", "reference", "advantages", "values", "returns")}
    batch |= {"tokens": torch.ones(ROWS, LENGTH, dtype=torch.int64), "weights": torch.ones(ROWS)}
    batch["learn"] = torch.ones(shape, dtype=torch.bool)
    real = held(objective, spec, lambda: objective(batch))
    found = predicted(sized(store, spec, with_prompts(store, model=model)))
    assert found[1:3] == real[1:3]
    assert found[0] == pytest.approx(real[0], abs=1000), "rotary angles are counted, too"
    assert found[3] == pytest.approx(real[3], rel=0.1)


@pytest.mark.heavy
def test_a_step_of_a_reward_model_takes_what_was_predicted(store: Store) -> None:
    """Both answers of each pair."""
    model = configured(store, "llama-1m")
    spec = RewardSpec(sequence_length=LENGTH, global_batch_size=ROWS)
    objective = Ranking(sizing._classifier(config(model.name)), "fp32", 0.0, 1.0)
    batch = {
        "tokens": torch.ones(2 * ROWS, LENGTH, dtype=torch.int64),
        "lengths": torch.full((2 * ROWS,), LENGTH),
        "sizes": torch.full((ROWS,), 2),
        "margins": torch.zeros(ROWS),
        "ties": torch.zeros(ROWS, dtype=torch.bool),
    }
    real = held(objective, spec, lambda: objective(batch))
    found = predicted(sized(store, spec, {"model": model, "preferences": model}))
    assert found[1:3] == real[1:3]
    assert found[0] == pytest.approx(real[0], abs=1000)
    assert found[3] == pytest.approx(real[3], rel=0.1)


@pytest.mark.heavy
def test_each_model_has_its_place(store: Store) -> None:
    """N weights of the policy; on a CPU two workers read one file of each that is not trained."""
    policy = configured(store, "llama-1m")
    reward = configured(store, "llama-1m", RewardSpec())
    inputs = with_prompts(store, model=policy, reward=reward)
    spec = rlhf(rewards={"reward_model": 1.0}, advantage=Gae(critic=ValueFunction(start="reward")), group_size=1)
    two = ScalingSpec(num_workers=2, rollout_workers=2)
    here, there = (sized(store, spec, inputs, two, hardware) for hardware in (MACHINE, named("h100:200")))
    count = sum(p.numel() for p in build_model(config("llama-1m"), 0).parameters())
    hidden = config("llama-1m").hidden_size
    assert here.models == {
        "policy": 4 * count,
        "critic": 4 * (count + hidden),
        "reference": 2 * count,
        "reward model": 2 * (count + hidden),
    }
    assert here.memory.models == here.models["reference"] + here.models["reward model"]
    assert there.memory.models == 2 * here.memory.models and not there.memory.engines
    engines = here.engines
    assert engines and engines.kv_cache == EngineOptions(1).kv_cache_gib * 2**30
    shape = config("llama-1m")
    assert engines.kv_bytes_per_token == 2 * 4 * shape.num_hidden_layers * shape.hidden_size
    assert engines.sequences == engines.kv_cache // (engines.kv_bytes_per_token * LENGTH)
    assert here.memory.engines == there.placed.host_memory.engines == engines.total  # type: ignore[union-attr]
    assert here.memory.sync == 4 * count  # in the object store; what is gathered is less than the activations
    assert there.placed.host_memory.sync == 3 * 4 * count  # type: ignore[union-attr]
    assert here.tokens_per_second() is None and "completions" in here.untimed


@pytest.mark.heavy
def test_what_is_left_out_is_not_counted(store: Store) -> None:
    policy = configured(store, "llama-1m")
    inputs = with_prompts(store, model=policy)
    assert "reference" not in sized(store, rlhf(kl_coef=0.0), inputs).models
    taught = rlhf(advantage=Distillation(), rewards={})
    assert set(sized(store, taught, {**inputs, "teacher": policy}).models) == {"policy", "reference", "teacher"}
    judged, scorer = (
        rlhf(rewards={"python_parses": 1.0, "judge_model": 0.0}),
        configured(store, "llama-1m", RewardSpec()),
    )
    chats, scores = (sized(store, judged, {**inputs, "judge": judge}).models for judge in (policy, scorer))
    assert set(chats) == {"policy", "reference", "judge"} and chats["judge"] == chats["reference"]
    assert scores["judge"] == chats["judge"] + 4 * config("llama-1m").hidden_size  # a head, and none that is tied
    copies = ScalingSpec(num_workers=1, zero_stage=0, verify_rollout_prompts=2)
    assert "verifying copy" in sized(store, rlhf(), inputs, copies).models
    halves = sized(store, rlhf(precision="bf16"), inputs).models
    assert 2 * halves["reference"] == halves["policy"]


@pytest.mark.heavy
def test_an_adapter_needs_no_reference_and_travels_alone(store: Store) -> None:
    policy = configured(store, "llama-1m")
    inputs = with_prompts(store, model=policy)
    whole, adapter = (sized(store, rlhf(method=method), inputs) for method in (Full(), Lora(rank=4)))
    assert set(whole.models) == {"policy", "reference"} and set(adapter.models) == {"adapter"}
    trained = adapter.trained_parameters
    assert adapter.models["adapter"] == 4 * trained == adapter.memory.gradients == adapter.memory.optimizer // 2
    assert adapter.memory.sync == 4 * trained and adapter.memory.models == 0
    assert adapter.memory.weights == pytest.approx(whole.memory.weights + 4 * trained, abs=1000)
    assert adapter.engines and whole.engines and 2 * adapter.engines.weights == 3 * whole.engines.weights
    small = Hardware("a small machine", 10**9, threads=1)
    found = sized(store, rlhf(), inputs, hardware=small)
    assert "rlhf.method.type=lora" in {saving.setting for saving in found.savings}


def test_engines_on_gpus_have_what_vllm_takes(store: Store) -> None:
    """Its share of a GPU is that of the installed version."""
    spec = importlib.util.find_spec("vllm")
    assert spec and spec.origin
    source = (Path(spec.origin).parent / "config" / "cache.py").read_text()
    default = re.search(r"gpu_memory_utilization: float = Field\(default=([\d.]+)", source)
    assert default and float(default[1]) == sizing.VLLM_SHARE
    scaling = ScalingSpec(num_workers=1, gpus_per_worker=1, gpus_per_rollout=1)
    inputs = with_prompts(store, model=configured(store, "llama-1m"))
    found = sized(store, rlhf(), inputs, scaling, named("a10"))
    assert found.engines and found.engines.total == int(0.92 * 24e9)
    assert json.dumps(found.as_dict()) and found.as_dict()["rollout_engine"]["sequences"] == found.engines.sequences
    assert found.engines.weights * 2 == found.models["policy"], "bf16"
    assert sized(store, rlhf(), inputs, scaling).engines is None, "of the GPUs of another machine nothing is known"


def test_an_engine_beside_a_worker_has_its_part_of_the_gpu(store: Store) -> None:
    inputs = with_prompts(store, model=configured(store, "llama-1m"))
    scaling = ScalingSpec(num_workers=2, gpus_per_worker=1, colocated_fraction=0.25)
    found = sized(store, rlhf(), inputs, scaling, named("a10"))
    assert found.engines and found.engines.on_gpus and found.engines.number == 2
    assert found.engines.total == int(0.25 * 24e9) and found.engines.weights * 2 == found.models["policy"]
    kept = found.placed.host_memory
    assert kept and kept.engines == found.engines.weights, "in main memory while it rests"
    with pytest.raises(SpecError, match=r"Lower scaling.colocated_fraction"):
        sized(store, rlhf(), inputs, changed(scaling, colocated_fraction=0.99), named("a10"))


@pytest.mark.heavy
def test_what_is_short_is_said_with_what_would_spare_it(store: Store) -> None:
    policy = configured(store, "gpt2-1m")
    inputs = with_prompts(store, model=policy)
    spec = rlhf(advantage=Gae(), group_size=1)
    fits = sized(store, spec, inputs)
    assert not fits.savings
    needed = fits.memory.total
    small = Hardware("a small machine", needed - 1, threads=1)
    found = sized(store, spec, inputs, hardware=small)
    settings = {saving.setting: saving.bytes for saving in found.savings}
    assert set(settings) >= {"rlhf.advantage.critic.start=head", "rlhf.kl_coef=0"}
    assert settings["rlhf.kl_coef=0"] == fits.models["reference"]
    assert list(settings.values()) == sorted(settings.values(), reverse=True)
    shared = sized(store, rlhf(advantage=Gae(critic=ValueFunction(start="head")), group_size=1), inputs)
    assert settings["rlhf.advantage.critic.start=head"] == needed - shared.memory.total
    tiny = sized(store, spec, inputs, hardware=Hardware("nothing", 10**6, threads=1))
    with pytest.raises(SpecError, match=r"optimizer of .* parameters, policy, critic, reference, take .*Or spare some"):
        tiny.require_fit("rlhf")


def test_a_completion_that_no_engine_has_room_for_is_refused(store: Store) -> None:
    deep = config("llama-1m")
    deep.num_hidden_layers = 400  # of which 512 MiB hold the keys and values of 1,310 tokens
    engines = sizing._engines(ONE, MACHINE, deep, 10**6, 2000)
    assert engines and engines.sequences == 0
    with pytest.raises(SpecError, match=r"rlhf: a rollout engine has 0\.54 GB .* \(2,000 tokens\)") as caught:
        engines.require_room("rlhf")
    assert "rlhf.max_prompt_tokens" in caught.value.remedy


def test_a_family_without_a_classifier_is_refused(store: Store) -> None:
    from transformers import AutoConfig

    data = AutoConfig.for_model("codegen", n_layer=2, n_embd=16, n_head=4, rotary_dim=2, vocab_size=64)
    model = make(
        store, PretrainedSpec(source="c"), {}, {"config.json": data.to_json_string(use_diff=False).encode()}, "codegen"
    )
    with pytest.raises(SpecError, match="no sequence classifier of the family 'codegen'"):
        sized(store, RewardSpec(), {"model": model, "preferences": model})


@pytest.mark.heavy
def test_ctl_plan_tells_of_all_steps_that_train(tmp_path: Path) -> None:
    command = ("plan", "pipelines/quickstart.py", "--store", tmp_path, "--hardware", "h100:64")
    done = ctl(*command, "--set", "scaling.gpus_per_rollout=1", "--set", "pretrain.model=llama-7b")
    told = done.stdout
    assert "WARNING" not in told + done.stderr  # no library's own words: DeepSpeed has some on a machine without GPU
    assert re.search(r"reward on h100\n  parameters    6,\d+", told)
    assert re.search(r"rlhf on h100\n.*\n  memory .*models \d+\.\d GB", told)
    assert re.search(r"engines       1 of 73\.6 GB, a GPU each \(weights 13\.\d GB, KV cache \d+\.\d GB: \d+ ", told)
    assert "speed         not known: completions take most of a step" in told
    assert re.search(r"or spare      \d+\.\d GB a worker by rlhf\.kl_coef=0: no reference", told)


def test_an_unbuilt_model_is_followed_to_its_beginning(store: Store) -> None:
    base = configured(store, "gpt2-1m")
    tuned = Step("sft", SftSpec(), {"model": base, "conversations": base}, "")
    scored = Step("reward", RewardSpec(), {"model": tuned, "preferences": base}, "")
    inputs = with_prompts(store, model=base) | {"model": tuned, "reward": scored}
    found = sized(store, rlhf(rewards={"reward_model": 1.0}), inputs)
    assert set(found.models) == {"policy", "reference", "reward model"}
