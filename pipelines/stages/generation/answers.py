"""Every prompt answered once by vLLM engines on a model artifact; for evaluations, which bring no new weights.

An adapter over a model is answered for by transformers, in this process (plain.py): vLLM knows no soft prompts. Engines
are Ray actors, `scaling.rollout_workers` of them, and a dead one is started again and asked again. An answer depends on
its prompt and its seed alone and not on the engine.
"""

from __future__ import annotations

from typing import Any

import ray
import torch

from cluster.control.failures import explained
from cluster.control.runtime import connect
from cluster.core.adapters import context_of, open_model, over_transformers
from cluster.core.context import Context
from cluster.core.errors import InputError, JobError
from cluster.core.model_files import read_config
from cluster.core.storage.artifact import Artifact
from pipelines.stages.corpus.documents import keyed_hash
from pipelines.stages.generation import fleet, plain
from pipelines.stages.generation.engine import INITIAL, Completion, engine_dtype, engine_options

BATCH_PROMPTS = 64  # an engine's at once: few enough for progress to be told, enough to fill a batch


def answer(
    ctx: Context[Any], model: Artifact, prompts: list[list[int]], *, seed: int, max_tokens: int, **asked: Any
) -> list[Completion]:
    """One completion of each prompt (token ids), in order; `asked` as in `GenerationEngine.generate`.

    Raises InputError where a prompt and its answer may not fit into the model, JobError where no engine answers.
    """
    longest, limit = max(map(len, prompts)) + max_tokens, context_of(model)
    if limit and longest > limit:
        raise InputError(
            f"{model.record.ref}: a prompt and its answer may take {longest} tokens, the model {limit}",
            f"Lower {ctx.spec.kind}.max_completion_tokens, or leave long prompts out.",
        )
    seeds = [keyed_hash(seed, "answer", str(number)) >> 1 for number in range(len(prompts))]  # vLLM's are signed
    if reason := over_transformers(model):
        ctx.notice(f"{model.record.ref} is {reason}: transformers answers, one prompt after the other, and not vLLM")
        return plain.answer(open_model(model, dtype=torch.float32), prompts, seeds, max_tokens, ctx.progress, **asked)
    connect(ctx.scaling)
    options = engine_options(ctx.scaling, limit or longest, engine_dtype(ctx.scaling, read_config(model)))
    engines = fleet.start(model, options, ctx.scaling)
    size = BATCH_PROMPTS * len(engines)
    answers: list[Completion] = []
    try:
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            shares = [
                engine.generate.remote(
                    INITIAL, prompts[part][i :: len(engines)], seeds=seeds[part][i :: len(engines)],
                    max_tokens=max_tokens, **asked,
                )
                for i, engine in enumerate(engines)
            ]  # fmt: skip
            found = _wait(shares, model, ctx.scaling.rollout_timeout_seconds)
            answers += [found[i % len(engines)][i // len(engines)] for i in range(len(prompts[part]))]
            ctx.progress(len(answers), len(prompts), "answers")
    finally:
        for engine in engines:
            ray.kill(engine)
    return answers


def _wait(shares: list[Any], model: Artifact, timeout_seconds: float) -> list[list[Completion]]:
    try:
        found: list[list[Completion]] = ray.get(shares, timeout=timeout_seconds)
    except ray.exceptions.GetTimeoutError:
        raise JobError(
            f"{model.record.ref}: an engine took more than {timeout_seconds:.0f} s over {BATCH_PROMPTS} prompts",
            "Raise scaling.rollout_timeout_seconds, or lower max_completion_tokens.",
        ) from None
    except ray.exceptions.RayError as error:
        raise explained(error, f"the engine of {model.record.ref}") from error
    return found
