"""Named model sizes: what a user means by `pythia-410m`, as differences from its family's transformers configuration.

Each published size has the vocabulary it was published with and the number of weights that this makes, which a test
counts. A run takes its vocabulary from its tokens and its context from their sequences. Dropout is 0 in all sizes: at a
few epochs it costs more than it gives (so do nanoGPT and the Llama family).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BLANK_GLM = "blank_glm"  # our own family (glm.py)


@dataclass(frozen=True)
class Size:
    """A family (`model_type` in transformers), its fields, and, where it was published, what it had then."""

    family: str
    fields: dict[str, Any]
    vocab_size: int = 0
    parameters: int = 0  # tied weights counted once


def _gpt2(hidden: int, layers: int, heads: int, parameters: int = 0) -> Size:
    """Radford et al. 2019, table 2; counted from the published weights."""
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    fields = {**dropout, "n_embd": hidden, "n_layer": layers, "n_head": heads}
    return Size("gpt2", fields | {"n_positions": 1024 if parameters else 1}, 50257, parameters)


def _llama(
    hidden: int, layers: int, heads: int, intermediate: int, positions: int = 1, vocab: int = 32000,
    parameters: int = 0, **more: Any,
) -> Size:  # fmt: skip
    fields = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": positions,
    }
    return Size("llama", fields | more, vocab, parameters)


def _neox(hidden: int, layers: int, heads: int, vocab: int, parameters: int) -> Size:
    """Biderman et al. 2023 (arXiv:2304.01373); vocabularies padded as they were trained."""
    fields = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    more = {"intermediate_size": 4 * hidden, "max_position_embeddings": 2048}
    return Size("gpt_neox", fields | more, vocab, parameters)


def _bloom(hidden: int, layers: int, heads: int, parameters: int) -> Size:
    """BigScience 2022 (arXiv:2211.05100), table 3."""
    return Size("bloom", {"hidden_size": hidden, "n_layer": layers, "n_head": heads}, 250880, parameters)


def _bert(hidden: int, layers: int, parameters: int = 0) -> Size:
    """Devlin et al. 2019 (arXiv:1810.04805), section 3, the smaller ones Turc et al. 2019 (arXiv:1908.08962), table 1;
    uncased vocabulary, counted with the head of masked LM."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 64}
    more = {"intermediate_size": 4 * hidden, "max_position_embeddings": 512 if parameters else 1}
    return Size("bert", {**dropout, **fields, **more}, 30522, parameters)


def _blank_glm(hidden: int, layers: int, parameters: int = 0) -> Size:
    """Du et al. 2022 (arXiv:2103.10360), section 3.1; vocabulary padded as in the published weights."""
    fields = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 64}
    return Size(BLANK_GLM, fields | {"max_position_embeddings": 512 if parameters else 1}, 30592, parameters)


_SMALL = {"tie_word_embeddings": True}

SIZES: dict[str, Size] = {
    "gpt2-1m": _gpt2(128, 4, 2),
    "gpt2-10m": _gpt2(384, 6, 6),
    "gpt2-124m": _gpt2(768, 12, 12, 124_439_808),
    "gpt2-355m": _gpt2(1024, 24, 16, 354_823_168),
    "gpt2-774m": _gpt2(1280, 36, 20, 774_030_080),
    "gpt2-1.5b": _gpt2(1600, 48, 25, 1_557_611_200),
    "llama-1m": _llama(128, 4, 2, 352, **_SMALL),
    # llama2.c (Karpathy 2023)
    "llama-15m": _llama(288, 6, 6, 768, 256, parameters=15_191_712, **_SMALL),
    "llama-42m": _llama(512, 8, 8, 1376, 1024, **_SMALL),
    "llama-110m": _llama(768, 12, 12, 2048, 1024, parameters=109_529_856, **_SMALL),
    # SmolLM2 (Allal et al. 2025, arXiv:2502.02737)
    "llama-135m": _llama(576, 30, 9, 1536, 2048, 49152, 134_515_008, num_key_value_heads=3, **_SMALL),
    # Llama (Touvron et al. 2023, arXiv:2302.13971), Llama 2 (arXiv:2307.09288), Llama 3 (arXiv:2407.21783)
    "llama-7b": _llama(4096, 32, 32, 11008, 4096, parameters=6_738_415_616),
    "llama-13b": _llama(5120, 40, 40, 13824, 4096, parameters=13_015_864_320),
    "llama-65b": _llama(8192, 80, 64, 22016, 2048, parameters=65_285_660_672),
    "llama-70b": _llama(8192, 80, 64, 28672, 4096, parameters=68_976_648_192, num_key_value_heads=8),
    "llama3-8b": _llama(4096, 32, 32, 14336, 8192, 128_256, 8_030_261_248, num_key_value_heads=8, rope_theta=5e5),
    "pythia-1m": _neox(128, 4, 2, 0, 0),
    "pythia-70m": _neox(512, 6, 8, 50304, 70_426_624),
    "pythia-160m": _neox(768, 12, 12, 50304, 162_322_944),
    "pythia-410m": _neox(1024, 24, 16, 50304, 405_334_016),
    "pythia-1b": _neox(2048, 16, 8, 50304, 1_011_781_632),
    "pythia-1.4b": _neox(2048, 24, 16, 50304, 1_414_647_808),
    "pythia-2.8b": _neox(2560, 32, 32, 50304, 2_775_208_960),
    "pythia-6.9b": _neox(4096, 32, 32, 50432, 6_857_302_016),
    "pythia-12b": _neox(5120, 36, 40, 50688, 11_846_072_320),
    "bloom-1m": _bloom(128, 4, 2, 0),
    "bloom-560m": _bloom(1024, 24, 16, 559_214_592),
    "bloom-1.1b": _bloom(1536, 24, 16, 1_065_314_304),
    "bloom-1.7b": _bloom(2048, 24, 16, 1_722_408_960),
    "bloom-3b": _bloom(2560, 30, 32, 3_002_557_440),
    "bloom-7.1b": _bloom(4096, 30, 32, 7_069_016_064),
    # StableLM-3B-4E1T (Tow et al. 2023), StableLM 2 (arXiv:2402.17834)
    "stablelm-3b": Size("stablelm", {"hidden_size": 2560, "num_hidden_layers": 32}, 50304, 2_795_443_200),
    "stablelm-1.6b": Size(
        "stablelm",
        {"hidden_size": 2048, "num_hidden_layers": 24, "intermediate_size": 5632, "use_qkv_bias": True},
        100_352,
        1_644_515_328,
    ),
    # GLM-4-9B (arXiv:2406.12793), a causal one
    "glm-9b": Size("glm", {}, 151_552, 9_399_951_360),
    "glm-1m": _blank_glm(128, 4),
    "glm-110m": _blank_glm(768, 12, 109_338_624),
    "glm-335m": _blank_glm(1024, 24, 334_688_256),
    "bert-1m": _bert(128, 4),
    "bert-4m": _bert(128, 2, 4_416_698),  # tiny
    "bert-11m": _bert(256, 4, 11_201_594),  # mini
    "bert-29m": _bert(512, 4, 28_795_194),  # small
    "bert-41m": _bert(512, 8, 41_404_730),  # medium
    "bert-110m": _bert(768, 12, 109_514_298),  # base
    "bert-335m": _bert(1024, 24, 335_174_458),  # large
}
