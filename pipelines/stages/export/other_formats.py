"""A model artifact for programs that do not read Hugging Face folders: as GGUF and as ONNX.

Weights of few bits are opened as the numbers that they stand for, and rounded again where the format has integers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import over_transformers, require_whole
from cluster.core.errors import InputError
from cluster.core.integers import QUANTIZATION, grids, open_plain
from cluster.core.model_files import non_writer, read_config
from cluster.core.storage.artifact import Artifact

# The numbers of a GGUF, by those of the model: its own, or those of as many bits.
OWN = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "q8_0", "int4": "q4_1", "nf4": "q4_1"}


def write_other(artifact: Artifact, into: Path, format: str, numbers: str = "") -> None:
    """Write a model to the folder `into`, with its tokenizer, as `gguf` or `onnx`. `numbers`: of a GGUF's matrices;
    empty: the model's own.

    Raises InputError for what is no whole causal language model, or of a family that the format is not written of,
    NotReadyError where a package is missing.
    """
    require_whole(artifact)
    config = read_config(artifact)
    if found := non_writer(config):
        raise InputError(f"{artifact.record.ref} does not write: it is a {found}", "Export a model that generates.")
    logging.disable_progress_bar()
    model, folder = plain_model(artifact), artifact.local()
    if format == "gguf":
        from pipelines.stages.export.gguf_file import write_gguf

        name, known = artifact.name, grids(folder) if number_type(artifact) == "int4" else {}
        write_gguf(model, folder, into / f"{name}.gguf", name, numbers or OWN[number_type(artifact)], known)  # type: ignore[arg-type]
        return
    from pipelines.stages.export.onnx_file import write_onnx

    write_onnx(model, into / "model.onnx")
    AutoTokenizer.from_pretrained(folder).save_pretrained(into)
    model.config.save_pretrained(into)


def plain_model(artifact: Artifact) -> Any:
    """The model in float32, its integers as the numbers that they stand for."""
    folder = artifact.local()
    if over_transformers(artifact):
        model = AutoModelForCausalLM.from_pretrained(folder).dequantize().float()
    elif QUANTIZATION in read_config(artifact):
        model = open_plain(folder, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def number_type(artifact: Artifact) -> str:
    """What the weights of a model's linear layers are stored in, such as `float32` or `int8`."""
    config = read_config(artifact)
    quantization = config.get(QUANTIZATION)
    if quantization is None:
        return str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if "config_groups" not in quantization:
        return "nf4"
    bits = {group["weights"]["num_bits"] for group in quantization["config_groups"].values()}
    return f"int{min(bits)}"  # an INT4 may have an embedding and other layers of 8
