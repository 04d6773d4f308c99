"""What `ctl plan` says of reward models and of RLHF: what each worker trains and holds beside it, and what the rollout
engines hold. The forward passes are those of training, on tensors without storage.

Not counted: what passes without gradients hold for a moment (they end before a step begins), and the processes of
reward functions, which `scaling.reward_memory_bytes` bounds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from msgspec.structs import replace as changed
from torch import Tensor

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Memory, Prediction
from cluster.control.planning.rollouts import RolloutEngines, Saving
from cluster.core.errors import SpecError
from cluster.core.graph import Step
from cluster.core.model_files import fitting_tokens
from pipelines.specs import Lora, RewardSpec, RlhfSpec, ScalingSpec
from pipelines.stages.alignment.critic import Critic
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.ranking import Ranking, scores
from pipelines.stages.alignment.shared_prompts import Asked
from pipelines.stages.generation.engine import EngineOptions, engine_dtype
from pipelines.stages.training.models.models import CAUSAL_FAMILIES, build_model, count_parameters
from pipelines.stages.training.sizing.footprint import FP32, Beside, Learner
from pipelines.stages.training.sizing.training_step import model_of, predict_model

# Resident memory of an engine beside weights and KV cache: 725 MB of `llama-1m` and 746 MB of `pythia-70m`, after 64
# completions at once of prompts of 64 tokens. Longer prompts of larger models take more, which is not counted.
ENGINE_BYTES_CPU = 750_000_000
ENGINE_BYTES_GPU = 2_000_000_000  # CUDA's context, graphs and activations; an assumption, not measured
VLLM_SHARE = 0.92  # of a GPU that vLLM takes, where it is not told otherwise
COMPLETIONS = "completions take most of a step, and their time is not modelled"


def predict_reward(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What a reward model needs, of pairs: a list of answers takes more (`sizing` of its spec). Raises as
    `sizing.training_step.predict` of training."""
    spec = step.spec
    assert isinstance(spec, RewardSpec)
    spec.check_scaling(scaling)
    config, asked = model_of(step)

    def build() -> Ranking:
        return Ranking(_classifier(config), spec.precision, spec.center_coef, spec.margin_scale)

    def run(objective: Ranking, tokens: Tensor) -> int:
        with objective.autocast(tokens):
            scores(objective.model, tokens, torch.full((len(tokens),), tokens.size(1)))
        return _hidden_bytes(config, tokens)  # the gradient, which is one of all places

    length = fitting_tokens(config.to_dict(), asked)
    return predict_model(step, config, length, scaling, hardware, sequences=2, learner=Learner(build, run))


