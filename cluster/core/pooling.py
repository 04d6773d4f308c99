"""Models that make one thing of a whole text: a score, the logits of some labels, or a vector.

What a model makes follows from its config.json and, for vectors, from what sentence-transformers leaves beside it
(modules.json and the folder that it names): neither torch nor weights, so that planning may ask as well.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from msgspec import Struct

from cluster.core.errors import InputError
from cluster.core.model_files import context_tokens, read_config
from cluster.core.storage.artifact import Artifact

CLASSIFIER = "ForSequenceClassification"
MASKED = "ForMaskedLM"
BASE, WITH_HEAD = "Model", "LMHeadModel"  # how the classes without a head are called, and GPT-2's with one
USUAL_LABELS = 2  # of a transformers configuration that does not say
MODULES = "modules.json"  # of sentence-transformers
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
BEHIND_PADDING = ("camembert", "mpnet", "roberta", "xlm-roberta")  # whose positions begin behind the padding's id
# Families whose classifiers vLLM opens and scores as transformers does: tried on CPUs, in float32.
OVER_VLLM = ("gpt2", "gpt_neox", "llama", "qwen3")

Makes = Literal["score", "labels", "embedding"]


class Pooling(Struct, frozen=True, kw_only=True):
    """What a model makes of a text. `tokens` says of which tokens' hidden states an embedding is."""

    makes: Makes
    tokens: Literal["mean", "cls", "last"] = "mean"
    over_vllm: bool = False

    @property
    def example(self) -> tuple[str, str]:
        """A route that it answers, and what may be asked there beside `model`, as JSON."""
        if self.makes == "score":
            return "/v1/score", '"queries": "Hello", "documents": ["Hi!", "What?"]'
        return ("/pooling" if self.makes == "labels" else "/v1/embeddings"), '"input": "Hello"'

    @property
    def told(self) -> str:
        """What the model does, in a sentence about it."""
        return {
            "score": "scores texts",
            "labels": "tells the logits of labels",
            "embedding": "makes vectors of texts",
        }[self.makes]


def pooling_of(model: Artifact) -> Pooling | None:
    """What a model makes of a whole text; None for one that writes, and for what is no model.

    Raises InputError for an embedding of a kind that is not known here.
    """
    if "config.json" not in model.record.files:
        return None
    config = read_config(model)
    named = next(iter(config.get("architectures") or ()), "")
    if named.endswith(CLASSIFIER):
        labels = len(config.get("id2label") or ()) or int(config.get("num_labels") or USUAL_LABELS)
        over_vllm = config.get("model_type") in OVER_VLLM
        return Pooling(makes="score" if labels == 1 else "labels", over_vllm=over_vllm)
    if MODULES in model.record.files:
        return Pooling(makes="embedding", tokens=_tokens(model))
    if named.endswith(MASKED) or is_headless(config):
        return Pooling(makes="embedding")
    return None


def is_headless(config: dict[str, Any]) -> bool:
    """Whether a transformers configuration is of a model without a head, as encoders are published."""
    named = next(iter(config.get("architectures") or ()), "")
    writes = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    return named.endswith(BASE) and not named.endswith(WITH_HEAD) and not writes


def _tokens(model: Artifact) -> Literal["mean", "cls", "last"]:
    """Of which tokens sentence-transformers makes the vector."""
    modules: list[dict[str, Any]] = json.loads(model.location.read_bytes(MODULES))
    kinds = [str(each.get("type")).rpartition(".")[2] for each in modules]
    if foreign := [kind for kind in kinds if kind not in KNOWN_MODULES]:
        raise InputError(
            f"{model.record.ref}: a part of it is a {foreign[0]} of sentence-transformers",
            f"Known are {', '.join(KNOWN_MODULES)}.",
        )
    folder = next((each["path"] for each, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), "")
    if not folder:
        return "mean"
    told = json.loads(model.location.read_bytes(f"{folder}/config.json"))
    chosen = [name for name, on in told.items() if name.startswith("pooling_mode") and on is True]
    known: dict[str, Literal["mean", "cls", "last"]] = {
        "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last",
    }  # fmt: skip
    if len(chosen) != 1 or chosen[0] not in known:
        raise InputError(
            f"{model.record.ref}: its vectors are made by {' and '.join(chosen) or 'nothing'}",
            "Known are the mean of all tokens, the first one and the last one.",
        )
    return known[chosen[0]]


def longest_text(config: dict[str, Any]) -> int | None:
    """The longest text that a model of this configuration takes; None where nothing bounds it."""
    longest = context_tokens(config)
    before = int(config.get("pad_token_id") or 0) + 1  # places that its family does not use
    return longest - before if longest and config.get("model_type") in BEHIND_PADDING else longest
