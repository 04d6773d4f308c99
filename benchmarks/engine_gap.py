"""How far the engine's log-probabilities are from the learner's on the same weights (CPU, fp32), and by which kernel.

First whole models: tokens that the engine draws one at a time, what it says of them when it reads them at once, what
transformers says of them. Then each kernel of the engine by itself, on the very inputs that it was given while reading,
against the learner's: the share of numbers that are equal to the bit, and the largest difference. For models of Llama's
kind; without `--model` a random one of `--size`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from cluster.core.storage.location import Location
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.generation.engine import EngineOptions, GenerationEngine
from pipelines.stages.training.models.models import build_model, configuration, load_model

LENGTH, PROMPT, ROWS = 96, 16, 8
BLOCK = 32  # queries that PyTorch's attention takes at once: what is left over at the end is computed otherwise


def told(name: str, pairs: list[tuple[Tensor, Tensor]], unit: str = "") -> None:
    ours, theirs = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    gap = (ours - theirs).abs()
    equal = float((ours == theirs).float().mean())
    print(f"{name:<58} equal {equal:7.2%}, mean {float(gap.mean()):.1e}, largest {float(gap.max()):.1e}{unit}")


def whole_models(engine: GenerationEngine, model: Any) -> list[list[int]]:
    """Drawn against read, and both against transformers, alone and in a batch. Returns the texts."""
    vocabulary = model.config.vocab_size
    prompts = torch.randint(1, vocabulary, (ROWS, PROMPT), generator=torch.Generator().manual_seed(0)).tolist()
    asked: dict[str, Any] = {"max_tokens": LENGTH - PROMPT, "eos_token_id": None, "temperature": 1.0}
    together = engine.generate(0, prompts, seeds=list(range(ROWS)), **asked)
    sequences = [prompt + completion.tokens for prompt, completion in zip(prompts, together, strict=True)]
    read = [torch.tensor(row[PROMPT - 1 :]) for row in engine.score(sequences)]
    drawn = [torch.tensor(completion.logprobs) for completion in together]
    read_alone = [torch.tensor(engine.score([sequence])[0][PROMPT - 1 :]) for sequence in sequences]
    with torch.no_grad():
        tokens = torch.tensor(sequences)
        batch = list(token_logprobs(model, tokens, 1.0)[:, PROMPT - 1 :])
        alone = [token_logprobs(model, row.unsqueeze(0), 1.0)[0, PROMPT - 1 :] for row in tokens]
        full = functional.pad(tokens, (0, -(LENGTH - 1) % BLOCK))
        even = list(token_logprobs(model, full, 1.0)[:, PROMPT - 1 : LENGTH - 1])
        by_token = [one_at_a_time(model, row) for row in tokens]
    nats = " nats a token"
    told("engine drawing, transformers reading a batch", list(zip(drawn, batch, strict=True)), nats)
    told("engine reading, transformers reading, one text each", list(zip(read_alone, alone, strict=True)), nats)
    told(f"engine drawing, transformers reading multiples of {BLOCK} tokens", list(zip(drawn, even, strict=True)), nats)
    told("engine drawing, engine reading", list(zip(drawn, read, strict=True)), nats)
    told("engine reading a batch, one text", list(zip(read, read_alone, strict=True)), nats)
    told("transformers reading a batch, one text", list(zip(batch, alone, strict=True)), nats)
    told("transformers reading, token by token with a cache", list(zip(alone, by_token, strict=True)), nats)
    return sequences


def one_at_a_time(model: Any, tokens: Tensor) -> Tensor:
    """Log-probabilities of the tokens behind the prompt, each computed by itself, as an engine does."""
    output = model(tokens[:PROMPT].unsqueeze(0), use_cache=True)
    found = []
    for place in range(PROMPT, len(tokens)):
        found.append(output.logits[0, -1].float().log_softmax(-1)[tokens[place]])
        output = model(tokens[place].view(1, 1), past_key_values=output.past_key_values, use_cache=True)
    return torch.stack(found)


def kernels(engine: GenerationEngine, model: Any, sequences: list[list[int]]) -> None:
    """Each kernel of the engine against the learner's, on the same inputs."""
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    size, eps = model.config.hidden_size // heads, model.config.rms_norm_eps
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows = [x.view(1, -1, n, size).transpose(1, 2) for x, n in ((query, heads), (key, kv_heads), (value, kv_heads))]
        out = functional.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=kv_heads != heads)
        return out.transpose(1, 2).reshape(len(query), -1)

    def norm(module: Any, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = x if residual is None else x + residual
        return module.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    def linear(module: Any, x: Tensor) -> Tensor:
        return functional.linear(x, module.weight, module.bias)

    def gated(module: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return functional.silu(gate) * up

    def rotate(module: Any, positions: Tensor, query: Tensor, key: Tensor) -> Tensor:
        cos, sin = model.model.rotary_emb(query, positions.unsqueeze(0))
        split = [x.view(1, len(positions), -1, size).transpose(1, 2) for x in (query, key)]
        turned = apply_rotary_pos_emb(*split, cos, sin)
        return torch.cat([x.transpose(1, 2).reshape(len(positions), -1) for x in turned], -1)

    def logits(module: Any, head: Any, hidden: Tensor, *others: Any) -> Tensor:
        return functional.linear(hidden, head.weight)[:, : model.config.vocab_size]

    ours: dict[str, Callable[..., Tensor]] = {
        "RotaryEmbedding": rotate,
        "LogitsProcessor": logits,
        "RMSNorm": norm,
        "QKVParallelLinear": linear,
        "MergedColumnParallelLinear": linear,
        "RowParallelLinear": linear,
        "SiluAndMul": gated,
        "Attention": lambda module, *given: attention(*given[:3]),
    }

    def look(module: Any, given: tuple[Any, ...], output: Any) -> None:
        name = type(module).__name__
        both = isinstance(output, tuple) and name == "RotaryEmbedding"
        theirs = torch.cat(output, -1) if both else output[0] if isinstance(output, tuple) else output
        expected = ours[name](module, *kept.pop(module))
        found.setdefault(name, []).append((expected, theirs.reshape(expected.shape).clone()))
        if name.endswith("Linear"):
            x = given[0]
            one = torch.cat([functional.linear(row.unsqueeze(0), module.weight, module.bias) for row in x])
            found.setdefault("matrix product, row by row", []).append((one, theirs.clone()))

    kept: dict[Any, tuple[Any, ...]] = {}  # norms write into what they are given

    def keep(module: Any, given: tuple[Any, ...]) -> None:
        kept[module] = tuple(each.clone() if isinstance(each, Tensor) else each for each in given)

    def hook(whole: Any) -> None:
        for module in whole.modules():
            if type(module).__name__ in ours:
                module.register_forward_pre_hook(keep)
                module.register_forward_hook(look)

    engine.llm.apply_model(hook)
    for sequence in sequences:
        engine.score([sequence])
    for name, pairs in found.items():
        told(name, pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--size", default="llama-1m")
    parser.add_argument("--plain-rotary", action="store_true", help="the engine turns as PyTorch does")
    parser.add_argument("--plain-products", action="store_true", help="the engine multiplies as PyTorch does")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.plain_products:
        import vllm._custom_ops as custom_ops

        custom_ops._supports_onednn = False
    if options.plain_rotary:
        from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

        RotaryEmbedding.forward_cpu = RotaryEmbedding.forward_native
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or Path(scratch)
        if not options.model:
            config = configuration(options.size, {}, vocab_size=1024, sequence_length=LENGTH + 2, eos_token_id=0)
            made = build_model(config, 0)
            with torch.no_grad():  # fresh weights know nothing: all tokens are alike, and rounding shows in none
                for parameter in made.parameters():
                    parameter.mul_(3 if parameter.dim() > 1 else 1)
            made.save_pretrained(folder)
        model = load_model(folder).eval()
        engine = GenerationEngine(
            Location(folder), EngineOptions(max_model_len=LENGTH + 2, takes_weights=True, temperature_in_logprobs=False)
        )
        kernels(engine, model, whole_models(engine, model))


if __name__ == "__main__":
    main()
