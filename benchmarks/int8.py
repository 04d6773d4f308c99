"""What INT8 (W8A8) costs SmolLM2-135M-Instruct, by ways to make it: perplexity of held-out answers, beside float32.

    python benchmarks/int8.py alpaca.json [--conversations 24] [--way NAME ...] [--store FOLDER]

Each way is a QuantizeSpec, whose checkpoint is written as by the stage. Its integers are multiplied by activations that
are rounded to 8 bits for each token, as vLLM's kernels do, in transformers; all else is float32. `outliers` names the
layers whose largest input is furthest above the root mean square. The calibration is 16 sequences of 256 tokens.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from cluster.core.build import build
from cluster.core.encoding import Encoded
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, Gptq, PretrainedSpec, QuantizeSpec, SmoothQuant
from pipelines.stages.compression.calibration import calibration_sequences
from pipelines.stages.compression.quality import read_questions
from pipelines.stages.compression.statistics import walk
from pipelines.stages.compression.weights import linear_layers, quantize

CALIBRATION: dict[str, Any] = {"calibration_sequences": 16, "calibration_tokens": 256}
BOTH: dict[str, Any] = {"balancing": SmoothQuant(), "rounding": Gptq(), **CALIBRATION}
WAYS = {
    "nearest": QuantizeSpec(),
    "smooth_quant, gptq": QuantizeSpec(**BOTH),
    "smooth_quant, gptq, spare above 40": QuantizeSpec(spare_above=40, **BOTH),
    "smooth_quant, gptq, all down_proj kept": QuantizeSpec(keep=("down_proj",), **BOTH),
    "smooth_quant 0.7, gptq": QuantizeSpec(**BOTH | {"balancing": SmoothQuant(strength=0.7)}),
    "gptq": QuantizeSpec(rounding=Gptq(), **CALIBRATION),
}


class Int8(nn.Module):
    """A linear layer of integers (outputs, inputs), whose inputs are rounded to 8 bits for each token."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.scale, self.bias = weight.float(), scale.float().flatten(), bias

    def forward(self, given: Tensor) -> Tensor:
        rows = given.flatten(0, -2)
        scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-8) / 127
        integers = (rows / scale).round().clamp(-128, 127)
        found = nn.functional.linear(integers, self.weight) * scale * self.scale
        return (found if self.bias is None else found + self.bias).unflatten(0, given.shape[:-1])


def opened(folder: Path, original: Path) -> Any:
    """The model of a quantized checkpoint, its integers as they are."""
    model = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    stored = load_file(folder / "model.safetensors")
    for name in linear_layers(model):
        if f"{name}.weight_scale" in stored:
            parent, _, last = name.rpartition(".")
            bias = stored.pop(f"{name}.bias", None)
            layer = Int8(stored.pop(f"{name}.weight"), stored.pop(f"{name}.weight_scale"), bias)
            setattr(model.get_submodule(parent), last, layer)
    model.load_state_dict({name: value.float() for name, value in stored.items()}, strict=False)
    return model


@torch.no_grad()
def perplexity(model: Any, conversations: list[Encoded]) -> float:
    """Of what is learned of them."""
    lost, count = 0.0, 0
    for one in conversations:
        tokens, learn = torch.tensor(one.tokens), torch.tensor(one.learn[1:])
        logits = model(tokens[None], use_cache=False).logits[0, :-1][learn]
        lost += float(nn.functional.cross_entropy(logits.float(), tokens[1:][learn], reduction="sum"))
        count += int(learn.sum())
    return math.exp(lost / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("alpaca", help="conversations in Alpaca's form")
    parser.add_argument("--conversations", type=int, default=24)
    parser.add_argument("--way", action="append", choices=[*WAYS, "outliers"], help="these alone")
    parser.add_argument("--store", default="", help="where the inputs are built, and found again")
    given = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        store = Store(given.store or Path(place) / "store")
        model = build(PretrainedSpec(), {}, store=store, name="smollm2")
        texts = build(ConversationsSpec(source="file", path=given.alpaca), {}, store=store, name="alpaca")
        folder = model.local()
        asked = read_questions(folder, texts, QuantizeSpec(report_conversations=given.conversations)).whole
        base = perplexity(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), asked)
        tokens = sum(sum(each.learn) for each in asked)
        print(f"float32: {base:.4f} ({len(asked)} conversations, {tokens:,} tokens of answers)", flush=True)
        for name, spec in WAYS.items():
            if given.way and name not in given.way:
                continue
            began = time.monotonic()
            sequences = calibration_sequences(folder, texts, spec) if spec.calibrated else ()
            into = Path(place) / "quantized"
            layers = quantize(folder, spec, into, lambda *_: None, sequences)
            found = perplexity(opened(into, folder), asked)
            size = sum(file.stat().st_size for file in into.glob("*.safetensors"))
            told = f"{found:.4f}, {found / base - 1:+.2%}; {layers} layers, {size / 1e6:.0f} MB"
            print(f"{name}: {told}; {time.monotonic() - began:.0f} s", flush=True)
        if given.way and "outliers" in given.way:
            whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            spec, found_outliers = WAYS["smooth_quant, gptq"], {}
            for block in walk(whole, linear_layers(whole), calibration_sequences(folder, texts, spec)):
                assert spec.balancing
                spec.balancing.balance(block, whole.config.model_type, dict.fromkeys(block.layers))  # type: ignore[arg-type]
                found_outliers |= {each: block.statistics[each].outliers for each in block.layers}
            for each in sorted(found_outliers, key=found_outliers.__getitem__, reverse=True)[:20]:
                print(f"{each}: {found_outliers[each]:.0f}")


if __name__ == "__main__":
    main()
