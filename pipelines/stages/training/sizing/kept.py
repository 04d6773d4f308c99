"""What a forward pass keeps for the backward pass, block by block, as torch's hooks on saved tensors tell it.

Blocks are what activation checkpointing computes again (Chen et al. 2016, arXiv:1604.06174): transformers'
`GradientCheckpointingLayer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from transformers.modeling_layers import GradientCheckpointingLayer

from pipelines.specs import DpoSpec, SftSpec, TrainingSpec
from pipelines.stages.training.models.sizes import BLANK_GLM
from pipelines.stages.training.objectives.objective import HALVES, additive
from pipelines.stages.tuning.attention import NAME


@dataclass(frozen=True)
class Kept:
    """Bytes of one pass besides weights and gradients: all that was `saved`, the batch included; of that, and of what
    blocks were `given`, what is not within a block; what the largest `block` saved besides; the logits. Of masks, those
    among them. And the number of `blocks`."""

    saved: int
    masks: int
    given: int
    given_masks: int
    block: int
    block_masks: int
    logits: int
    blocks: int

    @staticmethod
    def of_pass(
        model: Any,
        spec: TrainingSpec,
        micro_batch_size: int,
        sequence_length: int,
        run: Callable[[Any, torch.Tensor], int] | None = None,
    ) -> Kept:
        """Of a forward pass over so many sequences; `run`, where it is no call of the model, tells the bytes that count
        as the logits."""
        if run:
            tokens, recorder = _tokens(micro_batch_size, sequence_length), _Recorder(model, None, [])
            with recorder:
                return recorder.kept(run(model, tokens))
        tokens, inputs, mask_shape = _inputs(model, spec, micro_batch_size, sequence_length)
        recorder = _Recorder(model, mask_shape, [tokens, *inputs.values()])
        half = HALVES.get(spec.precision)
        with recorder, torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None, cache_enabled=False):
            logits = model(tokens, **inputs).logits
        return recorder.kept(logits.nbytes)


def _tokens(micro_batch_size: int, sequence_length: int) -> torch.Tensor:
    return torch.zeros(micro_batch_size, sequence_length, dtype=torch.int64)


def _inputs(
    model: Any, spec: TrainingSpec, micro_batch_size: int, sequence_length: int
) -> tuple[torch.Tensor, dict[str, Any], torch.Size | None]:
    """Tokens and what else the model takes of a batch; the shape of its mask."""
    tokens = _tokens(micro_batch_size, sequence_length)
    takes = inspect.signature(model.get_base_model().forward if hasattr(model, "peft_config") else model.forward)
    inputs: dict[str, Any] = {"use_cache": False} if "use_cache" in takes.parameters else {}
    if isinstance(spec, SftSpec | DpoSpec):
        if not spec.packing:  # a conversation has no mask: padding stands where nothing looks
            return tokens, inputs, None
        if model.config._attn_implementation == NAME:
            lengths = [sequence_length] * micro_batch_size
            return tokens, inputs | {"position_ids": tokens, "lengths": lengths}, None
    mask = torch.ones(micro_batch_size, 1, sequence_length, sequence_length, dtype=torch.bool)
    inputs["attention_mask"] = additive(mask) if model.config._attn_implementation == "eager" else mask
    if "position_ids" in takes.parameters:
        two = model.config.model_type == BLANK_GLM
        inputs["position_ids"] = torch.stack([tokens, tokens], dim=1) if two else tokens
    return tokens, inputs, mask.shape


class _Recorder:
    """A context for one forward pass. Storages by their identity; the first block that saves one has it."""

    def __init__(self, model: Any, mask_shape: torch.Size | None, batch: list[Any]) -> None:
        self.mask_shape = mask_shape
        self.weights = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        self.blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.saved: dict[int, torch.UntypedStorage] = {}  # held, or another tensor would get the same address
        self.given: dict[int, torch.UntypedStorage] = {}
        self.masks: set[int] = set()
        self.block_of: dict[int, int | None] = {}
        self.block: int | None = None
        for tensor in batch:
            if isinstance(tensor, torch.Tensor):
                self._note(tensor, self.saved)
        self.hooks: list[Any] = [torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)]

    def __enter__(self) -> None:
        for number, block in enumerate(self.blocks):
            self.hooks.append(block.register_forward_pre_hook(self._begins(number), with_kwargs=True))
            self.hooks.append(block.register_forward_hook(self._ends))
        self.hooks[0].__enter__()

    def __exit__(self, *error: Any) -> None:
        self.hooks[0].__exit__(*error)
        for handle in self.hooks[1:]:
            handle.remove()

    def _begins(self, number: int) -> Any:
        def begin(module: Any, args: Any, kwargs: Any) -> None:
            self.block = number
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, torch.Tensor):
                    self._note(tensor, self.given)

        return begin

    def _ends(self, *of: Any) -> None:
        self.block = None

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        self._note(tensor, self.saved)
        return tensor

    def _note(self, tensor: torch.Tensor, into: dict[int, torch.UntypedStorage]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.weights:
            return
        into[key] = storage
        if into is self.saved:
            self.block_of.setdefault(key, self.block)
        if tensor.shape == self.mask_shape:
            self.masks.add(key)

    def kept(self, logits_bytes: int) -> Kept:
        outside = self.given | {key: s for key, s in self.saved.items() if self.block_of[key] is None}
        within: list[dict[int, torch.UntypedStorage]] = [{} for _ in self.blocks]
        for key, number in self.block_of.items():
            if number is not None and key not in outside:
                within[number][key] = self.saved[key]
        largest = max(within, key=self._bytes, default={})
        return Kept(
            saved=self._bytes(self.saved),
            masks=self._masks(self.saved),
            given=self._bytes(outside),
            given_masks=self._masks(outside),
            block=self._bytes(largest),
            block_masks=self._masks(largest),
            logits=logits_bytes,
            blocks=len(self.blocks),
        )

    @staticmethod
    def _bytes(storages: dict[int, torch.UntypedStorage]) -> int:
        return sum(storage.nbytes() for storage in storages.values())

    def _masks(self, storages: dict[int, torch.UntypedStorage]) -> int:
        return sum(storage.nbytes() for key, storage in storages.items() if key in self.masks)
