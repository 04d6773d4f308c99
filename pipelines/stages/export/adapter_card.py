"""The card of an adapter that stands alone: what it belongs to, how it was trained, and how to call it."""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.core.adapters import adapter_place, weights_digest
from cluster.core.storage.artifact import Artifact
from pipelines.stages.export.card import (
    front_matter,
    license_table,
    provenance,
    table,
    training,
    training_data,
)
from pipelines.stages.export.claim import claim
from pipelines.stages.export.kinds import Kind, method_of, stages
from pipelines.stages.export.origins import DATA, lineage, sources
from pipelines.stages.export.usage import usage
from pipelines.stages.tuning.methods import AnyMethod


def adapter_card(name: str, tuned: Artifact, base: Artifact) -> str:
    """README.md of the adapter that fine-tuning of `base` left."""
    kind, ancestors, learned = Kind.of(tuned), lineage([tuned]), sources(tuned)
    made = claim(license for source in learned for license in source.counts)
    data = [a for a in lineage([tuned], learned_only=True) if a.kind in DATA]
    called = str(base.metrics.get("hub", base.record.ref))
    rows = [("artifact", f"`{base.record.ref}`"), ("fingerprint", f"`{base.fingerprint}`"),
            ("its weights (SHA-256)", f"`{weights_digest(base)}`")]  # fmt: skip
    sections = [
        front_matter(metadata(kind, called) | made.fields),
        f"# {name}",
        f"An adapter with {tuned.metrics.get('trained_parameters', 0):,} parameters over {called}: {method_of(tuned)}. "
        "Built with Trunkline.",
        "## Its base",
        "It was trained over these weights and means nothing over others, which Trunkline refuses.",
        table(("base", ""), rows),
        served(tuned),
        *usage(name, tuned, called),
        "## Intended use",
        kind.intended_use(),
        "## Licences",
        made.sentence,
        *license_table(learned),
        *(text for artifact in data for text in training_data(artifact)),
        "## Training",
        "\n".join(stages(kind.chain)),
        *(text for model in kind.chain for text in training(model)),
        "## Reproduction",
        provenance(ancestors),
    ]
    return "\n\n".join(sections) + "\n"


def metadata(kind: Kind, base: str) -> dict[str, Any]:
    """The Hub's fields that say what it is and what it belongs to."""
    found = kind.metadata() | {"library_name": "peft", "base_model": base, "base_model_relation": "adapter"}
    return found | {"tags": [*found["tags"], "adapter"]}


def served(tuned: Artifact) -> str:
    """Who serves it."""
    if adapter_place(tuned):
        return "It cannot be merged into them, and vLLM does not serve it: transformers does."
    method = tuned.spec.get("method")
    loads = method is None or msgspec.convert(method, AnyMethod).loads_in_vllm  # older records know plain LoRA alone
    who = "vLLM serves it as a LoRA" if loads else "vLLM serves the merged model, but not this adapter"
    return f"It can be merged into them. {who}."
