"""Memory of a training worker under DeepSpeed ZeRO, and the layout that suits it: arithmetic on a model's footprint.

Model states after Rajbhandari et al. 2020 (arXiv:1910.02054), as our engine holds them: weights and gradients are
fp32 always (bf16 is autocast), and from stage 1 on DeepSpeed clones the weights that a worker's optimizer owns.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.artifact import Artifact
from cluster.graph import Step
from cluster.hardware import Hardware
from cluster.sizing import Layout, Memory, Prediction, Unsized
from cluster.specs import PretrainSpec, ScalingSpec, SftSpec, TokenizerSpec, TokensSpec, TrainingSpec
from pipelines.training.batch_sizes import BatchSizes
from pipelines.training.batches import plan_batches, pretrain_steps
from pipelines.training.footprint import FP32, Footprint, trace
from pipelines.training.models import configuration
from pipelines.training.throughput import flops_per_token
from pipelines.training.ulysses import check_shared

BUCKET_ELEMENTS = 500_000_000  # at most, of DeepSpeed's reductions
LIVE_ELEMENTS = 1_000_000_000  # of gathered weights under ZeRO 3, at most
# Resident memory of a worker that has imported everything and built nothing: what `gpt2-1m` took under Ray Train on a
# CPU at its peak (683 and 691 MB), less what it needs itself.
RUNTIME_BYTES_CPU = 650_000_000
RUNTIME_BYTES_GPU = 1_000_000_000  # CUDA's context and NCCL's buffers; an assumption, not measured
HEADROOM = 0.9  # what a recommended layout may take of the memory


def memory_of(footprint: Footprint, layout: Layout, workers: int, *, on_cpu: bool, accumulates: bool) -> Memory:
    """Bytes of one of `workers` workers. `accumulates`: a step is of more than one micro-batch."""
    stage = layout.zero_stage
    whole = FP32 * footprint.parameters
    share = -(-whole // workers)
    bucket = min(FP32 * BUCKET_ELEMENTS, whole)
    moments = footprint.state_bytes
    if stage == 0:
        weights, gradients, optimizer = whole, whole, moments
        buffers = bucket if workers > 1 else 0
    else:
        weights = share + min(FP32 * LIVE_ELEMENTS, whole) if stage == 3 else whole
        gradients = whole if stage == 1 and accumulates else share
        optimizer = share + -(-moments // workers)
        # Gradients are gathered in one bucket and summed over the ranks in another, and the optimizer's share of them
        # is flattened; ZeRO 3 holds one bucket and one share more. As measured (benchmarks/sizing.py).
        buffers = 3 * bucket + 2 * share if stage == 3 else 2 * bucket + share
        buffers += FP32 * footprint.muon_parameters  # whole again for its orthogonalization
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buffers=buffers,
        activations=footprint.activations_bytes(layout.micro_batch_size),
        checkpoint=-(-(whole + moments) // workers) if on_cpu else 0,
        runtime=RUNTIME_BYTES_CPU if on_cpu else RUNTIME_BYTES_GPU,
    )


def recommend(
    footprint: Footprint, global_batch_size: int, workers: int, groups: int, *, on_cpu: bool, memory_bytes: int
) -> Layout | None:
    """The lowest ZeRO stage that fits, with the largest micro-batch that fits there; None where nothing does. `groups`
    of workers have sequences of their own.

    The higher the stage, the more is sent (ZeRO 3: half as much again). Stage 1 sends what stage 0 does, and keeps
    less; one worker has nothing to share, and stage 0 spares it a second copy of the weights.
    """
    share = global_batch_size // groups
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    for stage in (0,) if workers == 1 else (1, 2, 3):
        for size in sizes:
            layout = Layout(stage, size)
            needed = memory_of(footprint, layout, workers, on_cpu=on_cpu, accumulates=size < share)
            if needed.total <= HEADROOM * memory_bytes:
                return layout
    return None


def predict(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What pretraining, or fine-tuning of all weights, needs (`sizing` of their specs).

    Raises Unsized where model or vocabulary are known only once an input is built, SpecError for a bad model or batch.
    """
    spec = step.spec
    assert isinstance(spec, TrainingSpec)
    if scaling.activation_checkpointing or "cpu" in (scaling.offload_optimizer, scaling.offload_parameters):
        raise Unsized("offloading and activation checkpointing are not sized")
    config, sequence_length = _model(step)
    plan = plan_batches(spec, scaling, 1)
    objectives = spec.shares if isinstance(spec, PretrainSpec) else ()
    lengths = {"tokens": sequence_length} if isinstance(spec, PretrainSpec) else {}
    check_shared(scaling.sequence_parallel_size, objectives, config, lengths)
    whole = trace(config, spec, sequence_length)
    footprint = whole.shared(scaling.sequence_parallel_size)
    layout = Layout(scaling.zero_stage, plan.micro_batch)
    workers = scaling.num_workers
    layers, hidden = config.num_hidden_layers, config.hidden_size
    return Prediction(
        hardware=hardware,
        num_workers=workers,
        precision=spec.precision,
        parameters=footprint.parameters,
        layout=layout,
        memory=memory_of(footprint, layout, workers, on_cpu=hardware.on_cpu, accumulates=plan.accumulation > 1),
        flops_per_token=flops_per_token(footprint.parameters, layers, hidden, sequence_length),
        activation_bytes_per_token=whole.sequence_bytes / sequence_length,
        tokens=_tokens(spec, sequence_length),
        recommended=recommend(
            footprint,
            plan.global_batch,
            workers,
            plan.num_groups,
            on_cpu=hardware.on_cpu,
            memory_bytes=hardware.memory_bytes,
        ),
    )


def _tokens(spec: TrainingSpec, sequence_length: int) -> int | None:
    """Tokens of the whole run; of fine-tuning, only its conversations know."""
    if isinstance(spec, PretrainSpec):
        return BatchSizes.of(spec).before(pretrain_steps(spec, sequence_length)) * sequence_length
    return None


def _model(step: Step | Artifact) -> tuple[Any, int]:
    """The transformers configuration that a step trains, and the length of its sequences."""
    if isinstance(step, Artifact):
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(step.local()), 0
    spec = step.spec
    if isinstance(spec, SftSpec):
        if spec.adapter != "none":
            raise Unsized("adapters are not sized")
        return _model(step.inputs["model"])[0], spec.sequence_length
    if not isinstance(spec, PretrainSpec):
        raise Unsized(f"its model is known once {step.key} is built")
    vocab_size, sequence_length = _tokens_shape(step.inputs["tokens"])
    if "model" in step.inputs:
        return _model(step.inputs["model"])[0], sequence_length
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
