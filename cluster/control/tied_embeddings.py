"""vLLM's compressed-tensors, with an embedding of 8-bit integers that is the output layer as well.

vLLM itself looks rows of such an embedding up by Triton, which CPUs do not have, and cannot multiply by it. Here the
rows are taken from integers, and PyTorch's kernel for weights of 8 bits makes the logits: the matrix is held once, as
integers.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def register() -> None:
    """Have the engines of this process open such models. It changes nothing for others."""
    import torch
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import QuantizationArgs
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_embedding import (
        CompressedTensorsEmbeddingWNA16Int,
    )
    from vllm.model_executor.layers.vocab_parallel_embedding import (
        ParallelLMHead,
        UnquantizedEmbeddingMethod,
        VocabParallelEmbedding,
    )
    from vllm.model_executor.utils import set_weight_attrs

    class Int8Embedding(CompressedTensorsEmbeddingWNA16Int):
        """An embedding with a scale for each row. `packed`: four integers to a number, as it was stored before."""

        def __init__(self, weights: QuantizationArgs, packed: bool) -> None:
            super().__init__(weights)
            self.packed = packed

        def create_weights(self, layer: torch.nn.Module, *arguments: Any, **options: Any) -> None:
            super().create_weights(layer, *arguments, **options)
            if not self.packed:
                rows, width = layer.weight_scale.shape[0], layer.hidden_size
                del layer.weight_packed, layer.weight_shape
                weight = torch.nn.Parameter(torch.empty(rows, width, dtype=torch.int8), requires_grad=False)
                loading = {"input_dim": 1, "output_dim": 0, "weight_loader": options["weight_loader"]}
                set_weight_attrs(weight, loading)
                layer.register_parameter("weight", weight)

        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            if self.packed:
                # 128 was added to each of the four: the same bytes, whose first bits are turned.
                turned = layer.weight_packed.data.view(torch.uint8).bitwise_xor_(128).view(torch.int8)
                del layer.weight_packed
                layer.weight = torch.nn.Parameter(turned, requires_grad=False)
            layer.weight_scale = torch.nn.Parameter(layer.weight_scale.data.flatten(), requires_grad=False)

        def embedding(self, layer: torch.nn.Module, input_: torch.Tensor) -> torch.Tensor:
            scales = layer.weight_scale[input_]
            return layer.weight[input_].to(scales.dtype) * scales[..., None]

        def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
            if x.device.type == "cpu":
                found = torch._weight_int8pack_mm(x.contiguous(), layer.weight, layer.weight_scale.to(x.dtype))
            else:
                found = (x @ layer.weight.to(x.dtype).T) * layer.weight_scale.to(x.dtype)
            return found if bias is None else found + bias

    class TiedHead(UnquantizedEmbeddingMethod):
        """An output layer that is the embedding."""

        def create_weights(self, layer: torch.nn.Module, *_: Any, **__: Any) -> None:
            pass

        def tie_weights(self, layer: torch.nn.Module, embed_tokens: torch.nn.Module) -> torch.nn.Module:
            return embed_tokens

    @register_quantization_config("compressed-tensors")
    class WithTiedEmbeddings(CompressedTensorsConfig):
        def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
            scheme = self.target_scheme_map.get("Embedding")
            tied = get_current_vllm_config().model_config.hf_config.tie_word_embeddings
            if scheme is None or not tied or not isinstance(layer, VocabParallelEmbedding):
                return super().get_quant_method(layer, prefix)
            if isinstance(layer, ParallelLMHead):
                return TiedHead()
            return Int8Embedding(scheme["weights"], scheme["format"] == CompressionFormat.pack_quantized.value)

        @classmethod
        def _quantization_scheme_map_from_config(cls, config: dict[str, Any]) -> Any:
            # vLLM takes it that whole bytes are multiplied with bytes.
            groups = config.get("config_groups", {})
            others = {name: group for name, group in groups.items() if "Embedding" not in group["targets"]}
            found: dict[str, Any] = super()._quantization_scheme_map_from_config(config | {"config_groups": others})
            for group in (group for group in groups.values() if "Embedding" in group["targets"]):
                weights = QuantizationArgs.model_validate(group["weights"])
                found["Embedding"] = {"weights": weights, "input_activations": None, "format": group["format"]}
            return found

    del WithTiedEmbeddings  # vLLM has it
