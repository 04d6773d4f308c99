"""What every balancing is: scales for the inputs of some layers, by which what comes before is divided and they are
multiplied. The model computes the same, and can be rounded with a smaller error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cluster.core.errors import SpecError

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs
    from torch import Tensor, nn

    from pipelines.stages.compression.statistics import Block, Statistics

# By family: what comes before, whose outputs can be divided, and the layers that take them. An MLP's product of gate
# and values is divided by dividing the values; attention passes its values on, where there are as many heads as
# queries.
LLAMA = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("self_attn.v_proj", ("self_attn.o_proj",)),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)
GPT2 = (("ln_1", ("attn.c_attn",)), ("ln_2", ("mlp.c_fc",)))
PAIRS = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA, "gpt2": GPT2}


class Balancing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all. In YAML `type` tells them apart. What takes long to import is imported within."""

    def scales(self, layers: list[nn.Linear], statistics: Statistics, grid: QuantizationArgs) -> Tensor:
        """A factor above 0 for each input (inputs) that `layers`, which are given the same, share."""
        raise NotImplementedError

    def check(self, model_type: str) -> None:
        """Raise SpecError for a family whose layers are not known."""
        if model_type not in PAIRS:
            raise SpecError(
                f"quantized.balancing: it is not known what comes before the layers of {model_type}",
                f"Leave it out, or give a model of one of these families: {', '.join(PAIRS)}.",
            )

    def balance(self, block: Block, model_type: str, grids: dict[str, QuantizationArgs]) -> None:
        """Divide and multiply the weights of a block, and the figures of what comes into its layers likewise. `grids`:
        what its layers will be rounded to, by name."""
        import torch

        for before, taking in PAIRS[model_type]:
            names = [block.prefix + name for name in taking if block.prefix + name in block.layers]
            source = block.module.get_submodule(before)
            if not names or len(names) < len(taking):
                continue
            layers = [block.layers[name] for name in names]
            if source.weight.shape[0] != layers[0].in_features:
                continue  # fewer heads of values than of queries
            with torch.no_grad():
                found = self.scales(layers, block.statistics[names[0]], grids[names[0]])
                source.weight.div_(found.view(-1, *[1] * (source.weight.ndim - 1)))
                if getattr(source, "bias", None) is not None:
                    source.bias.div_(found)
                for layer in layers:
                    layer.weight.mul_(found)
            changed = block.statistics[names[0]].divided(found)
            block.statistics.update(dict.fromkeys(names, changed))
