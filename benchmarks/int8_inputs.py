"""Where W8A8 loses: how far SmolLM2-135M-Instruct's next tokens are from float32's, by the layers whose inputs are
rounded to 8 bits for each token, before and after SmoothQuant.

    python benchmarks/int8_inputs.py wikitext-2/valid.txt [--tokens 384] [--store FOLDER]

In transformers, all else in float32; weights, where they are rounded, to nearest. SmoothQuant sees the tokens that come
after those that are measured. KL divergences are means over tokens, in nats.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import Nearest, PretrainedSpec, QuantizeSpec, SmoothQuant
from pipelines.stages.compression.statistics import walk
from pipelines.stages.compression.weights import arguments, linear_layers

KINDS = {
    "q, k, v": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate, up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
OUTLIERS = 40.0  # times the root mean square of all inputs: above it a layer has outliers, as in `spare_above`
WINDOW = 256  # tokens of a sequence of SmoothQuant's


def rounded(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
    """The inputs of a layer (..., inputs), as integers of 8 bits with a scale a token stand for them."""
    scale = given[0].abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
    return ((given[0] / scale).round().clamp(-128, 127) * scale,)


@contextmanager
def inputs_rounded(layers: dict[str, nn.Linear], ends: Iterable[str]) -> Any:
    with ExitStack() as stack:
        for name, layer in layers.items():
            if name.endswith(tuple(ends)):
                stack.callback(layer.register_forward_pre_hook(rounded).remove)
        yield


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--store", default="", help="where the model is built, and found again")
    given = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        store = Store(given.store or Path(place) / "store")
        folder = build(PretrainedSpec(), {}, store=store, name="smollm2").local()
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        text = Path(given.text).read_text(encoding="utf-8")[: given.tokens * 40]
        ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"])
        layers = linear_layers(model)

        def logs() -> Tensor:
            return torch.as_tensor(model(ids[None, : given.tokens], use_cache=False).logits[0].log_softmax(-1))

        base = logs()

        def tell(name: str, ends: Iterable[str] = ()) -> None:
            with inputs_rounded(layers, ends):
                found = logs()
            print(f"{name}: {float((base.exp() * (base - found)).sum(1).mean()):.4f}", flush=True)

        every = [end for ends in KINDS.values() for end in ends]
        for name, ends in KINDS.items():
            tell(f"inputs of {name}", ends)
        tell("inputs of all", every)
        after = ids[given.tokens : given.tokens + 3 * WINDOW].view(3, WINDOW)
        outliers: set[str] = set()
        for block in walk(model, layers, list(after), half=False):
            SmoothQuant().balance(block, model.config.model_type, dict.fromkeys(layers))  # type: ignore[arg-type]
            outliers |= {name for name in block.layers if block.statistics[name].outliers > OUTLIERS}
        for name, ends in KINDS.items():
            tell(f"inputs of {name}, after SmoothQuant", ends)
        tell("inputs of all, after SmoothQuant", every)
        grid = arguments("int8", QuantizeSpec())["weights"]
        for layer in layers.values():
            layer.weight.data = Nearest().round(layer.weight.data, grid, None).weight
        tell("weights and inputs, after SmoothQuant", every)
        tell("the same, inputs of q, k, v kept", [end for end in every if end not in KINDS["q, k, v"]])
        rest = [name for name in layers if not name.endswith(KINDS["q, k, v"]) and name not in outliers]
        tell(f"the same, those of {len(outliers)} layers with outliers kept, too", rest)


if __name__ == "__main__":
    main()
