"""LoRA adapters that an engine of vLLM's computes over its model: which fit there, and their coming and going.

An adapter that changes keeps its name for clients. Within the engine it is named by its fingerprint as well, so that
nothing that was cached of an earlier one is taken for its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from cluster.core.adapters import CONFIG, peft_place, require_base
from cluster.core.errors import InputError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.engine import plain_reason
from serving.keeping import keep_model
from serving.named import Named

MARK = "@"  # between an adapter's name and the beginning of its fingerprint
NOT_IN_VLLM = ("modules_to_save", "trainable_token_indices", "use_dora", "use_rslora", "alpha_pattern", "rank_pattern")


def fits(artifact: Artifact, own: Artifact, spec: EndpointSpec) -> bool:
    """Whether an artifact is a LoRA adapter that an engine on an endpoint's own model can compute: over the same
    weights, with the same tokens and chat template, no larger than the spec has room for."""
    place = peft_place(artifact)
    if not spec.max_adapters or place is None or plain_reason(own):
        return False
    config = json.loads(artifact.location.read_bytes(str(PurePosixPath(place, CONFIG))))
    if config.get("peft_type") != "LORA" or any(config.get(name) for name in NOT_IN_VLLM):
        return False
    if config.get("bias", "none") != "none" or config["r"] > spec.max_adapter_rank:
        return False
    try:
        require_base(artifact, own)
    except InputError:
        return False
    return _texts(artifact) in ({}, _texts(own))


def _texts(model: Artifact) -> dict[str, Any]:
    """What makes tokens of texts and conversations in a model; nothing where it brings no tokenizer."""
    found: dict[str, Any] = {}
    if "tokenizer.json" in model.record.files:
        told = json.loads(model.location.read_bytes("tokenizer.json"))
        found["vocabulary"] = told["model"].get("vocab")
        found["added"] = [(token["id"], token["content"]) for token in told.get("added_tokens", ())]
    if "chat_template.jinja" in model.record.files:
        found["template"] = model.location.read_bytes("chat_template.jinja")
        return found
    if "tokenizer_config.json" in model.record.files:
        template = json.loads(model.location.read_bytes("tokenizer_config.json")).get("chat_template")
        found |= {"template": template.encode()} if isinstance(template, str) else {}
    return found


class Adapters:
    """The adapters of one engine. `models` are those that vLLM's application answers for."""

    def __init__(self, engine: Any, models: Any) -> None:
        self._engine, self._models = engine, models
        self._loaded: dict[str, Any] = {}  # by the name within the engine

    async def load(self, named: Iterable[Named]) -> None:
        """Bring adapters into the engine, beside those that are there. Raises where one does not go in."""
        from vllm.lora.request import LoRARequest

        for each in named:
            inner = _inner(each)
            if inner in self._loaded:
                continue
            artifact = Store(each.store).get(each.kind, each.fingerprint)
            keep_model(each.store, each.kind, each.fingerprint)
            place = peft_place(artifact)
            assert place is not None
            number = int(each.fingerprint[:7], 16) + 1
            request = LoRARequest(lora_name=inner, lora_int_id=number, lora_path=str(artifact.local() / place))
            await self._engine.add_lora(request)
            self._loaded[inner] = request

    async def name(self, named: Iterable[Named]) -> None:
        """Have vLLM's application know these adapters, which are loaded, and no others; what it has begun goes on."""
        self._models.lora_requests = {each.name: self._loaded[_inner(each)] for each in named}
        known = {request.lora_name for request in self._models.lora_requests.values()}
        for inner in set(self._loaded) - known:
            await self._engine.remove_lora(self._loaded.pop(inner).lora_int_id)

    def own(self, request: Any) -> Any:
        """An adapter as this engine has it, of how another replica names it; None where it has none such."""
        return self._loaded.get(request.lora_name)


def _inner(named: Named) -> str:
    return f"{named.name}{MARK}{named.fingerprint[:12]}"
