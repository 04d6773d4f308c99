"""4-bit NormalFloat (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes, in its own format: what QLoRA tunes
over."""

from __future__ import annotations

from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pipelines.stages.compression.grid import STORED


def write_nf4(folder: Path, into: Path) -> int:
    """Write a model with its linear layers in blocks of 64 weights, their scales in 8 bits; the number of layers."""
    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=STORED,
    )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=STORED, quantization_config=packing, device_map={"": device}
    )
    model.save_pretrained(into)
    return sum(isinstance(module, Linear4bit) for module in model.modules())
