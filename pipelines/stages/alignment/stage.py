"""The RLHF stage: vLLM engines beside a group of training workers, and a ledger that accounts for every prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from cluster.control.runtime import require_gpus
from cluster.core import metrics
from cluster.core.context import Context
from cluster.core.encoding import Refused, prompt_tokens
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import RlhfSpec, ScalingSpec
from pipelines.stages.alignment import curve, ledger
from pipelines.stages.alignment.adapter_sync import Frozen, Updates, open_policy
from pipelines.stages.alignment.checks import (
    check_companions,
    check_model,
    check_references,
    check_reward_context,
    require_transport,
)
from pipelines.stages.alignment.critic import Critic
from pipelines.stages.alignment.environments.files import files_of, index_corpus
from pipelines.stages.alignment.judging import check_judge, open_judge
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.prompts import Prompt, read_prompts, write_prompts
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.named import named
from pipelines.stages.alignment.rollouts import RolloutBatches
from pipelines.stages.alignment.scoring import JUDGED, Scorer
from pipelines.stages.alignment.shared_prompts import share_prompts
from pipelines.stages.alignment.sync import GREEDY_TOKENS, WeightSync
from pipelines.stages.alignment.watching import transcripts
from pipelines.stages.alignment.watching.alarms import alarms
from pipelines.stages.alignment.watching.transcripts import Transcripts
from pipelines.stages.generation.engine import EngineOptions, engine_dtype, engine_options
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import load_model
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.methods.lora import LowRank
from pipelines.stages.tuning.methods.method import Stored
from pipelines.stages.tuning.recipe import trained_parameters
from pipelines.stages.tuning.stage import tokenizer_files

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def build(ctx: Context[RlhfSpec]) -> dict[str, Any]:
    """Tune by a policy gradient; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError and InputError before any cluster time; JobError where training fails, where engine and learner
    disagree, or where the ledger does not add up.
    """
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    spec.check_scaling(ctx.scaling)
    tokenizer = check_model(ctx)
    engines: list[Any] = []
    left_out: dict[str, dict[str, int]] = {}

    def plan() -> BatchPlan:
        check_companions(ctx, tokenizer)
        if "judge" in ctx.inputs:
            check_judge(ctx.inputs["judge"], spec.model_judges)
        for reward in named(spec.rewards).values():
            reward.require()
        if spec.environment:
            spec.environment.require()
        require_transport(ctx.scaling)
        for split in ("train", "heldout"):
            prompts, left_out[split] = encode_split(ctx, tokenizer, split)
            check_references(ctx, prompts, split)
            check_reward_context(ctx, prompts)
            write_prompts(ctx.output / STATE, split, prompts)
        if spec.searches:
            index_corpus(ctx.inputs["corpus"], ctx.output / STATE)
        return plan_batches(spec, ctx.scaling, spec.steps)

    def needs() -> dict[str, Any]:
        if not ctx.scaling.colocated_fraction:  # else workers start them
            engines.extend(start_engines(ctx.inputs["model"], spec, ctx.scaling))
        return {"engines": engines, "eos_token_id": tokenizer.eos_token_id, "left_out": left_out["train"]}

    try:
        figures = run_training(ctx, "pipelines.stages.alignment.stage:recipe", plan, tokenizer_files(tokenizer), needs)
    finally:
        for engine in engines:
            stop(engine)
    return figures | finish(ctx)


def encode_split(ctx: Context[RlhfSpec], tokenizer: Any, split: str) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts of a split that the template renders and that are not too long, and how many are not so."""
    prompts, refused = [], 0
    for row in read_conversations(ctx.inputs["prompts"].local(), split):
        messages, reference = row["messages"], row.get("reference", "")
        # Where an environment speaks, what a record says that it said is no part of the request.
        while messages and messages[-1]["role"] in ("assistant", "tool" if ctx.spec.environment else ""):
            reference = reference or (messages[-1]["content"] if messages[-1]["role"] == "assistant" else "")
            messages = messages[:-1]
        try:
            tokens = prompt_tokens(tokenizer, messages, row.get("tools"))
        except Refused:
            refused += 1
        else:
            prompts.append(Prompt(row["id"], messages, tokens, reference, row.get("fields", {})))
    kept = [prompt for prompt in prompts if len(prompt.tokens) <= ctx.spec.max_prompt_tokens]
    if not kept:
        raise InputError(
            f"{ctx.inputs['prompts'].record.ref}: no {split} prompt fits into {ctx.spec.max_prompt_tokens} tokens "
            f"({refused} are refused by the chat template)",
            "Raise rlhf.max_prompt_tokens, or give more prompts.",
        )
    return kept, {"too_long": len(prompts) - len(kept), "refused": refused}


def start_engines(model: Artifact, spec: RlhfSpec, scaling: ScalingSpec) -> list[Any]:
    from pipelines.stages.generation import fleet

    require_gpus(scaling.num_workers * scaling.gpus_per_worker + scaling.rollout_workers * scaling.gpus_per_rollout)
    return fleet.start(model, options_of(spec, scaling), scaling)


def options_of(spec: RlhfSpec, scaling: ScalingSpec) -> EngineOptions:
    return engine_options(
        scaling,
        spec.max_prompt_tokens + spec.max_completion_tokens,
        takes_weights=True,
        updates=Updates(spec.method, spec.precision, spec.seed) if isinstance(spec.method, LowRank) else None,
        calls_at_once=at_once(spec),
        timeout_seconds=scaling.rollout_timeout_seconds,
    )


