"""What a model keeps in memory while it trains, found by running it on tensors that have shapes and no storage.

Activations are counted as Korthikanti et al. 2022 (arXiv:2205.05198) do, as what the backward pass will need, yet not
by a formula of one architecture: torch's own hooks tell what the forward pass saves, whatever the family, the attention
kernel and the precision. A sequence more costs the same as the one before it, so two passes tell all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.specs import TrainingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


FP32 = 4
# Of a weight, by the rule that moves it; Adafactor has rows and columns instead. 8 bits have a scale each 256 elements.
STATE_BYTES = {"adamw": 2 * FP32, "adamw8bit": 2 + 2 * FP32 / 256, "muon": FP32, "adafactor": 0}


@dataclass(frozen=True)
class Footprint:
    """Parameters, those of them that Muon updates, and bytes: of the optimizer's state, and of activations, `fixed` and
    for each sequence; of the latter `mask_bytes` (copies included) are not divided among workers that share it.

    Under autocast the fixed ones are the 16-bit copies of the weights, which the backward pass needs: all of them, in
    every ZeRO stage.
    """

    parameters: int
    muon_parameters: int
    state_bytes: int
    fixed_bytes: int
    sequence_bytes: int
    mask_bytes: int = 0

    def activations_bytes(self, micro_batch_size: int) -> int:
        return self.fixed_bytes + micro_batch_size * self.sequence_bytes

    def shared(self, workers: int) -> Footprint:
        """The footprint on each of so many workers that share every sequence.

        Each layer keeps its attention's result a second time then, which is not counted.
        """
        divided = -(-(self.sequence_bytes - self.mask_bytes) // workers)
        return replace(self, sequence_bytes=divided + self.mask_bytes)


def trace(config: PreTrainedConfig, spec: TrainingSpec, sequence_length: int) -> Footprint:
    """The footprint of a language model under a spec, on packed documents. Seconds at most, and no memory."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from pipelines.training.models import build_model, count_parameters
    from pipelines.training.optimizers import build_optimizer

    with torch.random.fork_rng(devices=[]), FakeTensorMode():
        model = build_model(config, spec.seed)
        (one, mask), (two, _) = (_saved_bytes(model, spec, number, sequence_length) for number in (1, 2))
        groups = build_optimizer(model, spec).param_groups
        of_rules = {rule: [p for g in groups if g["rule"] == rule for p in g["params"]] for rule in STATE_BYTES}
        state = sum(STATE_BYTES[rule] * p.numel() for rule, held in of_rules.items() for p in held)
        state += sum(FP32 * (sum(p.shape) if p.ndim == 2 else p.numel()) for p in of_rules["adafactor"])
        muon = sum(p.numel() for p in of_rules["muon"])
        return Footprint(count_parameters(model), muon, int(state), 2 * one - two, two - one, mask)


def _saved_bytes(model: Any, spec: TrainingSpec, micro_batch_size: int, sequence_length: int) -> tuple[int, int]:
    """Bytes that forward and backward pass of a micro-batch need at their peak besides weights and gradients; and those
    of them that the mask and what is made of it take.

    That is at the beginning of the backward pass: all that was saved, and the logits, which became their own gradient.
    """
    import inspect

    import torch

    from pipelines.training.models import BLANK_GLM
    from pipelines.training.objectives import HALVES, additive

    shape = (micro_batch_size, sequence_length)
    tokens = torch.zeros(shape, dtype=torch.int64)
    mask = torch.ones(micro_batch_size, 1, sequence_length, sequence_length, dtype=torch.bool)
    given: dict[str, Any] = {"attention_mask": additive(mask) if model.config._attn_implementation == "eager" else mask}
    takes = inspect.signature(model.forward).parameters
    if "position_ids" in takes:
        positions = tokens if model.config.model_type != BLANK_GLM else torch.stack([tokens, tokens], dim=1)
        given["position_ids"] = positions
    if "use_cache" in takes:
        given["use_cache"] = False
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # held, or another tensor would get the same address
    masks: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
            if tensor.shape == mask.shape:
                masks[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        half = HALVES.get(spec.precision)
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            logits = model(tokens, **given).logits
    inputs = mask.nbytes + tokens.nbytes
    found = sum(storage.nbytes() for storage in saved.values()) + logits.nbytes + inputs
    return found, sum(masks.values()) + mask.nbytes
