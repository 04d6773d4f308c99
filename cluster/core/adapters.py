"""Models as artifacts hold them: whole, or as an adapter in peft's form, which is nothing without the model that it was
trained over.

Files and digests are looked at without torch; what opens a model imports it then.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from cluster.core.errors import InputError
from cluster.core.integers import QUANTIZATION, needs_opening, open_plain
from cluster.core.model_files import CONFIG_FILE, context_tokens, read_config
from cluster.core.storage.artifact import Artifact

CONFIG = "adapter_config.json"
FOLDER = "adapter"  # of a model artifact that has an adapter, beside its weights or instead of them
BASE_FILE = "base.json"  # of an adapter that stands alone: what it was trained over
WEIGHTS = (".safetensors", ".bin")


def peft_place(model: Artifact) -> str | None:
    """Where in an artifact there is an adapter (`.`: at the top), beside the weights of a model or not."""
    files = model.record.files
    return "." if CONFIG in files else FOLDER if f"{FOLDER}/{CONFIG}" in files else None


def adapter_place(model: Artifact) -> str | None:
    """Where in its artifact the adapter is that a model consists of; None where the model is whole."""
    place = peft_place(model)
    return None if place == FOLDER and _weights(model) else place


def over_transformers(model: Artifact) -> str:
    """What a model is that transformers serves and vLLM cannot; empty where vLLM does."""
    if adapter_place(model) is not None:
        return "an adapter"
    if CONFIG_FILE not in model.record.files:
        return ""
    method = read_config(model).get(QUANTIZATION, {}).get("quant_method")
    return "packed by bitsandbytes" if method == "bitsandbytes" else ""


def base_of(model: Artifact) -> Artifact | None:
    """The model that an adapter was trained over; None where the model is whole.

    Raises InputError where the store does not have it.
    """
    if adapter_place(model) is None:
        return None
    return (model.parent("model") if CONFIG in model.record.files else model).parent("model")


def virtual_tokens(model: Artifact) -> int:
    """Places of the context that a model's adapter takes."""
    place = adapter_place(model)
    if place is None:
        return 0
    config = json.loads(model.location.read_bytes(str(PurePosixPath(place, CONFIG))))
    return int(config.get("num_virtual_tokens") or 0)


def context_of(model: Artifact) -> int | None:
    """The longest sequence that a model takes, as `context_tokens`, without the places of its adapter."""
    longest = context_tokens(read_config(model))
    return longest and longest - virtual_tokens(model)


def weights_digest(model: Artifact) -> str:
    """SHA-256 (hex) of a whole model's weights: of its files' names and digests."""
    lines = (f"{name} {model.record.files[name].sha256}\n" for name in _weights(model))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_whole(model: Artifact) -> None:
    """Raise InputError for an adapter where the weights of a model are needed."""
    if adapter_place(model) is None:
        return
    over = f"an adapter over {model.record.parents['model'].ref}"
    if CONFIG in model.record.files:
        raise InputError(
            f"{model.record.ref} is an adapter and has no weights of a model",
            f"Give {model.record.parents['model'].ref}, or merge it into its base first (`MergedSpec`).",
        )
    raise InputError(
        f"{model.record.ref} is {over} that cannot be merged, and has no weights of its own",
        "It chats, generates and is served by transformers; tune by `lora` for a model that stands alone.",
    )


def require_base(adapter: Artifact, base: Artifact) -> None:
    """Raise InputError where a model is not the one that an adapter was trained over."""
    if BASE_FILE in adapter.record.files:
        told = json.loads(adapter.location.read_bytes(BASE_FILE))
        ref, digest = told["ref"], told["weights_sha256"]
    else:
        own = adapter.parent("model")
        ref, digest = own.record.ref, weights_digest(own)
    if weights_digest(base) != digest:
        raise InputError(
            f"{adapter.record.ref} was trained over {ref}, and {base.record.ref} has other weights", f"Give {ref}."
        )


def open_model(model: Artifact, base: Artifact | None = None, **options: Any) -> Any:
    """The causal language model of an artifact: a whole one, or its adapter over the model that it was trained over.

    `base`: that model, where it is in another store. `options` are those of transformers' `from_pretrained`. Raises
    InputError where the artifact is no model, and for another base.
    """
    from transformers import AutoModelForCausalLM

    if CONFIG_FILE not in model.record.files:
        raise InputError(f"{model.record.ref} is not a model: it has no {CONFIG_FILE}", "Give a model artifact.")
    place = adapter_place(model)
    if place is None:
        opening = open_plain if needs_opening(model.local()) else AutoModelForCausalLM.from_pretrained
        return opening(model.local(), **options)
    if base is not None:
        require_base(model, base)
    from peft import PeftModel

    over = base or base_of(model)
    assert over is not None
    folder = model.local()
    return text_only(PeftModel.from_pretrained(widened(open_model(over, **options), folder), folder / place))


def widened(model: Any, folder: Path) -> Any:
    """A base as the adapter in a folder was trained over it: with rows for the tokens of its tokenizer, whose values
    the adapter brings, and with its end of text."""
    from transformers import AutoTokenizer, GenerationConfig

    if (rows := len(AutoTokenizer.from_pretrained(folder))) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(rows)
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def text_only(model: Any) -> Any:
    """A model of peft, its logits without those of virtual tokens, which it tells where they stand before the text."""
    config = model.active_peft_config
    if config.peft_type == "PROMPT_TUNING":

        def cut(module: Any, inputs: Any, options: dict[str, Any], output: Any) -> Any:
            if not options.get("logits_to_keep"):
                output.logits = output.logits[:, config.num_virtual_tokens :]
            return output

        model.register_forward_hook(cut, with_kwargs=True)
    return model


def _weights(model: Artifact) -> list[str]:
    return sorted(name for name in model.record.files if "/" not in name and name.endswith(WEIGHTS))
