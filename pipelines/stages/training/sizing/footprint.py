"""What a model keeps in memory while it trains, found by running it on tensors that have shapes and no storage.

Activations are counted as Korthikanti et al. 2022 (arXiv:2205.05198) do, as what the backward pass will need, yet not
by a formula of one architecture: torch's own hooks tell what the forward pass saves, whatever the family, the attention
kernel and the precision. A sequence more costs the same as the one before it, so two passes tell all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.control.planning.prediction import Memory
from pipelines.specs import TrainingSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

    from pipelines.stages.training.objectives.objective import Objective
    from pipelines.stages.training.sizing.kept import Kept

FP32 = 4
NOTHING = Memory()


@dataclass(frozen=True)
class Peak:
    """Bytes besides weights and gradients at one moment of a step: `fixed`, and for each sequence; of the latter
    `mask_bytes` (copies included) are not divided among workers that share it.

    Under autocast the fixed ones are the 16-bit copies of the weights, which the backward pass needs: all of them, in
    every ZeRO stage; with checkpointing those of the largest block and of what is in none.
    """

    fixed_bytes: int
    sequence_bytes: int
    mask_bytes: int = 0

    def bytes(self, micro_batch_size: int) -> int:
        return self.fixed_bytes + micro_batch_size * self.sequence_bytes

    def shared(self, workers: int) -> Peak:
        divided = -(-(self.sequence_bytes - self.mask_bytes) // workers)
        return replace(self, sequence_bytes=divided + self.mask_bytes)

    def times(self, sequences: int) -> Peak:
        return replace(self, sequence_bytes=self.sequence_bytes * sequences, mask_bytes=self.mask_bytes * sequences)


@dataclass(frozen=True)
class Beside:
    """What a worker holds beside what it trains, in every layout: where the passes are computed, and in main memory;
    and of the latter, in bytes, what it holds between steps only, when there are no activations."""

    device: Memory = NOTHING
    host: Memory = NOTHING
    between_steps_bytes: int = 0


ALONE = Beside()


@dataclass(frozen=True)
class Learner:
    """What is trained, where that is more or something else than a language model: an objective, made on PyTorch's
    `meta` device; and its forward pass over tokens (batch, length), which tells the bytes that the backward pass begins
    with beside what was saved for it."""

    build: Callable[[], Objective]
    run: Callable[[Any, Tensor], int]


@dataclass(frozen=True)
class Footprint:
    """Weights, those of them that are trained, of these the ones that the optimizer gathers to whole matrices, and the
    largest one; and bytes: of the optimizer's state, of what is not trained, as it is stored, and of activations at the
    moments that may be the highest of a step, without and with activation checkpointing (none: the family has no blocks
    for it)."""

    parameters: int
    trained_parameters: int
    gathered_parameters: int
    largest_parameter: int
    state_bytes: int
    frozen_bytes: int
    peaks: tuple[Peak, ...]
    checkpointed: tuple[Peak, ...]
    beside: Beside = ALONE

    def activations_bytes(self, micro_batch_size: int, checkpointing: bool = False) -> int:
        peaks = self.checkpointed if checkpointing else self.peaks
        return max(peak.bytes(micro_batch_size) for peak in peaks)

    def shared(self, workers: int) -> Footprint:
        """The footprint on each of so many workers that share every sequence.

        Each layer keeps its attention's result a second time then, which is not counted.
        """
        peaks, checkpointed = (tuple(p.shared(workers) for p in of) for of in (self.peaks, self.checkpointed))
        return replace(self, peaks=peaks, checkpointed=checkpointed)

    def times(self, sequences: int) -> Footprint:
        """The footprint where a sample has so many sequences, such as the two of a pair."""
        peaks, checkpointed = (tuple(p.times(sequences) for p in of) for of in (self.peaks, self.checkpointed))
        return replace(self, peaks=peaks, checkpointed=checkpointed)


def trace(
    config: PreTrainedConfig,
    spec: TrainingSpec,
    sequence_length: int,
    adapt: Callable[[Any], Any] | None = None,
    tensor_parallel_size: int = 1,
    learner: Learner | None = None,
) -> Footprint:
    """The footprint of a language model under a spec: on packed documents; in fine-tuning on one conversation each, or
    on packed ones. Seconds at most, and no memory. `adapt` makes of the model the one that is trained. Where workers
    share layers, it is that of one worker, but for `parameters`. With a `learner`, of that instead, on sequences as
    long."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from pipelines.stages.training.models.models import build_model, count_parameters
    from pipelines.stages.training.models.packed import stored_bytes, without_storage
    from pipelines.stages.training.optimizers.optimizers import RULES, build_optimizer
    from pipelines.stages.training.parallel.tensor_parallel import keep_part

    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        objective = learner.build() if learner else None
        model: Any = objective or build_model(config, spec.seed)
        parameters = count_parameters(model)
        if tensor_parallel_size > 1:
            keep_part(model, tensor_parallel_size)
        before = set(model.parameters())
        model = adapt(model).train() if adapt else model
        added = sum(p.numel() for p in model.parameters() if p.requires_grad and p not in before)  # an adapter's
    with FakeTensorMode():
        without_storage(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        frozen = [p for p in model.parameters() if not p.requires_grad]
        learned = build_optimizer(objective.model, spec, beside=objective.beside()) if objective else None
        groups = (learned or build_optimizer(model, spec)).param_groups
        moved = [(RULES[group["rule"]], parameter) for group in groups for parameter in group["params"]]
        frozen_bytes = sum(stored_bytes(tensor) for tensor in (*frozen, *model.buffers()))
        peaks, checkpointed = _peaks(model, spec, sequence_length, learner)
        return Footprint(
            parameters=parameters + added,
            trained_parameters=sum(p.numel() for p in trained),
            gathered_parameters=sum(p.numel() for rule, p in moved if rule.gathers),
            largest_parameter=max(p.numel() for p in trained),
            state_bytes=int(sum(rule.state_bytes(p) for rule, p in moved)),
            frozen_bytes=frozen_bytes,
            peaks=peaks,
            checkpointed=checkpointed,
        )


def _peaks(
    model: Any, spec: TrainingSpec, sequence_length: int, learner: Learner | None
) -> tuple[tuple[Peak, ...], tuple[Peak, ...]]:
    """The moments of a step that may be the highest, without and with activation checkpointing.

    Without, that is the beginning of the backward pass: all that was saved, and the logits, which became their own
    gradient. With, blocks leave what they were given, and the end of the forward pass competes with the backward pass
    of the largest block: what its forward pass, made again, saves, and gradients of as much.
    """
    from pipelines.stages.training.models.packed import unpacked_bytes
    from pipelines.stages.training.sizing.kept import Kept

    unpacked = unpacked_bytes(model)  # before a pass, in which 8-bit layers take their scales to themselves
    run = learner.run if learner else None
    one, two = (Kept.of_pass(model, spec, number, sequence_length, run) for number in (1, 2))

    def peak(what: Callable[[Kept], tuple[int, int]], fixed: int) -> Peak:
        (first, mask), (second, _) = what(one), what(two)
        return Peak(2 * first - second + fixed, second - first, mask)

    plain = peak(lambda kept: (kept.saved + kept.logits, kept.masks), unpacked)
    if not one.blocks:
        return (plain,), ()
    forward = peak(lambda kept: (kept.given + kept.logits, kept.given_masks), unpacked)
    backward = peak(lambda kept: (kept.given + 2 * kept.block, kept.given_masks + kept.block_masks), unpacked)
    return (plain,), (forward, backward)
