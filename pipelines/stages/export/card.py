"""The model card: what the lineage knows, in the order in which a reader of the Hub asks.

Written from records and from the data itself, never by hand, and without dates and places on a machine, so that a card
can be reproduced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from cluster.core.storage.artifact import Artifact
from pipelines.stages.export.claim import claim
from pipelines.stages.export.kinds import Kind, stages
from pipelines.stages.export.origins import DATA, Source, license_counts, lineage, reference, source_names, sources
from pipelines.stages.export.usage import usage
from pipelines.stages.training.spec import VALIDATION

LOSS = "validation_loss"
BENCHMARKS = (
    ("bits_per_byte", "bits per byte, this model"),
    ("ngram_bits_per_byte", "bits per byte, byte n-gram trained on the same bytes"),
    ("xz_bits_per_byte", "bits per byte, `xz -9` on the held-out text"),
    ("perplexity", "perplexity per token"),
    (LOSS, "loss (nats per token)"),
)
SHOWN_LICENSES = 20
# A place on this machine, behind a scheme such as `llama2c:` or not: only its last name is for others.
PLACE = re.compile(
    r"(?!(?!file:)[a-z][\w+.-]*://)((?:[a-z][\w+-]*:)?)(?:file:)?(?:/|~|[A-Za-z]:[\\/])(?:.*[/\\])?([^/\\]+)[/\\]*"
)


def model_card(name: str, kind: Kind, inputs: dict[str, Artifact], parameters: int, dtype: str) -> str:
    """README.md of an exported model, with the Hub's YAML front matter."""
    ancestors = lineage([inputs[role] for role in sorted(inputs)])
    learned = sources(inputs["model"])
    tokenizers = [artifact for artifact in ancestors if artifact.kind in ("tokenizer", "vocabulary")]
    made = claim(license for source in learned for license in source.counts)
    data = [a for a in lineage([inputs["model"]], learned_only=True) if a.kind in DATA]
    tuned = next((model for model in reversed(kind.chain) if "template" in model.spec), inputs["model"])
    sections = [
        front_matter(kind.metadata() | made.fields),
        f"# {name}",
        kind.summary(parameters, dtype),
        "## Intended use",
        kind.intended_use(),
        *(usage(name, tuned) if kind.chats else ()),
        "## Licences",
        made.sentence,
        *license_table(learned),
        *(text for artifact in data for text in training_data(artifact)),
        "## Tokenizer",
        bullets(tokenizers[-1].spec) if tokenizers else "Comes with the model.",
        "## Training",
        "\n".join(stages(kind.chain)),
        *(text for model in kind.chain for text in training(model)),
        *forgetting([model for model in kind.chain if model.kind == "sft"]),
        *(evaluation(inputs["evaluation"]) if "evaluation" in inputs else ()),
        "## Reproduction",
        provenance(ancestors),
    ]
    return "\n\n".join(sections) + "\n"


