"""The optimizer of a run, and which rule moves which weight.

One optimizer with a rule a group, since DeepSpeed takes one. After ZeRO has flattened the parameters, the rules that
need whole matrices learn from `layouts` where these lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipelines.specs import TrainingSpec
from pipelines.stages.training.optimizers import adafactor, adamw, muon
from pipelines.stages.training.optimizers.sharded import Sharded
from pipelines.stages.training.parallel.layouts import Whole

RULES = {
    "adamw": adamw.update,
    "adamw8bit": adamw.update_8bit,
    "adafactor": adafactor.update,
    "muon": muon.update,
}
WHOLE = ("adafactor", "muon")  # rules that need to know the weights' shapes


@dataclass(frozen=True)
class Told:
    """What an optimizer keeps of a flat tensor: a tensor like it for each name; what belongs to all its weights, whole
    on every rank, weight after weight; and single numbers."""

    WHOLES: ClassVar[set[str]] = {adafactor.FACTORS}

    elements: dict[str, Tensor]
    wholes: dict[str, Tensor]
    numbers: dict[str, float]


class Optimizer(Sharded):
    """Groups with a `rule`, a learning rate (`peak`) that `set_factor` scales, and what else the rule asks for.

    `scales`, where a group has them, are the factors on the updates of its weights. Where `admit` returns False,
    `step` does nothing.
    """

    def __init__(self, groups: list[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.dtype = dtype
        self.admit: Callable[[], bool] = lambda: True
        self.layouts = {}
        self.wholes = {}
        for group in self.param_groups:
            scales = group.pop("scales", [1.0] * len(group["params"]))
            if group["rule"] in WHOLE:
                for parameter, scale in zip(group["params"], scales, strict=True):
                    self.wholes[parameter] = Whole(parameter.shape, scale)

    def set_factor(self, factor: float) -> None:
        for group in self.param_groups:
            group["lr"] = group["peak"] * factor

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        if not self.admit():
            return
        for group in self.param_groups:
            if parameters := [p for p in group["params"] if p.grad is not None]:
                RULES[group["rule"]](self, parameters, group)

    def told(self, flat: Tensor) -> Told:
        """The state of a flat tensor (a weight, or this rank's shard of a group) in terms that know no shards."""
        state = self.state[flat]
        numbers = {name: value.item() for name, value in state.items() if not value.dim()}
        wholes = {name: state[name] for name in state.keys() & Told.WHOLES}
        elements = {name: state[name] for name in state.keys() - numbers.keys() - wholes.keys()}
        return Told(adamw.spread_scales(elements), wholes, numbers)

    def take(self, flat: Tensor, told: Told) -> None:
        """Take up the state of a flat tensor, however it was cut when it was told."""
        numbers = {name: torch.tensor(value, device=flat.device) for name, value in told.numbers.items()}
        self.state[flat] = {**adamw.gather_scales(told.elements), **told.wholes, **numbers}


def build_optimizer(model: torch.nn.Module, spec: TrainingSpec) -> Optimizer:
    """The optimizer of a spec for a model whose parameters are still whole.

    Weight decay touches the hidden matrices only. Not norms and biases, as usual for GPT and Llama; and not embeddings
    and the output layer, which those decay: rows of rare tokens would shrink in all the steps that give them no
    gradient (OLMo 2, arXiv:2501.00656, exempts embeddings, too). Muon and 8-bit state are for the same matrices: Muon
    is made for linear maps, and Dettmers et al. keep 32 bits for embeddings.
    """
    hidden = dict(_hidden_matrices(model))
    rest = [p for p in model.parameters() if p.requires_grad and p not in hidden]
    whole_state = {"rule": "adamw", "peak": spec.learning_rate, "betas": (spec.beta1, spec.beta2), "eps": 1e-8}
    rules: dict[str, dict[str, Any]] = {
        "adamw": whole_state,
        "adamw8bit": whole_state | {"rule": "adamw8bit"},
        "muon": {"rule": "muon", "peak": spec.muon_learning_rate, "scales": list(hidden.values())},
        "adafactor": {"rule": "adafactor", "peak": spec.learning_rate, "factored": True},
    }
    groups = [{"params": list(hidden), "weight_decay": spec.weight_decay, **rules[spec.optimizer]}]
    if spec.optimizer == "adafactor":
        for factored in (True, False):
            parameters = [p for p in rest if (p.ndim == 2) == factored]
            groups.append({"params": parameters, "weight_decay": 0.0, **rules["adafactor"], "factored": factored})
    else:
        groups.append({"params": rest, "weight_decay": 0.0, **whole_state})
    found = [group for group in groups if group["params"]]
    return Optimizer(found, torch.bfloat16 if spec.precision == "bf16" else torch.float32)


def _hidden_matrices(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Parameter, float]]:
    """The weights of the linear layers between embeddings and output, each with the factor on its Muon update."""
    from transformers.pytorch_utils import Conv1D

    outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    outputs_of = (getattr(model, "get_output_embeddings", lambda: None)(), getattr(model, "score", None))
    outer |= {id(output.weight) for output in outputs_of if output is not None}
    for module in model.modules():
        if not isinstance(module, (torch.nn.Linear, Conv1D)) or not module.weight.requires_grad:
            continue
        if id(module.weight) not in outer:
            inputs, outputs = module.weight.shape[::-1]
            if isinstance(module, Conv1D):  # GPT-2's linear layer, stored transposed
                inputs, outputs = outputs, inputs
            yield module.weight, math.sqrt(max(1.0, outputs / inputs))
