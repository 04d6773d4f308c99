"""What `ctl plan` says of a step that trains a language model: memory of a worker, work of a token, and advice."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Layout, Prediction, Unsized
from cluster.core.errors import SpecError, gist
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from pipelines.specs import (
    DpoSpec,
    PretrainSpec,
    RewardSpec,
    RlhfSpec,
    ScalingSpec,
    SftSpec,
    TokenizerSpec,
    TokensSpec,
    TrainingSpec,
)
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import plan_batches, pretrain_steps
from pipelines.stages.training.models.models import configuration
from pipelines.stages.training.parallel.tensor_parallel import check_cut
from pipelines.stages.training.parallel.ulysses import check_shared
from pipelines.stages.training.sizing.advice import instead, recommend
from pipelines.stages.training.sizing.footprint import ALONE, Beside, Learner, trace
from pipelines.stages.training.sizing.memory import place
from pipelines.stages.training.telemetry.throughput import flops_per_token, hardware_flops_per_token


def predict(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What pretraining needs (`sizing` of its spec).

    Raises Unsized where model or vocabulary are known only once an input is built, SpecError for a bad model or batch.
    """
    return predict_model(step, *model_of(step), scaling, hardware)


def predict_model(
    step: Step,
    config: Any,
    sequence_length: int,
    scaling: ScalingSpec,
    hardware: Hardware,
    adapt: Callable[[Any], Any] | None = None,
    stages: Sequence[int] = (1, 2, 3),
    recomputes: bool = True,
    sequences: int = 1,
    learner: Learner | None = None,
    beside: Beside = ALONE,
) -> Prediction:
    """What training of a model needs on sequences of a length, of which a sample has so many. `adapt` makes of it the
    one that is trained, or a `learner` is; `stages` are those of ZeRO that it can be trained at, and `recomputes` says
    whether layers can be computed again."""
    spec = step.spec
    assert isinstance(spec, TrainingSpec)
    check_cut(scaling, spec, config)
    plan = plan_batches(spec, scaling, 1)
    objectives = spec.shares if isinstance(spec, PretrainSpec) else ()
    lengths = {"tokens": sequence_length} if isinstance(spec, PretrainSpec) else {}
    check_shared(scaling.sequence_parallel_size, objectives, config, lengths)
    whole = replace(trace(config, spec, sequence_length, adapt, learner=learner), beside=beside)
    if scaling.activation_checkpointing and not whole.checkpointed:
        raise SpecError(
            f"scaling.activation_checkpointing: the family {config.model_type!r} does not compute its layers again",
            "Set it to false.",
        )
    part = whole
    if scaling.tensor_parallel_size > 1:
        part = trace(config, spec, sequence_length, tensor_parallel_size=scaling.tensor_parallel_size)
        stages = [stage for stage in stages if stage < 3]  # ZeRO 3 does not go with it
    footprint = part.shared(scaling.sequence_parallel_size).times(sequences)
    if not recomputes:
        footprint = replace(footprint, checkpointed=())
    layout = Layout(
        scaling.zero_stage,
        plan.micro_batch,
        scaling.activation_checkpointing,
        scaling.offload_optimizer,
        scaling.offload_parameters,
    )
    workers, accumulates = plan.zero_size, plan.accumulation > 1
    placed = place(footprint, layout, workers, on_cpu=hardware.on_cpu, accumulates=accumulates)
    flops = flops_per_token(whole.parameters, config.num_hidden_layers, config.hidden_size, sequence_length)
    flops -= 2.0 * (whole.parameters - whole.trained_parameters)  # frozen weights have no gradient
    again = layout.activation_checkpointing
    return Prediction(
        hardware=hardware,
        num_workers=scaling.num_workers,
        precision=spec.precision,
        parameters=whole.parameters,
        trained_parameters=whole.trained_parameters,
        placed=placed,
        flops_per_token=hardware_flops_per_token(flops, again),
        activation_bytes_per_token=hardware_flops_per_token(whole.peaks[0].sequence_bytes / sequence_length, again),
        tokens=_tokens(spec, sequence_length),
        recommended=recommend(footprint, plan.global_batch, workers, plan.num_groups, hardware, stages),
        instead=instead(placed, footprint, workers, hardware, accumulates),
    )


def _tokens(spec: TrainingSpec, sequence_length: int) -> int | None:
    """Tokens of the whole run; of fine-tuning, only its conversations know."""
    if isinstance(spec, PretrainSpec):
        return BatchSizes.of(spec).before(pretrain_steps(spec, sequence_length)) * sequence_length
    return None


def model_of(step: Step | Artifact) -> tuple[Any, int]:
    """The transformers configuration that a step trains, and the length of its sequences."""
    if isinstance(step, Artifact):
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(step.local()), 0
        except (OSError, ValueError, KeyError) as error:  # as transformers refuses a folder or a family
            raise Unsized(
                f"transformers does not read the configuration of {step.record.ref}: {gist(str(error))}"
            ) from error
    spec = step.spec
    if isinstance(spec, SftSpec | DpoSpec | RewardSpec):
        return model_of(step.inputs["model"])[0], spec.sequence_length
    if isinstance(spec, RlhfSpec):
        return model_of(step.inputs["model"])[0], spec.max_prompt_tokens + spec.max_completion_tokens
    if not isinstance(spec, PretrainSpec):
        raise Unsized(f"its model is known once {step.key} is built")
    vocab_size, sequence_length = _tokens_shape(step.inputs["tokens"])
    if "model" in step.inputs:
        return model_of(step.inputs["model"])[0], sequence_length
    config = configuration(
        spec.model, spec.model_overrides, vocab_size=vocab_size, sequence_length=sequence_length, eos_token_id=0
    )
    return config, sequence_length


def _tokens_shape(tokens: Step | Artifact) -> tuple[int, int]:
    """Vocabulary and sequence length of tokens or of a mixture; of what is not built, as its specs have them.

    A corpus too small for the vocabulary that is asked for makes a smaller one.
    """
    if isinstance(tokens, Artifact):
        index = json.loads(tokens.location.read_bytes("index.json"))
        return index["vocab_size"], index["sequence_length"]
    if not isinstance(tokens.spec, TokensSpec):  # a mixture, all of whose sources are alike
        return _tokens_shape(next(iter(tokens.inputs.values())))
    return _vocab_size(tokens.inputs["tokenizer"]), tokens.spec.sequence_length


def _vocab_size(tokenizer: Step | Artifact) -> int:
    if isinstance(tokenizer, Artifact):
        if "vocab_size" in tokenizer.metrics:
            return int(tokenizer.metrics["vocab_size"])
    elif isinstance(tokenizer.spec, TokenizerSpec):
        return tokenizer.spec.vocab_size
    elif isinstance(tokenizer.spec, PretrainSpec):
        return _tokens_shape(tokenizer.inputs["tokens"])[0]
    key = tokenizer.record.ref if isinstance(tokenizer, Artifact) else tokenizer.key
    raise Unsized(f"its vocabulary is known once the tokens of {key} are built")
