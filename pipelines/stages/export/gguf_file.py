"""A model as one GGUF file, which llama.cpp opens: weights, sizes, tokenizer and chat template.

The weights go by the names of gguf's own table. llama.cpp rotates neighbours (2i, 2i + 1) in a Llama's attention, and
transformers halves (i, i + n/2), so that the rows of its queries and keys change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from cluster.core.errors import InputError
from pipelines.stages.export.gguf_vocabulary import write_vocabulary

Numbers = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]
FAMILIES = {"llama": gguf.MODEL_ARCH.LLAMA, "gpt2": gguf.MODEL_ARCH.GPT2}
BLOCK = 32  # weights of a block of Q4_1
NO_GRIDS: Mapping[str, tuple[Any, Any]] = {}
PLAIN = GGMLQuantizationType.F32  # what is no matrix: norms and biases
ON_ITS_SIDE = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # of a `Conv1D`
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}


def write_gguf(
    model: Any, folder: Path, into: Path, name: str, numbers: Numbers, grids: Mapping[str, tuple[Any, Any]] = NO_GRIDS
) -> None:
    """Write a causal language model of transformers, whose tokenizer is in `folder`, to the file `into`.

    `numbers`: of the matrices. Blocks of 32 weights share a scale (`q8_0`, `q4_0`), or a scale and a least value
    (`q4_1`); the embedding has 8 bits then. `grids`: of layers whose weights are of 16 numbers a group already, the
    scale and the least of them (outputs, groups): `q4_1` holds those as they are. Raises InputError for a family or a
    tokenizer that cannot be written.
    """
    config = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(
            f"{name}: GGUF is written of these families: {', '.join(FAMILIES)}, and this is {config.model_type}",
            "Export it as ONNX, or serve it by vLLM.",
        )
    writer = GGUFWriter(into, gguf.MODEL_ARCH_NAMES[family])
    writer.add_name(name)
    kind = numbers.upper()
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES.get(numbers, f"MOSTLY_{kind}")])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    (_llama if config.model_type == "llama" else _gpt2)(writer, config)
    write_vocabulary(writer, folder, config.vocab_size)
    names = gguf.get_tensor_name_map(family, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for place, weight in model.state_dict().items():
        if place.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")):
            continue  # a mask or frequencies, which are no weights
        target = names.get_name(place, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InputError(f"{name}: GGUF has no name for {place}", "Export it as ONNX, or serve it by vLLM.")
        if tied and target == "output.weight":
            continue
        found = _turned(place, weight.detach().to(torch.float32).numpy(), config)
        wanted = _numbers(target, found, GGMLQuantizationType[kind])
        grid = grids.get(place.removesuffix(".weight"))
        if grid and wanted == GGMLQuantizationType.Q4_1:
            # Those of a `Conv1D` are of its outputs already.
            scale, least = (
                part.numpy() if place.endswith(ON_ITS_SIDE) else _turned(place, part.numpy(), config) for part in grid
            )
            packed = _as_they_are(found, scale, least)
        else:
            packed = gguf.quants.quantize(found, wanted)
        writer.add_tensor(target, packed, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _llama(writer: GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"GGUF is written of Llamas with plain positions, and these are {rope['rope_type']}")
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _gpt2(writer: GGUFWriter, config: Any) -> None:
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)


def _turned(place: str, weight: NDArray[Any], config: Any) -> NDArray[Any]:
    """A weight as llama.cpp has it."""
    if config.model_type == "gpt2":
        return np.ascontiguousarray(weight.T) if place.endswith(ON_ITS_SIDE) else weight
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    number = next((count for part, count in heads.items() if f".{part}." in place), 0)
    if not number:
        return weight
    split = weight.reshape(number, 2, weight.shape[0] // number // 2, *weight.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weight.shape))


def _as_they_are(weight: NDArray[Any], scale: NDArray[Any], least: NDArray[Any]) -> NDArray[Any]:
    """Weights (outputs, inputs) that are `least + n * scale` of their group, n from 0 to 15, as blocks of Q4_1: scale
    and least value in float16, then 16 bytes, of which each holds a weight of the first half and one of the second."""
    blocks = weight.reshape(len(weight), -1, BLOCK)
    scale, least = (np.repeat(part, blocks.shape[1] // part.shape[1], axis=1)[..., None] for part in (scale, least))
    n = np.clip(np.rint((blocks - least) / scale), 0, 15).astype(np.uint8)
    halves = [part.astype(np.float16).view(np.uint8) for part in (scale, least)]
    return np.concatenate([*halves, n[..., : BLOCK // 2] | (n[..., BLOCK // 2 :] << 4)], axis=-1).reshape(
        len(weight), -1
    )


def _numbers(target: str, weight: NDArray[Any], wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    """The numbers of one weight: as wanted where it is a matrix that is cut into whole blocks."""
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    if weight.ndim < 2 or target.startswith("position_embd") or weight.shape[-1] % block:
        return PLAIN
    outer = target.startswith(("token_embd", "output."))
    return GGMLQuantizationType.Q8_0 if outer and wanted.name.startswith("Q") else wanted