def predict_rlhf(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What RLHF needs (`sizing` of its spec). Raises as `sizing.training_step.predict` of training."""
    spec = step.spec
    assert isinstance(spec, RlhfSpec)
    spec.check_inputs(step.inputs)
    spec.check_scaling(scaling)
    found = _predict(step, spec, scaling, hardware)
    return found if found.fits else replace(found, savings=tuple(_savings(found, step, spec, scaling, hardware)))


def _predict(step: Step, spec: RlhfSpec, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    config, length = model_of(step)
    trained = _parts(step, spec, config)
    policy = trained["policy"]
    asked = _asked(step, spec, scaling, hardware, config, policy)
    engines = _engines(scaling, hardware, config, policy, length)
    if engines and spec.method.adapts and not engines.on_gpus:  # which keeps the model as it was stored, besides
        engines = replace(engines, weights=engines.weights + FP32 * policy)
    sent = _adapter(spec, config) if spec.method.adapts else policy
    beside = _beside(spec, scaling, sent, asked, engines)
    method, learner = spec.method, _learner(step, spec, config)
    found = predict_model(
        step,
        config,
        length,
        scaling,
        hardware,
        stages=method.zero_stages[1:],
        recomputes=method.recomputes,
        learner=learner,
        beside=beside,
    )
    _require_share(step.key, found, scaling, engines, hardware)
    models = {name: FP32 * parameters for name, parameters in trained.items()} | asked
    if method.adapts:  # over frozen weights, which are stored as the method has them
        models["policy"] = FP32 * (found.trained_parameters - trained.get("critic", 0))
        models = {"adapter" if name == "policy" else name: bytes for name, bytes in models.items()}
    return replace(found, untimed=COMPLETIONS, models=models, engines=engines)


def _require_share(
    key: str, found: Prediction, scaling: ScalingSpec, engines: RolloutEngines | None, hardware: Hardware
) -> None:
    """Raise SpecError where a worker leaves less of its GPU than the engine beside it takes while it draws: then the
    worker computes nothing, but what it holds between steps stays."""
    if not (scaling.colocated_fraction and engines and engines.on_gpus):
        return
    memory = found.memory
    kept = memory.total - memory.activations - memory.gradients
    free = hardware.memory_bytes - kept
    wanted = int(scaling.colocated_fraction * hardware.memory_bytes)
    if wanted > free:
        raise SpecError(
            f"{key}: a worker holds {kept / 1e9:,.2f} GB of its GPU's {hardware.memory_bytes / 1e9:,.2f} while the "
            f"engine beside it draws, which is to have {wanted / 1e9:,.2f} GB",
            "Lower scaling.colocated_fraction, raise scaling.zero_stage, or give engines GPUs of their own.",
        )


def _learner(step: Step, spec: RlhfSpec, config: Any) -> Learner:
    """The policy and its critic, as the stage's recipe trains them."""

    def build() -> PolicyGradient:
        policy = _policy(spec, config)
        return PolicyGradient(
            policy,
            spec.precision,
            loss=spec.loss,
            kl_coef=spec.first_kl_coef,
            kl_penalty="token",
            temperature=spec.temperature,
            critic=_critic(step, spec, policy, config),
        )

    def run(objective: PolicyGradient, tokens: Tensor) -> int:
        text = Asked(tokens, {}, torch.arange(tokens.numel(), device=tokens.device))  # as of drawn tokens alone
        logits, _ = objective.outputs(text, text)
        # They become their own gradient; at another temperature there are scaled ones, and the gradient of these.
        return logits.nbytes + (2 * FP32 * logits.numel() if spec.temperature != 1.0 else 0)

    return Learner(build, run)


def _policy(spec: RlhfSpec, config: Any) -> Any:
    """What the method of a spec trains, without values."""
    model = build_model(config, spec.seed)
    spec.method.pack(model, spec.precision)
    return spec.method.apply(model, spec.seed, values=False)


def _critic(step: Step, spec: RlhfSpec, policy: Any, config: Any) -> Critic | None:
    fields = spec.advantage.value_function
    if fields is None:
        return None
    if fields.start == "reward":
        whole = _classifier(model_of(step.inputs["reward"])[0])
        return Critic(fields, getattr(whole, whole.base_model_prefix), whole.score)
    whole = build_model(config, spec.seed)
    score = torch.nn.Linear(config.get_text_config().hidden_size, 1)
    return Critic(fields, None if fields.start == "head" else getattr(whole, whole.base_model_prefix), score)


def _parts(step: Step, spec: RlhfSpec, config: Any) -> dict[str, int]:
    """The parameters of the models that are trained, or over which an adapter is."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        policy = build_model(config, spec.seed)
        critic = _critic(step, spec, policy, config)
        found = {"policy": count_parameters(policy)}
        return found | ({"critic": count_parameters(critic)} if critic else {})


def _asked(
    step: Step, spec: RlhfSpec, scaling: ScalingSpec, hardware: Hardware, config: Any, policy: int
) -> dict[str, int]:
    """Bytes of a worker for each model that is asked and not trained. On a CPU the workers of one machine read the
    pages of one file, where it has the numbers that they compute with: each has a share."""

    def held(parameters: int, width: int, of: Any) -> int:
        shared = hardware.on_cpu and width == FP32 and of.dtype in (None, torch.float32)
        return -(-parameters * width // (scaling.num_workers if shared else 1))

    found = {}
    if spec.kl_coef and not spec.method.adapts:  # else it is the policy without its adapter
        found["reference"] = held(policy, FP32 if spec.precision == "fp32" else FP32 // 2, config)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        if "reward" in step.inputs:
            scoring = model_of(step.inputs["reward"])[0]
            found["reward model"] = held(count_parameters(_classifier(scoring)), FP32, scoring)
        if "judge" in step.inputs:
            judging = model_of(step.inputs["judge"])[0]
            scores_answers = step.inputs["judge"].kind == "reward"
            judge = _classifier(judging) if scores_answers else build_model(judging, spec.seed)
            found["judge"] = held(count_parameters(judge), FP32, judging)
        if "teacher" in step.inputs:
            teaching = model_of(step.inputs["teacher"])[0]
            found["teacher"] = held(count_parameters(build_model(teaching, spec.seed)), FP32, teaching)
    if scaling.verify_rollout_prompts:
        found["verifying copy"] = FP32 * policy  # of rank 0
    return found


def _adapter(spec: RlhfSpec, config: Any) -> int:
    """The parameters of the adapter that is trained."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(p.numel() for p in _policy(spec, config).parameters() if p.requires_grad)


def _beside(
    spec: RlhfSpec, scaling: ScalingSpec, sent: int, asked: dict[str, int], engines: RolloutEngines | None
) -> Beside:
    """Of rank 0, which sends the weights: gathered in main memory, made the engines' numbers, and put into Ray's object
    store, where they stay until there are new ones. Of an adapter they stay fp32."""
    width = FP32 if spec.method.adapts else getattr(torch, engine_dtype(scaling)).itemsize
    passing = (FP32 + (width if width < FP32 else 0) + width) * sent
    shared = engines is not None and not engines.on_gpus
    share = -(-engines.number * engines.total // scaling.num_workers) if engines and shared else 0
    if engines and engines.on_gpus and scaling.colocated_fraction:
        share = engines.weights  # of the worker's own, while it rests
    models = sum(bytes for name, bytes in asked.items() if name != "verifying copy")
    copies = asked.get("verifying copy", 0)  # on the CPU always
    host = Memory(sync=width * sent, engines=share, models=copies)
    return Beside(Memory(models=models), host, passing)


def _engines(scaling: ScalingSpec, hardware: Hardware, config: Any, policy: int, length: int) -> RolloutEngines | None:
    """What each engine holds; None where it has a GPU of which nothing is known."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(torch, engine_dtype(scaling)).itemsize
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    on_gpus = scaling.gpus_per_engine > 0
    if on_gpus and hardware.on_cpu:
        return None
    packed = not on_gpus and width == FP32  # for oneDNN, beside the weights that the next ones come into
    runtime, weights = ENGINE_BYTES_GPU if on_gpus else ENGINE_BYTES_CPU, width * policy * (2 if packed else 1)
    cache = int(EngineOptions(max_model_len=length).kv_cache_gib * 2**30)
    if on_gpus:
        cache = int((scaling.colocated_fraction or VLLM_SHARE) * hardware.memory_bytes) - weights - runtime
    per_token = 2 * text.num_hidden_layers * heads * head * width  # a key and a value
    return RolloutEngines(scaling.engines, on_gpus, weights, cache, runtime, per_token, length)


def _savings(found: Prediction, step: Step, spec: RlhfSpec, scaling: ScalingSpec, hardware: Hardware) -> list[Saving]:
    """What could be left out or shared, and at which price, the largest first."""
    saved = []
    for setting, price, other, how in _options(step.key, spec, scaling):
        less = _predict(replace(step, spec=other), other, how, hardware)
        saved.append(Saving(setting, _total(found) - _total(less), price))
    return sorted((saving for saving in saved if saving.bytes > 0), key=lambda saving: -saving.bytes)


def _options(key: str, spec: RlhfSpec, scaling: ScalingSpec) -> Iterator[tuple[str, str, RlhfSpec, ScalingSpec]]:
    """Settings that spare a model, what each costs, and the specs with it."""
    advantage: Any = spec.advantage
    critic = advantage.value_function
    if critic and critic.start != "head":
        shared = changed(advantage, critic=changed(critic, start="head"))
        price = "the critic is a head on the policy, whose layers then learn both"
        yield f"{key}.advantage.critic.start=head", price, changed(spec, advantage=shared), scaling
    if not spec.method.adapts and not (critic and critic.start == "head") and spec.optimizer != "muon":
        price = "an adapter is trained, and the reference is the policy without it"
        yield f"{key}.method.type=lora", price, changed(spec, method=Lora()), scaling
    if spec.kl_coef and not spec.method.adapts:
        price = "no reference, and nothing that holds the policy near it"
        yield f"{key}.kl_coef=0", price, changed(spec, kl_coef=0.0), scaling
    if spec.precision == "fp32":
        price = "passes, and the reference, in 16 bits"
        yield f"{key}.precision=bf16", price, changed(spec, precision="bf16"), scaling
    if scaling.verify_rollout_prompts:
        price = "completions are not compared with transformers'"
        yield "scaling.verify_rollout_prompts=0", price, spec, changed(scaling, verify_rollout_prompts=0)
    if scaling.rollout_workers > 1 and not scaling.colocated_fraction and not scaling.gpus_per_rollout:
        yield "scaling.rollout_workers=1", "completions take longer", spec, changed(scaling, rollout_workers=1)


def _total(found: Prediction) -> int:
    return found.memory.total + (found.placed.host_memory.total if found.placed.host_memory else 0)


def _classifier(config: Any) -> Any:
    """A reward model of a policy's configuration: its layers, and a head of one number."""
    from transformers import AutoModelForSequenceClassification

    own = copy.deepcopy(config)
    own.num_labels = 1
    try:
        return AutoModelForSequenceClassification.from_config(own, dtype=torch.float32, attn_implementation="sdpa")
    except ValueError as error:
        raise SpecError(
            f"reward: transformers has no sequence classifier of the family {config.model_type!r}",
            f"Give a model of another: {CAUSAL_FAMILIES}",
        ) from error


def _hidden_bytes(config: Any, tokens: Tensor) -> int:
    return int(FP32 * tokens.numel() * config.get_text_config().hidden_size)
