"""Rows for new pieces in a model: each begins as the mean of the rows of the pieces that it was split into before."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from cluster.core.adapters import require_whole
from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import ExtendedModelSpec

TOKENIZER_FILE = "tokenizer.json"


def build(ctx: Context[ExtendedModelSpec]) -> dict[str, Any]:
    """Write a model folder in float32 with the extended tokenizer.

    Raises InputError where the vocabulary does not extend the model's own.
    """
    logging.disable_progress_bar()
    require_whole(ctx.inputs["model"])
    source, vocabulary = ctx.inputs["model"].local(), ctx.inputs["tokenizer"].local()
    if not (source / TOKENIZER_FILE).is_file():
        raise InputError(f"{source}: has no {TOKENIZER_FILE}", "Give a model with its tokenizer.")
    old, new = (Tokenizer.from_file(str(folder / TOKENIZER_FILE)) for folder in (source, vocabulary))
    with redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    rows = extend_embeddings(model, old, new, ctx.spec.pad_to_multiple_of)
    with ctx.scratch() as folder:
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(vocabulary)
        tokenizer.chat_template = AutoTokenizer.from_pretrained(source).chat_template
        tokenizer.save_pretrained(folder)
        ctx.output.put(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "vocab_size": new.get_vocab_size(), "new_rows": rows}


def extend_embeddings(model: PreTrainedModel, old: Tokenizer, new: Tokenizer, pad_to_multiple_of: int = 1) -> int:
    """Give the model rows for all ids of `new`; return how many pieces are new. The model is changed.

    The rows of `old` stay as they are, and so do the logits of its ids. A tied head stays tied; a head's bias is
    averaged too. Padding rows, if any, begin as the mean of all old rows. Raises InputError where an old piece has
    another id in `new`.
    """
    before, after = old.get_vocab(), new.get_vocab()
    if moved := sorted(piece for piece, token in before.items() if after.get(piece) != token):
        raise InputError(
            f"extended: {moved[0]!r} has the id {before[moved[0]]} in the model's tokenizer and "
            f"{after.get(moved[0])} in the vocabulary",
            "Give a vocabulary that extends the tokenizer of this model.",
        )
    added = sorted((token, piece) for piece, token in after.items() if piece not in before)
    parts = [_split(piece, old) for _, piece in added]
    pairs = [model.get_input_embeddings()]
    tied = model.config.get_text_config().tie_word_embeddings
    if not tied and model.get_output_embeddings() is not None:
        pairs.append(model.get_output_embeddings())
    kept = [{name: value.detach().clone() for name, value in layer.named_parameters()} for layer in pairs]
    rows = max(max(after.values()) + 1, len(kept[0]["weight"]))
    model.resize_token_embeddings(rows, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
    layers = [model.get_input_embeddings(), *([model.get_output_embeddings()] if len(pairs) > 1 else [])]
    with torch.no_grad():
        for layer, values in zip(layers, kept, strict=True):
            for name, parameter in layer.named_parameters():
                old_rows = values[name]
                parameter[: len(old_rows)] = old_rows
                parameter[len(old_rows) :] = old_rows[: max(before.values()) + 1].mean(dim=0)
                for (token, _), ids in zip(added, parts, strict=True):
                    parameter[token] = old_rows[ids].mean(dim=0)
    return len(added)


def _split(piece: str, old: Tokenizer) -> list[int]:
    """The old ids of a new piece: its own letters, cut by the old model, without normalizing and a blank in front."""
    return [token.id for token in old.model.tokenize(piece)]
