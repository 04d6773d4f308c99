"""What every method of fine-tuning is: a struct of its fields, and what it makes of a model.

A method chooses which weights are trained (all, some layers, low-rank updates, a prefix) and how they are written. The
engine, the loop and the checkpoints know nothing of it: they train whatever wants a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from cluster.core.errors import SpecError
from cluster.core.specs.scaling import ScalingSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

FIELD = "sft.method"
ALL_STAGES = (0, 1, 2, 3)
Outer = Literal["embeddings", "head"]


@dataclass(frozen=True)
class Stored:
    """A model as it is stored, its weights not packed: where, and how it is opened anew."""

    folder: Path
    open: Callable[[], Any]


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all methods. In YAML `type` tells them apart. What takes long to import is imported within."""

    adapts: ClassVar[bool] = True
    """Whether what is trained stands beside the model, whose own weights stay as they are: an adapter, for peft."""
    merges: ClassVar[bool] = True
    """Whether what was trained can become part of the model's weights: then the artifact is a whole model."""
    cuts: ClassVar[bool] = False
    """Whether workers can share the layers that are trained (scaling.tensor_parallel_size)."""
    shares: ClassVar[bool] = True
    """Whether workers can share sequences (scaling.sequence_parallel_size)."""
    packs: ClassVar[bool] = True
    """Whether several conversations can stand in a row (sft.packing), each of which attends to itself alone."""
    recomputes: ClassVar[bool] = True
    """Whether layers can be computed again (scaling.activation_checkpointing)."""

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def virtual_tokens(self) -> int:
        """Places of the model's context that the method takes."""
        return 0

    @property
    def unfit_for_zero_3(self) -> str:
        """Why ZeRO 3 cannot cut the weights; empty where it can."""
        return ""

    @property
    def zero_stages(self) -> tuple[int, ...]:
        return ALL_STAGES[:-1] if self.unfit_for_zero_3 else ALL_STAGES

    @property
    def loads_in_vllm(self) -> bool:
        """Whether vLLM takes the adapter that is left."""
        return False

    @property
    def also(self) -> tuple[Outer, ...]:
        """What is trained besides, whole."""
        return ()

    def check(self, spec: Any) -> None:
        """Raise SpecError where the fields contradict each other, or those of an SftSpec."""
        if spec.packing and not self.packs:
            raise SpecError(
                f"sft.packing: {self.name} has one prompt of virtual tokens for a row, and packed rows hold several "
                "conversations",
                "Set it to false.",
            )
        if self.adapts and spec.optimizer == "muon":
            raise SpecError(
                f"sft.optimizer: muon trains whole matrices, and {self.name} an adapter", "Set it to adamw."
            )

    def check_scaling(self, scaling: ScalingSpec) -> None:
        """Raise SpecError for a layout that the method cannot be trained in."""
        if scaling.zero_stage == 3 and self.unfit_for_zero_3:
            raise SpecError(f"scaling.zero_stage: ZeRO 3 cannot cut {self.unfit_for_zero_3}", "Set 0, 1 or 2.")
        if scaling.sequence_parallel_size > 1 and not self.shares:
            raise SpecError(
                f"scaling.sequence_parallel_size: the workers cannot share the virtual tokens of {self.name}",
                "Set it to 1.",
            )
        if scaling.activation_checkpointing and not self.recomputes:
            raise SpecError(
                f"scaling.activation_checkpointing: layers that have read the prefix of {self.name} cannot be computed "
                "again",
                "Set it to false.",
            )

    def check_model(self, config: Any) -> None:
        """Raise SpecError where a model, a transformers configuration, has no such layers."""

    def learns_rows(self, tied: bool) -> bool:
        """Whether rows of new tokens are learned. `tied`: embedding and head are one matrix."""
        return "embeddings" in self.also and (tied or "head" in self.also)

    def load_options(self, precision: str) -> dict[str, Any]:
        """How the model is loaded: options of transformers' `from_pretrained`."""
        return {}

    def pack(self, model: Any, precision: str) -> None:
        """Give a model without values the layers that `load_options` would, for sizing."""

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        """The model that is trained: what wants a gradient is what the method trains. Without `values`, its shapes."""
        raise NotImplementedError

    def rate(self, weight: str) -> float:
        """The factor on the learning rate of a weight, by its name."""
        return 1.0

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        """Write the files of the artifact.

        `weights` are the trained ones of `model` by name, which ZeRO may have cut; `stored` is the model as it is in
        the store, and `base` what it is called.
        """
        raise NotImplementedError

    @property
    def told(self) -> str:
        """What is trained, in the words of a model card."""
        raise NotImplementedError


def blocks(model: Any) -> nn.ModuleList:
    """The layers of a transformer, in their order, whatever the family calls them."""
    from torch import nn

    number = model.config.get_text_config().num_hidden_layers
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next(found for found in lists if len(found) == number)


def outer(model: Any, also: tuple[Outer, ...]) -> dict[str, nn.Module]:
    """The embedding and the head among a model's modules, by their own last names."""
    found = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    names = {module: name for name, module in model.named_modules()}
    return {names[found[what]].rpartition(".")[2]: found[what] for what in also}


def load_trained(model: Any, weights: dict[str, Tensor], assign: bool = False) -> None:
    """Give a model, opened anew, its trained weights. `assign`: in place of its own, which have no values."""
    unknown = model.load_state_dict(weights, strict=False, assign=assign).unexpected_keys
    assert not unknown, f"trained weights that the model does not have: {unknown[:3]}"
