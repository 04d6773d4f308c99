"""What can be known of an RL run before an engine or a worker starts: whether model, companions, prompts and rewards go
together."""

from __future__ import annotations

import importlib.util
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cluster.core.context import Context
from cluster.core.encoding import encode
from cluster.core.errors import InputError, NotReadyError, SpecError
from cluster.core.model_files import context_tokens, read_config
from cluster.core.storage.artifact import Artifact
from pipelines.specs import RlhfSpec, ScalingSpec
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.named import named
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.training.models.models import require_rows, require_trainable
from pipelines.stages.tuning.templates import prepare


def require_transport(scaling: ScalingSpec) -> None:
    """Raise NotReadyError where weights cannot travel as they are to."""
    if scaling.weight_transport == "nixl" and not importlib.util.find_spec("nixl"):
        raise NotReadyError(
            "scaling.weight_transport: nixl needs the package of that name", "`pip install nixl`, on every machine."
        )


def check_model(ctx: Context[RlhfSpec]) -> Any:
    """The tokenizer of the policy. Raises SpecError or InputError for a model that cannot be trained or sampled so."""
    spec, model = ctx.spec, ctx.inputs["model"]
    config = require_trainable(model)
    limit, asked = context_tokens(config), spec.max_prompt_tokens + spec.max_completion_tokens
    if limit and asked > limit:
        raise SpecError(
            f"rlhf.max_prompt_tokens and rlhf.max_completion_tokens: {spec.max_prompt_tokens} and "
            f"{spec.max_completion_tokens} are {asked} tokens together, and {model.record.ref} takes {limit}",
            "Lower one of them.",
        )
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    require_rows(model, config, tokenizer)
    prepare(tokenizer, "")
    spec.method.check_model(AutoConfig.from_pretrained(model.local()))
    return tokenizer


def check_companions(ctx: Context[RlhfSpec], tokenizer: Any) -> None:
    """Raise InputError or SpecError where a teacher, or a critic that begins as the reward model, cannot read the
    policy's own token ids, or not as many."""
    spec, read = ctx.spec, {}
    if teacher := ctx.inputs.get("teacher"):
        require_rows(teacher, require_trainable(teacher), tokenizer)
        read["the teacher"] = teacher
    critic = spec.advantage.value_function
    if critic and critic.start == "reward":
        read["a critic (rlhf.advantage.critic.start: reward)"] = ctx.inputs["reward"]
    asked = spec.max_prompt_tokens + spec.max_completion_tokens
    for role, model in read.items():
        theirs = AutoTokenizer.from_pretrained(model.local()).get_vocab()
        if strange := next((t for t, number in tokenizer.get_vocab().items() if theirs.get(t) != number), None):
            raise InputError(
                f"{model.record.ref} as {role} is given the policy's token ids, and {strange!r} is not the same there",
                "Give a model with the policy's tokenizer.",
            )
        limit = context_tokens(read_config(model))
        if limit and asked > limit:
            raise SpecError(
                f"rlhf.max_prompt_tokens and rlhf.max_completion_tokens: {asked} tokens together, and {role}, "
                f"{model.record.ref}, takes {limit}",
                "Lower one of them.",
            )


def check_references(ctx: Context[RlhfSpec], prompts: list[Prompt], split: str) -> None:
    """Raise InputError where a reward compares with references, or an environment goes by them, and prompts have none
    that it can."""
    reading: dict[str, Reward | Environment] = {
        f"rlhf.rewards: {name} compares answers with": reward for name, reward in named(ctx.spec.rewards).items()
    }
    if ctx.spec.environment:
        reading["rlhf.environment: goes by"] = ctx.spec.environment
    for told, reader in reading.items():
        if not reader.needs_reference:
            continue
        for prompt in prompts:
            try:
                if not prompt.reference.strip():
                    raise ValueError("is empty")
                reader.check_reference(prompt.reference)
            except ValueError as error:
                without = sum(not each.reference.strip() for each in prompts)
                raise InputError(
                    f"{told} a prompt's reference, and that of {split} prompt {prompt.id} {error}"
                    + (f" ({without} of {len(prompts)} have none)" if without else ""),
                    "Give prompts whose records have one (conversations.format: prompts reads it from reference, "
                    "answer, solution, tests, ...; `tasks` have their own), or leave it out.",
                ) from None


def check_reward_context(ctx: Context[RlhfSpec], prompts: list[Prompt]) -> None:
    """Raise SpecError where a prompt and its completion may be longer than a reward model's context, in its own
    tokens."""
    for role in ("reward", "judge"):
        model = ctx.inputs.get(role)
        if model is not None and model.kind == "reward":
            _check_room(model, ctx.spec.max_completion_tokens, prompts)


def _check_room(model: Artifact, most: int, prompts: list[Prompt]) -> None:
    limit = context_tokens(read_config(model))
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    if not tokenizer.chat_template:
        raise InputError(f"{model.record.ref} has no chat template", "Train it on a model that was fine-tuned.")
    lengths = [len(encode(tokenizer, [*p.messages, {"role": "assistant", "content": "."}]).tokens) for p in prompts]
    longest = max(lengths) - 1 + most
    if limit and longest > limit:
        prompt = prompts[lengths.index(max(lengths))].id
        raise SpecError(
            f"rlhf.max_prompt_tokens: prompt {prompt} and a completion of {most} tokens may be {longest} tokens of "
            f"{model.record.ref}, and it takes {limit}",
            "Lower it or rlhf.max_completion_tokens, or train the reward model on a model of a longer context.",
        )
