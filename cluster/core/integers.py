"""Opening a compressed-tensors model in transformers as plain numbers, where transformers itself does not: GPT-2, whose
`Conv1D` has no integers there, and models of before, whose tied embedding is packed.

What the weights stand for is exact; activations that vLLM rounds while it serves (W8A8) are not rounded here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cluster.core.model_files import CONFIG_FILE

QUANTIZATION = "quantization_config"
PACKED = "pack-quantized"


def needs_opening(folder: Path) -> bool:
    """Whether a model's folder holds one that transformers would not open."""
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    groups = list((config.get(QUANTIZATION, {}).get("config_groups") or {}).values())
    targets = [target for group in groups for target in group["targets"]]
    # In a format that is packed, which ours once was, transformers finds nothing to tie the output layer to.
    packed = any("Embedding" in group["targets"] and group.get("format") == PACKED for group in groups)
    tied = config.get("tie_word_embeddings", True) and packed
    return tied or (config["model_type"] == "gpt2" and bool(targets))


def open_plain(folder: Path, **options: Any) -> Any:
    """The causal language model of a compressed-tensors folder, its integers as the numbers that they stand for.

    `options` are those of transformers' `from_pretrained`, such as `dtype`.
    """
    from transformers import AutoConfig, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(folder)
    quantization = config.quantization_config
    del config.quantization_config
    weights = plain_weights(folder, config, quantization)
    if options.get("dtype", "auto") == "auto":
        options["dtype"] = config.dtype
    family = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = family.from_pretrained(None, config=config, state_dict=weights, **options)
    if (folder / "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def plain_weights(folder: Path, config: Any, quantization: dict[str, Any]) -> dict[str, Any]:
    """The weights by name, as the modules of the family want them."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    groups = list(QuantizationConfig.model_validate(quantization).config_groups.values())
    stored = {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}
    found = {}
    for module in [name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale")]:
        kind = model.get_submodule(module)
        scheme = _scheme(module, type(kind).__name__, groups)
        parts = {key[len(module) + 1 :]: stored.pop(key) for key in list(stored) if key.startswith(f"{module}.weight")}
        if parts.keys() == {"weight_scale"}:
            continue  # an output layer that is tied to the embedding
        parts["weight_scale"] = parts["weight_scale"].float()  # whose products bfloat16 would round
        if isinstance(kind, Conv1D) and "weight" in parts:
            parts["weight"] = parts["weight"].T  # on its side, as the family's other weights are
        weight = BaseCompressor.get_value_from_registry(scheme.format).decompress(parts, scheme)["weight"]
        found[f"{module}.weight"] = weight.T.contiguous() if isinstance(kind, Conv1D) else weight
    return stored | found


def grids(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Of each layer of 4 bits, by its name: scale and least value (outputs, groups) of the 16 numbers that a weight may
    be."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from safetensors.torch import load_file

    stored = {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}
    found = {}
    for name in [name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")]:
        scale = stored[f"{name}.weight_scale"].float()
        outputs, inputs = stored[f"{name}.weight_shape"].tolist()
        if stored[f"{name}.weight_packed"].shape[1] * 8 != inputs:
            continue  # of 8 bits
        zero = stored.get(f"{name}.weight_zero_point")
        points = 0 if zero is None else unpack_from_int32(zero, 4, (outputs, scale.shape[1]), packed_dim=0).float()
        found[name] = (scale, (-8 - points) * scale)
    return found


def _scheme(name: str, kind: str, groups: list[Any]) -> Any:
    """The group that a module belongs to: by its name or a pattern of it before its class."""
    named = [g for g in groups for t in g.targets if t == name or (t.startswith("re:") and re.match(t[3:], name))]
    return (named or [group for group in groups if kind in group.targets])[0]
