"""Whole neurons of the MLPs go: the model is smaller and faster for every engine, without sparse kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.compression.pruning.pruning import Pruning, Share

if TYPE_CHECKING:
    from pipelines.stages.compression.statistics import Block

# By family: the layers that make neurons, the one that takes them, and what the configuration calls their number.
MLPS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3"), (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", "intermediate_size")
    ),
    "gpt2": (("mlp.c_fc",), "mlp.c_proj", "n_inner"),
}


class Neurons(Pruning, frozen=True, tag="neurons"):
    """The neurons of each MLP go whose outputs count least: their mean size times the norm of the weights behind them
    (as Minitron does by activations: Muralidharan et al. 2024, arXiv:2407.14679, section 2.2)."""

    calibrated: ClassVar[bool] = True

    fraction: Share = 0.25
    """Share of the neurons that go; what stays is rounded up to a multiple of `multiple`."""
    multiple: Annotated[int, Meta(ge=1)] = 32
    """Of which the number of neurons stays a multiple: kernels and groups of quantization want it."""

    def check(self, config: Any) -> None:
        if config.model_type not in MLPS:
            raise SpecError(
                f"pruned.method: it is not known which neurons {config.model_type} has",
                f"Take magnitude, or a model of one of these families: {', '.join(MLPS)}.",
            )

    def kept(self, neurons: int) -> int:
        """How many of an MLP's neurons stay."""
        wanted = neurons - int(self.fraction * neurons)
        return min(neurons, -(-wanted // self.multiple) * self.multiple)

    def prune(self, block: Block, config: Any) -> None:
        makers, taker, _ = MLPS[config.model_type]
        after = block.layers[block.prefix + taker]
        importance = block.statistics[block.prefix + taker].magnitude * after.weight.detach().norm(dim=0)
        stay = importance.topk(self.kept(len(importance))).indices.sort().values
        for name in makers:
            layer = block.layers[block.prefix + name]
            layer.weight.data = layer.weight.data[stay]
            if layer.bias is not None:
                layer.bias.data = layer.bias.data[stay]
            layer.out_features = len(stay)
        after.weight.data = after.weight.data[:, stay]
        after.in_features = len(stay)

    def configure(self, config: Any) -> None:
        _, _, field = MLPS[config.model_type]
        width = getattr(config, field) or 4 * config.n_embd
        setattr(config, field, self.kept(width))
