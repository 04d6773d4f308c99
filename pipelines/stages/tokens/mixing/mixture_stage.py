"""The mixture stage: check that stores fit together and write down by what weights they are mixed; no token is copied.

A store is appended to in the same way: a mixture of the old and the new without weights takes both by their sizes.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import MixtureSpec
from pipelines.stages.tokens.mixing.mixture import whole_weights
from pipelines.stages.tokens.reader import INDEX_FILE, TokenStore

ALIKE = ("tokenizer_fingerprint", "vocab_size", "sequence_length", "packing")


def build(ctx: Context[MixtureSpec]) -> dict[str, Any]:
    """Write index.json. Raises SpecError for weights of no source, InputError for stores that cannot be mixed."""
    spec, names = ctx.spec, sorted(ctx.inputs)
    spec.check_inputs(ctx.inputs)
    train = {name: TokenStore.open(ctx.inputs[name], "train") for name in names}
    heldout = {name: TokenStore.open(ctx.inputs[name], "heldout") for name in names}
    alike = _common(train)
    sizes = {name: store.num_sequences for name, store in train.items()}
    for name, size in sizes.items():
        if not size:
            raise InputError(f"mixture: {name!r} has not one whole sequence", "Leave it out, or give it more data.")
    phases = [(p.weights, {"until_tokens": p.until_tokens, "until_fraction": p.until_fraction}) for p in spec.phases]
    phases.append((spec.weights or {name: float(size) for name, size in sizes.items()}, {}))
    index = {
        **alike,
        "sources": {
            name: {
                "artifact": ctx.inputs[name].record.ref,
                "fingerprint": ctx.inputs[name].fingerprint,
                "train_sequences": sizes[name],
                "heldout_sequences": heldout[name].num_sequences,
            }
            for name in names
        },
        "phases": [
            {
                **until,
                "weights": dict(zip(names, whole_weights([weights.get(name, 0) for name in names]), strict=True)),
            }
            for weights, until in phases
        ],
        "max_epochs": {name: spec.max_epochs_of.get(name, spec.max_epochs) for name in names},
    }
    ctx.output.write_bytes(INDEX_FILE, json.dumps(index, indent=2).encode())
    return {
        "train_tokens": sum(store.num_tokens for store in train.values()),
        "heldout_tokens": sum(store.num_tokens for store in heldout.values()),
    }


def _common(stores: dict[str, TokenStore]) -> dict[str, Any]:
    """What all stores must share. Raises InputError where they do not, with the value of each."""
    for field in ALIKE:
        values = {name: getattr(store, field) for name, store in stores.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{name} {str(value)[:12]}" for name, value in values.items())
            raise InputError(
                f"mixture: the sources differ in their {field}: {told}",
                "Encode all of them with the same tokenizer artifact, tokens.sequence_length and tokens.packing.",
            )
    return {field: getattr(next(iter(stores.values())), field) for field in ALIKE}
