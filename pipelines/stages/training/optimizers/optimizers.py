"""The optimizer of a run, and which rule moves which weight.

One optimizer with a rule a group, since DeepSpeed takes one. After ZeRO has flattened the parameters, the rules that
need whole matrices learn from `layouts` where these lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from cluster.core.import_strings import import_string
from pipelines.stages.training.optimizers.rule import Rule, Sharded
from pipelines.stages.training.parallel.layouts import Whole
from pipelines.stages.training.spec import OptimizerName, TrainingSpec

# The rules by name: each is the `RULE` of the module of its name.
RULES: dict[str, Rule] = {name: import_string(f"{__package__}.{name}:RULE") for name in get_args(OptimizerName)}


@dataclass(frozen=True)
class FlatState:
    """What an optimizer keeps of a flat tensor: a tensor like it for each name; what belongs to all its weights, whole
    on every rank, weight after weight; and single numbers."""

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
        # For a checkpoint that is copied in a thread: while DeepSpeed steps, `param_groups` has only the group in turn.
        self._rules = [RULES[group["rule"]] for group in self.param_groups]
        for group in self.param_groups:
            scales = group.pop("scales", [1.0] * len(group["params"]))
            if RULES[group["rule"]].whole_matrices:
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
                RULES[group["rule"]].update(self, parameters, group)

    def rule(self, group: int) -> Rule:
        return self._rules[group]

    def save_state(self, flat: Tensor, group: int) -> FlatState:
        """The state of a flat tensor (a weight of a group, or this rank's shard of it) in terms that know no shards."""
        state, rule = self.state[flat], self.rule(group)
        numbers = {name: value.item() for name, value in state.items() if not value.dim()}
        wholes = {name: state[name] for name in state.keys() & set(rule.whole_state)}
        elements = {name: state[name] for name in state.keys() - numbers.keys() - wholes.keys()}
        return FlatState(rule.by_element(elements), wholes, numbers)

    def load_state(self, flat: Tensor, group: int, saved: FlatState) -> None:
        """Take up the state of a flat tensor, however it was cut when it was saved."""
        numbers = {name: torch.tensor(value, device=flat.device) for name, value in saved.numbers.items()}
        self.state[flat] = {**self.rule(group).from_elements(saved.elements), **saved.wholes, **numbers}


def build_optimizer(
    model: torch.nn.Module,
    spec: TrainingSpec,
    rate: Callable[[str], float] = lambda weight: 1.0,
    beside: Sequence[tuple[torch.nn.Module, float]] = (),
) -> Optimizer:
    """The optimizer of a spec for a model whose parameters are still whole. `rate` is the factor on the learning rate
    of a weight, by its name; what is trained `beside` it has groups of its own, each with one factor.

    Weight decay touches the hidden matrices only. Not norms and biases, as usual for GPT and Llama; and not embeddings
    and the output layer, which those decay: rows of rare tokens would shrink in all the steps that give them no
    gradient (OLMo 2, arXiv:2501.00656, exempts embeddings, too).
    """
    found = _groups(model, spec, rate)
    for module, factor in beside:
        found += [{**group, "peak": group["peak"] * factor} for group in _groups(module, spec)]
    return Optimizer(found, torch.bfloat16 if spec.precision == "bf16" else torch.float32)


def _groups(
    model: torch.nn.Module, spec: TrainingSpec, rate: Callable[[str], float] = lambda weight: 1.0
) -> list[dict[str, Any]]:
    """The groups of one model."""
    hidden = dict(_hidden_matrices(model))
    rest = [p for p in model.parameters() if p.requires_grad and p not in hidden]
    groups = RULES[spec.optimizer].groups(spec, hidden, rest)
    rates = {parameter: rate(name) for name, parameter in model.named_parameters()}
    return [part for group in groups for part in _by_rate(group, rates)]


def _by_rate(group: dict[str, Any], rates: dict[torch.nn.Parameter, float]) -> Iterator[dict[str, Any]]:
    """A group as groups of one learning rate each; none where it has no weights."""
    for factor in sorted({rates[parameter] for parameter in group["params"]}):
        chosen = [number for number, parameter in enumerate(group["params"]) if rates[parameter] == factor]
        lists = {name: [group[name][number] for number in chosen] for name in ("params", "scales") if name in group}
        yield group | lists | {"peak": group["peak"] * factor}


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
