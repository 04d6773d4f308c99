"""llama2.c's models (Karpathy 2023): its first export format (v0) and its tokenizer.bin, as a Llama of transformers.

A v0 file is seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len) and float32 weights, kind
by kind over all layers; a negative vocab_size says that the classifier is not the embeddings. It rotates neighbours
(2i, 2i + 1) and transformers halves (i, i + n/2), so that the rows of wq and wk change places. The tokenizer is a
SentencePiece BPE: the best-scoring merge first, bytes for unknown characters.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sentencepiece import sentencepiece_model_pb2
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.core.errors import InputError
from pipelines.stages.tokens.tokenizers import sentencepiece_model as sp

UNKNOWN_ID, BOS_ID, EOS_ID, FIRST_BYTE_ID, FIRST_PIECE_ID = 0, 1, 2, 3, 259
BEGIN = "<s>"
NORM_EPS = 1e-5
ROPE_THETA = 10000.0


class Header(NamedTuple):
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The model and the tokenizer of a folder with one `tok*.bin` and one other `.bin`.

    Raises InputError where it holds anything else, or files of another format or size.
    """
    found = sorted(folder.glob("*.bin"))
    tokenizers = [path for path in found if path.name.startswith("tok")]
    models = [path for path in found if path not in tokenizers]
    if len(models) != 1 or len(tokenizers) != 1:
        raise InputError(
            f"pretrained.source: {folder} holds {len(models)} models and {len(tokenizers)} tokenizers of llama2.c",
            "Give a folder with one tok*.bin and one other .bin.",
        )
    model = read_model(models[0])
    return model, read_tokenizer(tokenizers[0], model.config.vocab_size)


def read_model(path: Path) -> LlamaForCausalLM:
    """The model of a v0 file, in float32. Raises InputError where the file's size is not what its header says."""
    data = path.read_bytes()
    size = struct.calcsize("<7i")
    if len(data) < size:
        raise InputError(f"{path}: too short for a model of llama2.c", "Give a v0 export.")
    header = Header(*struct.unpack("<7i", data[:size]))
    tied, vocab = header.vocab_size > 0, abs(header.vocab_size)
    dim, hidden, layers, heads, kv_heads = header[:5]
    if min(*header[:5], vocab, header.seq_len) < 1 or dim % heads or heads % kv_heads:
        raise InputError(f"{path}: no header of llama2.c ({header})", "Give a v0 export.")
    head = dim // heads
    layout: dict[str, tuple[int, ...]] = {
        "embed": (vocab, dim),
        "input_layernorm": (layers, dim),
        "self_attn.q_proj": (layers, dim, dim),
        "self_attn.k_proj": (layers, kv_heads * head, dim),
        "self_attn.v_proj": (layers, kv_heads * head, dim),
        "self_attn.o_proj": (layers, dim, dim),
        "post_attention_layernorm": (layers, dim),
        "mlp.gate_proj": (layers, hidden, dim),
        "mlp.down_proj": (layers, dim, hidden),
        "mlp.up_proj": (layers, hidden, dim),
        "norm": (dim,),
        "rotation": (2, header.seq_len, head // 2),  # computed anew
    } | ({} if tied else {"head": (vocab, dim)})
    counts = [int(np.prod(shape)) for shape in layout.values()]
    if len(data) != size + 4 * sum(counts):
        raise InputError(
            f"{path}: {len(data)} bytes, and its header asks for {size + 4 * sum(counts)}",
            "The file is cut off, or not a v0 export in float32.",
        )
    parts = np.split(np.frombuffer(data, "<f4", offset=size).astype(np.float32), np.cumsum(counts)[:-1])
    tensors = {
        name: torch.from_numpy(part.reshape(shape)) for (name, shape), part in zip(layout.items(), parts, strict=True)
    }
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=header.seq_len,
        rms_norm_eps=NORM_EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=tied,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,  # what run.c stops at: in its data, a story begins where another ends
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(_state(tensors, heads, kv_heads))
    return model


def _state(tensors: dict[str, torch.Tensor], heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    state = {
        "model.embed_tokens.weight": tensors["embed"],
        "model.norm.weight": tensors["norm"],
        "lm_head.weight": tensors.get("head", tensors["embed"]),
    }
    for name, stacked in tensors.items():
        if name in ("embed", "norm", "head", "rotation"):
            continue
        for layer, weight in enumerate(stacked):
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = _halves(weight, heads if name.endswith("q_proj") else kv_heads)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    return state


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads * n, dim) whose rotated pairs are neighbours, as rows whose pairs are half a head apart."""
    rows, dim = weight.shape
    return weight.view(heads, rows // heads // 2, 2, dim).transpose(1, 2).reshape(rows, dim).contiguous()


def read_tokenizer(path: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a tokenizer.bin of so many pieces. Raises InputError for another format or size."""
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    data, at = path.read_bytes(), 4  # the length of the longest piece comes first
    try:
        for number in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, at)
            piece = data[at + 8 : at + 8 + length].decode()
            at += 8 + length
            model.pieces.add(piece=_spelled(piece, number), score=score, type=_type(number))
    except (struct.error, UnicodeDecodeError):
        at = -1
    if at != len(data):
        raise InputError(f"{path}: not a tokenizer of llama2.c with {vocab_size} pieces", "Give the model's own.")
    model.trainer_spec.model_type = sp.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    built = sp.tokenizer(model)
    built.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, BOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token=BEGIN, eos_token=BEGIN, pad_token=BEGIN, unk_token=model.pieces[0].piece
    )


def _spelled(piece: str, number: int) -> str:
    """A piece as SentencePiece has it: llama2.c writes blanks for its marks, and line ends around special pieces."""
    return piece.strip("\n") if number in (BOS_ID, EOS_ID) else piece.replace(" ", sp.SPACE)


def _type(number: int) -> int:
    if number == UNKNOWN_ID:
        return sp.UNKNOWN
    if number in (BOS_ID, EOS_ID):
        return sp.CONTROL
    return sp.BYTE if FIRST_BYTE_ID <= number < FIRST_PIECE_ID else sp.NORMAL