def at_once(spec: RlhfSpec) -> int:
    """Calls that an engine takes at once: those of the rollouts that are drawn ahead and of the one that is waited for,
    of an evaluation, and of whoever asks where it runs."""
    return spec.max_staleness + 3 if spec.max_staleness else 1


def stop(engine: Any) -> None:
    import ray

    ray.kill(engine)


def load_reference(folder: Path, spec: RlhfSpec, device: str) -> Any:
    """The model that training starts from, frozen, in the numbers that the policy computes with: in 16 bits half of
    what fp32 takes; in fp32 on a CPU all ranks of a machine read the pages of one file."""
    return load_model(folder, PRECISIONS[spec.precision]).eval().requires_grad_(False).to(device)


def recipe(work: Work, rank: int) -> Parts:
    """A policy, its frozen beginning where there is a penalty, critic and teacher where the advantage needs them, and
    batches that the policy samples itself."""
    from pipelines.stages.generation.fleet import Fleet, start_beside

    spec, scaling = work.spec, work.scaling
    assert isinstance(spec, RlhfSpec)
    folder, eos = work.inputs["model"].local(), work.extra["eos_token_id"]
    device = "cuda" if scaling.gpus_per_worker else "cpu"
    model, policy = open_policy(spec, folder)
    adapts, sizes = spec.method.adapts, {}
    if adapts:
        trained = trained_parameters(policy)
        sizes = {"parameters": model.num_parameters() - trained, "trained_parameters": trained}
    reference = (Frozen(policy) if adapts else load_reference(folder, spec, device)) if spec.kl_coef else None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reward, teacher = (work.inputs[name].local() if name in work.inputs else None for name in ("reward", "teacher"))
    values = spec.advantage.value_function
    critic = Critic.of(values, policy, folder, reward) if values else None
    taught_by = load_model(teacher).eval().to(device) if teacher else None
    for one in (model, None if adapts else reference, taught_by, critic and critic.trunk):
        if one is not None:
            share_prompts(one, scaling)
    train, heldout = (read_prompts(work.state, split) for split in ("train", "heldout"))
    verify = [prompt.tokens for prompt in heldout[: scaling.verify_rollout_prompts]]
    engines, beside = work.extra["engines"], None
    if scaling.colocated_fraction:
        engines = start_beside(work.inputs["model"], options_of(spec, scaling), scaling)
        beside = engines[rank]
    sync = WeightSync(
        Fleet(
            engines,
            scaling.rollout_timeout_seconds,
            scaling.max_failures,
            spec.max_staleness > 0,
            scaling.weight_transport,
        )
        if rank == 0
        else None,
        torch.float32 if adapts else getattr(torch, engine_dtype(scaling)),
        open_policy(spec, folder)[1].eval() if verify and rank == 0 else None,
        verify,
        eos,
        min(GREEDY_TOKENS, spec.max_completion_tokens),  # what the engine has room for
        beside,
    )
    source = RolloutBatches(
        spec=spec,
        plan=work.plan,
        rank=rank,
        train=train,
        heldout=heldout,
        sync=sync,
        scorer=Scorer(
            spec,
            tokenizer,
            RewardModel(reward, device) if reward else None,
            scaling,
            work.output / JUDGED / f"{rank}",
            files_of(spec.searches and rank == 0, work.state),
            open_judge(work.inputs["judge"], device) if "judge" in work.inputs else None,
        ),
        reference=reference,
        teacher=taught_by,
        transcripts=Transcripts(work.output, tokenizer, spec.steps // spec.steps_per_rollout) if rank == 0 else None,
        output=work.output,
        state=work.state,
        eos_token_id=eos,
    )

    def write(weights: dict[str, Tensor], into: Path) -> None:
        stored = Stored(folder, lambda: load_model(folder))
        spec.method.write(model, stored, weights, into, work.inputs["model"].record.ref, spec.seed)

    return Parts(
        objective=PolicyGradient(
            policy,
            spec.precision,
            loss=spec.loss,
            kl_coef=spec.first_kl_coef,
            kl_penalty="token" if spec.kl_penalty == "reward" else spec.kl_penalty,
            temperature=spec.temperature,
            critic=critic,
            correction=spec.correction,
        ),
        source=source,
        sequence_length=spec.max_prompt_tokens + spec.max_completion_tokens,
        write=write,
        figures=lambda: {"prompts": len(train), **work.extra["left_out"], **sizes},
        rate=spec.method.rate,
    )


def finish(ctx: Context[RlhfSpec]) -> dict[str, Any]:
    """Check the ledger, draw the curve, show what was said, and tell what changed between the first and the last
    evaluation."""
    account = ledger.account(ledger.read(ctx.output))
    points = curve.read(ctx.output)
    ctx.output.write_bytes(curve.PICTURE_FILE, curve.in_png(points, ctx.name))
    ctx.output.write_bytes(curve.TEXT_FILE, curve.in_text(points).encode())
    page = transcripts.page(transcripts.read(ctx.output), ctx.name)
    ctx.output.write_bytes(transcripts.PAGE_FILE, page.encode())
    seen = [alarm.name for alarm in alarms(ctx.spec, metrics.read(ctx.output), points)]
    first = {f"first_{name}": points[0][name] for name in curve.names(points)}
    counts = {"prompts_consumed": len(account.consumed), "prompts_skipped": len(account.skipped)}
    dropped = {"prompts_dropped": len(account.dropped)} if ctx.spec.redraws else {}
    return counts | dropped | first | {"alarms": seen}
