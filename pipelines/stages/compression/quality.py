"""What a quantized model costs and saves, beside its original: each answers the same conversations through vLLM.

Perplexity is of the held-out answers. Agreement compares greedy completions token by token at the same place: after the
first difference two completions go their own ways, so it falls faster than quality does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from transformers import AutoTokenizer

from cluster.control import places
from cluster.control.failures import explained
from cluster.control.runtime import connect, require_gpus
from cluster.core.encoding import Encoded, Refused, encode, prompt_tokens
from cluster.core.errors import InputError
from cluster.core.model_files import CONFIG_FILE, context_tokens
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from pipelines.specs import QualitySpec, QuantizeSpec, ScalingSpec
from pipelines.stages.compression.paired import perplexity
from pipelines.stages.compression.plain_engine import PlainEngine
from pipelines.stages.generation.engine import (
    INITIAL,
    GenerationEngine,
    engine_dtype,
    engine_options,
    engine_runtime_env,
)
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.templates import as_served

KV_CACHE_GIB = 1.0  # of both engines, and within their resident memory


@dataclass(frozen=True)
class Questions:
    """Conversations as token ids: whole, with the answers marked, and the prompts of their last answers."""

    whole: list[Encoded]
    prompts: list[list[int]]
    left_out: int
    max_model_len: int
    max_tokens: int
    eos_token_id: int


@dataclass(frozen=True)
class Answers:
    """What one model made of them. `nats`: of each conversation, of each token of its answers."""

    nats: list[list[float]]
    completions: list[list[int]]
    resident_bytes: int
    tokens_per_second: float

    @property
    def perplexity(self) -> float:
        return round(perplexity(self.nats), 4)


@dataclass(frozen=True)
class Agreement:
    """How far the greedy completions of two models are the same: token by token at the same place, and whole ones."""

    equal_tokens: float
    identical_completions: float
    compared_tokens: int

    @classmethod
    def of(cls, one: Answers, other: Answers) -> Agreement:
        pairs = list(zip(one.completions, other.completions, strict=True))
        compared = sum(max(len(a), len(b)) for a, b in pairs)
        equal = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
        return cls(round(equal / compared, 4), round(sum(a == b for a, b in pairs) / len(pairs), 4), compared)


def compare(
    original: Artifact,
    quantized: Location,
    conversations: Artifact,
    spec: QuantizeSpec,
    scaling: ScalingSpec,
    progress: Callable[..., None],
) -> dict[str, Any]:
    """The report, but for the sizes on disk. Both models are asked as they would be served; the quantized one is still
    being made."""
    questions = read_questions(original.local(), conversations, spec)
    connect(scaling)
    asked: dict[str, tuple[Artifact | Location, str]] = {
        "original": (original, engine_dtype(scaling)),
        "quantized": (quantized, "bfloat16"),  # vLLM's integer kernels for CPUs have no float32
    }
    answers = {}
    for number, (name, (model, dtype)) in enumerate(asked.items()):
        progress(number, len(asked), "models asked")
        engine = PlainEngine if spec.scheme == "nf4" and name == "quantized" else GenerationEngine
        answers[name] = ask(name, model, dtype, questions, scaling, engine)
    agreement = Agreement.of(answers["original"], answers["quantized"])
    return {
        **{
            name: {"dtype": asked[name][1], "perplexity": answer.perplexity, "resident_bytes": answer.resident_bytes}
            for name, answer in answers.items()
        },
        "kv_cache_bytes": int(KV_CACHE_GIB * 2**30),
        "equal_tokens": agreement.equal_tokens,
        "identical_completions": agreement.identical_completions,
        "conversations": len(questions.prompts),
        "left_out": questions.left_out,
        "scored_tokens": sum(sum(encoded.learn[1:]) for encoded in questions.whole),
        "compared_tokens": agreement.compared_tokens,
    }


def read_questions(folder: Path, conversations: Artifact, spec: QuantizeSpec | QualitySpec) -> Questions:
    """The first held-out conversations that have an answer and fit into the model's context, and how many do not.

    Raises InputError where none does.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    as_served(tokenizer)
    limit = context_tokens(json.loads((folder / CONFIG_FILE).read_bytes()))
    rows = read_conversations(conversations.local(), "heldout")[: spec.report_conversations]
    whole, prompts, longest = [], [], 0
    for row in rows:
        messages, tools = row["messages"], row.get("tools")
        try:
            encoded = encode(tokenizer, messages, tools)
        except Refused:
            continue
        if not any(encoded.learn[1:]):
            continue
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        prompt = prompt_tokens(tokenizer, messages[:last], tools)
        length = max(len(encoded.tokens) + 1, len(prompt) + spec.report_tokens)
        if limit is None or length <= limit:
            whole.append(encoded)
            prompts.append(prompt)
            longest = max(longest, length)
    if not whole:
        raise InputError(
            f"{conversations.record.ref}: none of {len(rows)} held-out conversations has an answer and fits into the "
            f"model's {limit} tokens",
            f"Give shorter ones, or lower {spec.kind}.report_tokens.",
        )
    return Questions(whole, prompts, len(rows) - len(whole), longest, spec.report_tokens, tokenizer.eos_token_id)


def ask(
    name: str,
    model: Artifact | Location,
    dtype: str,
    questions: Questions,
    scaling: ScalingSpec,
    engine_class: type[Any] = GenerationEngine,
) -> Answers:
    """Start an engine on a model, put all questions to it, and end it. Raises JobError where it fails."""
    options = engine_options(scaling, questions.max_model_len, dtype, kv_cache_gib=KV_CACHE_GIB)
    require_gpus(options.gpus)
    actor = ray.remote(engine_class).options(
        num_cpus=scaling.cpus_per_rollout,
        num_gpus=options.gpus,
        resources=places.asked(places.ENGINE) if options.gpus or scaling.cpus_per_rollout else None,
        runtime_env=engine_runtime_env(options),
    )
    engine = actor.remote(model, options)
    greedy = {"max_tokens": questions.max_tokens, "eos_token_id": questions.eos_token_id}
    calls = (
        lambda: engine.generate.remote(INITIAL, questions.prompts, **greedy),
        lambda: engine.resident_bytes.remote(),
        lambda: engine.score.remote([encoded.tokens for encoded in questions.whole]),
    )
    timeout = scaling.rollout_timeout_seconds
    try:
        ray.get(engine.pid.remote(), timeout=timeout)
        begun = time.perf_counter()
        completions = ray.get(calls[0](), timeout=timeout)
        took = time.perf_counter() - begun
        resident, scores = (ray.get(call(), timeout=timeout) for call in calls[1:])
    except RayError as error:
        raise explained(error, f"the engine of the {name} model") from error
    finally:
        ray.kill(engine)
    nats = [
        [-logprob for logprob, learn in zip(logprobs, encoded.learn[1:], strict=True) if learn]
        for encoded, logprobs in zip(questions.whole, scores, strict=True)
    ]
    tokens = [completion.tokens for completion in completions]
    return Answers(nats, tokens, resident, round(sum(map(len, tokens)) / took, 1))
