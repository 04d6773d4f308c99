"""The model card: what the lineage knows, in the order in which a reader of the Hub asks.

Written from records and from the corpus itself, never by hand, and without dates, so that a card can be reproduced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import yaml

from cluster.artifact import Artifact
from cluster.specs import ExportSpec

BENCHMARKS = (
    ("bits_per_byte", "bits per byte, this model"),
    ("ngram_bits_per_byte", "bits per byte, byte n-gram trained on the same bytes"),
    ("xz_bits_per_byte", "bits per byte, `xz -9` on the held-out text"),
    ("perplexity", "perplexity per token"),
    ("validation_loss", "loss (nats per token)"),
)
HUB_LICENSES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "cc0-1.0", "cc-by-4.0")
SHOWN_LICENSES = 20


def model_card(name: str, spec: ExportSpec, inputs: dict[str, Artifact], parameters: int) -> str:
    """README.md of an exported model, with the Hub's YAML front matter."""
    ancestors = list(lineage([inputs[role] for role in sorted(inputs)]))
    by_kind = {artifact.kind: artifact for artifact in ancestors}
    model, corpora = inputs["model"], [artifact for artifact in ancestors if artifact.kind == "corpus"]
    licenses = sum((license_counts(corpus.local()) for corpus in corpora), Counter[str]())
    sections = [
        front_matter(licenses),
        f"# {name}",
        f"A causal language model with {parameters:,} parameters ({model.spec.get('model', model.kind)}), stored in "
        f"{spec.dtype}. Built with Trunkline.",
        "## Intended use",
        "Research and teaching: this is a base model that continues text of the kind it was trained on. It was not "
        "tuned to follow instructions nor to be safe, and it may repeat passages of its training data; check the "
        "licences below before you publish what it writes.",
        *(text for corpus in corpora for text in training_data(corpus)),
        "## Tokenizer",
        bullets(by_kind["tokenizer"].spec) if "tokenizer" in by_kind else "Comes with the model.",
        "## Training",
        bullets({**model.spec, **{k: v for k, v in model.metrics.items() if k in ("steps", "tokens")}}),
        *(evaluation(inputs["evaluation"]) if "evaluation" in inputs else ()),
        "## Reproduction",
        provenance(ancestors),
    ]
    return "\n\n".join(sections) + "\n"


def lineage(artifacts: Iterable[Artifact], seen: set[str] | None = None) -> Iterable[Artifact]:
    """The artifacts and all their ancestors, each once, ancestors first."""
    seen = set() if seen is None else seen
    for artifact in artifacts:
        if artifact.fingerprint not in seen:
            seen.add(artifact.fingerprint)
            yield from lineage([artifact.parent(role) for role in sorted(artifact.record.parents)], seen)
            yield artifact


def license_counts(corpus: Path) -> Counter[str]:
    """Documents by licence in the train split of a corpus folder."""
    counts: Counter[str] = Counter()
    for part in sorted((corpus / "train").glob("part-*.parquet")):
        counts.update(parquet.read_table(part, columns=["license"])["license"].to_pylist())
    return Counter({name or "unknown": number for name, number in counts.items()})


def front_matter(licenses: Counter[str]) -> str:
    """The Hub's metadata. A licence is claimed only where all training data has the same."""
    names = list(licenses)
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    metadata |= {"tags": ["trunkline", "pretrained"], "license": "other"}
    single = slug(names[0]) if len(names) == 1 else ""
    if single in HUB_LICENSES:
        metadata["license"] = single
    else:
        metadata["license_name"] = single or "mixed"
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---"


def slug(name: str) -> str:
    """A licence's name as the Hub wants it: lower case, letters, digits, dots and hyphens."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in name.lower()).split())


def training_data(corpus: Artifact) -> Sequence[str]:
    licenses = license_counts(corpus.local())
    report = json.loads(corpus.location.read_bytes("report.json"))
    rows = [(name, f"{number:,}") for name, number in licenses.most_common(SHOWN_LICENSES)]
    if hidden := licenses.most_common()[SHOWN_LICENSES:]:
        rows.append((f"{len(hidden)} others", f"{sum(number for _, number in hidden):,}"))
    readers = ", ".join(f"`{source['reader']}`" for source in corpus.spec["sources"])
    return (
        f"## Training data: {corpus.name}",
        f"{sum(licenses.values()):,} documents of {readers}.",
        "Licences:",
        table(("licence", "documents"), rows),
        "Where the documents went (`in` is the sum of all that follow):",
        table(("outcome", "documents"), [(name, f"{number:,}") for name, number in report["flow"].items()]),
        "Filters:",
        bullets(corpus.spec),
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
    return "\n".join(f"- {name}: {json.dumps(value)}" for name, value in values.items())


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
