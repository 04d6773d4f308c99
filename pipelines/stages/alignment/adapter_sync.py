"""Policies that are an adapter over a frozen model: the adapter alone travels to the engines, which have the model.

An engine keeps the model as it was stored and makes its weights of it and of the updates, W + scale * B A, layer by
layer, by peft's own formula. Requests need no adapter of their own then, and every token costs what it costs without
one. Where the frozen weights are packed (QLoRA), the engine packs and unpacks its own as the learner does: what it adds
to is what the learner computes with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.core.errors import SpecError
from pipelines.stages.tuning.methods.full import Full
from pipelines.stages.tuning.methods.lora import LowRank

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER = "default"  # what peft calls the one that there is


def check_method(spec: Any) -> None:
    """Raise SpecError for a method (of an RlhfSpec) whose weights an engine cannot take."""
    method, field = spec.method, "rlhf.method"
    if isinstance(method, Full):
        return
    if not isinstance(method, LowRank):
        raise SpecError(
            f"{field}: engines take whole weights and low-rank updates, and {method.name} trains neither",
            "Set it to full, lora or qlora.",
        )
    unlike = {
        "dora": method.dora and "weights are no sum of the stored ones and updates",
        "init": method.init == "pissa" and "the frozen weights would not be those that engines have",
        "also": method.also and "whole matrices would travel beside the adapter",
        "weights": getattr(method, "weights", "") == "int8" and "activations are rounded, which engines do not do",
    }
    for name, why in unlike.items():
        if why:
            raise SpecError(f"{field}.{name}: {why}", "Leave it out.")
    critic = spec.advantage.value_function
    if critic and critic.start == "head":
        raise SpecError(
            f"rlhf.advantage.critic.start: a head learns the policy's layers, which {method.name} freezes",
            "Set it to policy or reward.",
        )
    try:
        method.check(spec)
    except SpecError as error:  # of a method of tuning, whose fields are called after `sft`
        raise SpecError(error.message.replace("sft.", "rlhf."), error.remedy.replace("sft.", "rlhf.")) from None


def open_policy(spec: Any, folder: Path) -> tuple[Any, Any]:
    """The model in a folder as the method (of an RlhfSpec) wants it, and the policy that the method makes of it."""
    from pipelines.stages.training.models.models import load_model

    model = load_model(folder, **spec.method.load_options(spec.precision))
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):  # else evaluation computes in bf16, and training does not
            layer.support_avx512bf16_for_cpu = False
    return model, spec.method.apply(model, spec.seed)


class Frozen:
    """The model that a policy began as: the policy without its adapter."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.config = policy, policy.config

    def __call__(self, tokens: Tensor, **options: Any) -> Any:
        learning = self.policy.training
        self.policy.eval()
        try:
            with self.policy.disable_adapter():
                return self.policy(tokens, **options)
        finally:
            self.policy.train(learning)

    def get_output_embeddings(self) -> Any:
        return self.policy.get_output_embeddings()


@dataclass(frozen=True)
class Updates:
    """How an engine makes its weights of an adapter; travels pickled."""

    method: LowRank
    precision: str
    seed: int

    def open(self, folder: Path) -> Merger:
        """For an engine on the model in a folder."""
        return Merger(self, folder)


class Merger:
    """A model as it is stored, and an adapter over it. Weights have the names and forms of the model's folder."""

    def __init__(self, updates: Updates, folder: Path) -> None:
        self._folder = folder
        _, policy = open_policy(updates, folder)
        self._adapted = policy.requires_grad_(False)
        layers = list(self._adapted.get_base_model().named_modules())
        self._updated = {f"{name}.weight": layer for name, layer in layers if hasattr(layer, "get_delta_weight")}
        others = (layer for name, layer in layers if not name.endswith(".base_layer"))
        packed = {layer for layer in others if hasattr(getattr(layer, "weight", None), "quant_state")}
        self._packed = {f"{name}.weight": layer for name, layer in layers if layer in packed}

    def stored(self) -> Iterator[Tensor]:
        """What the weights that change were before."""
        from pipelines.stages.training.models.models import load_model

        plain = dict(load_model(self._folder).named_parameters())
        for name in {**self._packed, **self._updated}:
            yield plain[name].detach()

    def merged(self, adapter: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The weights that differ from the stored ones, by name, of the adapter's tensors, by peft's names."""
        import torch

        unknown = self._adapted.load_state_dict(adapter, strict=False).unexpected_keys
        assert not unknown, f"weights that the adapter does not have: {unknown[:3]}"
        with torch.no_grad():
            for name, layer in {**self._packed, **self._updated}.items():
                base = layer.get_base_layer() if name in self._updated else layer
                weight = _unpacked(base.weight)
                yield name, weight + layer.get_delta_weight(ADAPTER) if name in self._updated else weight


def _unpacked(weight: Any) -> Tensor:
    if not hasattr(weight, "quant_state"):
        found: Tensor = weight.detach()
        return found
    from peft.utils.integrations import dequantize_bnb_weight

    return dequantize_bnb_weight(weight)
