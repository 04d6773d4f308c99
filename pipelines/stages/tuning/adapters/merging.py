"""The stage that merges adapters into the model that they were trained over, by peft."""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import CONFIG, FOLDER, open_model, peft_place, require_base, require_whole, widened
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import MergedSpec
from pipelines.stages.tuning.methods.adapter import write_adapter

COMBINED = "default"  # the name under which peft keeps an adapter at the top of its folder
TEMPLATE = "chat_template.jinja"


def build(ctx: Context[MergedSpec]) -> dict[str, Any]:
    """Write the model and, where several adapters became one, that one in `adapter/`.

    Raises InputError for an adapter of another base, and for adapters that cannot be combined so.
    """
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    base, adapters = ctx.inputs["model"], {n: a for n, a in sorted(ctx.inputs.items()) if n != "model"}
    check(base, adapters, spec)
    from peft import PeftModel

    logging.disable_progress_bar()
    first, *others = adapters
    folders = {name: adapter.local() / (peft_place(adapter) or "") for name, adapter in adapters.items()}
    plain = widened(open_model(base, dtype=torch.float32), adapters[first].local())
    model = PeftModel.from_pretrained(plain, folders[first], adapter_name=_inner(first))
    for name in others:
        model.load_adapter(folders[name], _inner(name))
    weights = [spec.weights.get(name, 1.0) for name in adapters]
    combined = bool(others) or weights != [1.0]
    if combined:
        combine(model, [_inner(name) for name in adapters], weights, spec)
    with ctx.scratch() as scratch:
        if combined:
            write_adapter(model, scratch / FOLDER, base.record.ref, selected_adapters=[COMBINED])
        whole = model.merge_and_unload()
        whole.config.eos_token_id = whole.generation_config.eos_token_id
        whole.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(adapters[first].local()).save_pretrained(scratch)
        ctx.output.put(scratch)
    return {"parameters": whole.num_parameters(), "adapters": dict(zip(adapters, weights, strict=True))}


def check(base: Artifact, adapters: dict[str, Artifact], spec: MergedSpec) -> None:
    """Raise InputError where the adapters do not belong to the base, or cannot become one."""
    require_whole(base)
    configs = {}
    for name, adapter in adapters.items():
        if (place := peft_place(adapter)) is None:
            raise InputError(f"{adapter.record.ref} has no adapter: its own weights were trained", "Leave it out.")
        require_base(adapter, base)
        configs[name] = json.loads(adapter.location.read_bytes(CONFIG if place == "." else f"{place}/{CONFIG}"))
        if configs[name]["peft_type"] != "LORA":
            raise InputError(
                f"{adapter.record.ref} cannot be merged: virtual tokens are no part of weights",
                "It chats and is served over its base as it is.",
            )
    if len({adapter.record.files[TEMPLATE].sha256 for adapter in adapters.values()}) > 1:
        raise InputError("merged: the adapters were trained on different chat templates", "Tune them on one.")
    if len(adapters) == 1 and not spec.weights:
        return
    for name, config in configs.items():
        for field, what in (("use_dora", "dora's lengths"), ("modules_to_save", "whole matrices (`also`)")):
            if config.get(field):
                raise InputError(f"merged: {name} has {what}, which cannot be combined", "Merge it alone, unweighted.")
    if spec.combination != "cat" and len(ranks := {config["r"] for config in configs.values()}) > 1:
        raise InputError(
            f"merged.combination: {spec.combination} wants one rank, and the adapters have {sorted(ranks)}",
            "Set it to cat.",
        )


def _inner(name: str) -> str:
    """What peft calls an adapter here: never `default`."""
    return f"given_{name}"


def combine(model: Any, names: list[str], weights: list[float], spec: MergedSpec) -> None:
    """Make one adapter of several, and use it."""
    for config in model.peft_config.values():
        config.use_rslora = False  # the sum's scale is 1, and peft would take the root of its rank
    density = {"density": spec.density} if spec.combination.startswith(("ties", "dare")) else {}
    torch.manual_seed(spec.seed)
    model.add_weighted_adapter(names, weights, COMBINED, combination_type=spec.combination, **density)
    model.set_adapter(COMBINED)