def front_matter(metadata: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---"


def license_table(learned: Sequence[Source]) -> Sequence[str]:
    """Every source under every licence of its own, the most frequent ones first."""
    rows = []
    for source in learned:
        counts = list(source.counts.items())
        rows += [(source.ref, license, f"{n:,} {source.what}") for license, n in counts[:SHOWN_LICENSES]]
        if hidden := counts[SHOWN_LICENSES:]:
            rows.append((source.ref, f"{len(hidden)} others", f"{sum(n for _, n in hidden):,} {source.what}"))
    return [table(("source", "licence", "of"), rows)] if rows else []


def training(model: Artifact) -> Sequence[str]:
    figures = {name: value for name, value in model.metrics.items() if name in ("steps", "tokens")}
    return f"### {reference(model)}", bullets({**model.spec, **figures})


def forgetting(rounds: Sequence[Artifact]) -> Sequence[str]:
    """The loss on what each round held out, after it and after those that follow; nothing where that was not asked."""
    losses: dict[str, dict[Artifact, float]] = {}
    named: dict[str, str] = {}
    for model in rounds:
        for role, parent in model.record.parents.items():
            metric = LOSS if role == "conversations" else f"{LOSS}_{role.removeprefix(VALIDATION)}"
            if (role == "conversations" or role.startswith(VALIDATION)) and metric in model.metrics:
                losses.setdefault(parent.fingerprint, {})[model] = model.metrics[metric]
                given = model.parent(role)
                named[parent.fingerprint] = ", ".join(without_places(n) for n in source_names(given)) or reference(
                    given
                )
    if all(len(found) < 2 for found in losses.values()):
        return ()
    numbers = [f"after round {number}" for number in range(1, len(rounds) + 1)]
    rows = [
        (named[key], *(f"{found[model]:.4f}" if model in found else "" for model in rounds))
        for key, found in losses.items()
    ]
    told = "Loss (nats per token) on held-out conversations of each round; one that rises again was forgotten in part."
    return "### Forgetting", told, table(("held out of", *numbers), rows)


def training_data(artifact: Artifact) -> Sequence[str]:
    """What it holds, where it came from and how it was chosen."""
    counts = license_counts(artifact)
    heading, size = f"## Training data: {reference(artifact)}", f"{sum(counts.values()):,} {DATA[artifact.kind]}"
    rows = [(name, f"{number:,}") for name, number in list(counts.items())[:SHOWN_LICENSES]]
    if hidden := list(counts.items())[SHOWN_LICENSES:]:
        rows.append((f"{len(hidden)} others", f"{sum(number for _, number in hidden):,}"))
    licenses = table(("licence", DATA[artifact.kind]), rows)
    if artifact.kind != "corpus":
        named = ", ".join(f"`{without_places(name)}`" for name in source_names(artifact))
        return (
            heading,
            f"{size} of {named}." if named else f"{size}.",
            "Licences:",
            licenses,
            "Made by:",
            bullets(artifact.spec),
        )
    report = json.loads(artifact.location.read_bytes("report.json"))
    readers = ", ".join(f"`{source['reader']}`" for source in artifact.spec["sources"])
    return (
        heading,
        f"{size} of {readers}.",
        "Licences:",
        licenses,
        "Where the documents went (`in` is the sum of all that follow):",
        table(("outcome", "documents"), [(name, f"{number:,}") for name, number in report["flow"].items()]),
        "Filters:",
        bullets(artifact.spec),
    )


def evaluation(artifact: Artifact) -> Sequence[str]:
    metrics = artifact.metrics
    rows = [(label, f"{metrics[name]:.4f}") for name, label in BENCHMARKS if name in metrics]
    size = f"On {metrics['heldout_documents']:,} held-out documents ({metrics['heldout_bytes']:,} bytes)."
    return "## Evaluation", size, table(("measure", "value"), rows)


def provenance(ancestors: Sequence[Artifact]) -> str:
    rows = [
        (
            f"{a.kind}/{a.name}",
            f"`{a.fingerprint}`",
            a.record.code.commit[:12] + (f" + {a.record.code.dirty}" if a.record.code.dirty else ""),
            str(a.spec.get("seed", "")),
        )
        for a in ancestors
    ]
    versions = ancestors[-1].record.versions
    return (
        table(("artifact", "fingerprint", "code commit", "seed"), rows)
        + "\n\nPackages: "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
    )


def bullets(values: dict[str, Any]) -> str:
    return "\n".join(f"- {name}: {json.dumps(without_places(value))}" for name, value in values.items())


def without_places(value: Any) -> Any:
    """A value of a spec in which places on this machine, at any depth, are their last names."""
    if isinstance(value, dict):
        return {without_places(key): without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    if isinstance(value, str) and "\n" not in value and (place := PLACE.fullmatch(value)):
        return f"{'' if place[1] == 'file:' else place[1]}{place[2]}"
    return value


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
