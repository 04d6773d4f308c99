"""`ctl corpus`: look into a finished corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json, print_table, size

if TYPE_CHECKING:
    from cluster.core.storage.artifact import Artifact

corpus = group("Corpora: report, statistics, samples, search.")

Ref = Annotated[str, typer.Argument(help="A corpus: alias, kind/name, name, or the beginning of a fingerprint.")]
Part = Annotated[str, typer.Option("--part", help="train, heldout or rejected.")]


def _open(ref: str, store: str | None) -> "Artifact":
    from cluster.core.storage.store import Store
    from pipelines.stages.corpus.summary import require_corpus

    return require_corpus(Store(store).resolve(ref, "corpus"))


def _checked(part: str) -> str:
    from cluster.core.errors import UsageError, nearest
    from pipelines.stages.corpus.summary import PARTS

    if part not in PARTS:
        raise UsageError(f"--part {part}: a corpus has {', '.join(PARTS)}", nearest(part, list(PARTS)))
    return part


@corpus.command()
def report(
    ref: Ref,
    page: Annotated[Path | None, typer.Option("--page", help="Write the page, its tokens included, to a file.")] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show the flow of documents through every step, their licences, and where the page with everything else is."""
    from pipelines.stages.corpus import summary

    artifact = _open(ref, store)
    found = summary.report(artifact)
    if page:
        page.write_bytes(summary.page(artifact))
    if as_json:
        print_json(found)
        return
    columns = ("step", "in", "rejected", "duplicates", "changed", "out")
    print_table(columns, [tuple(_cell(step[name]) for name in columns) for step in found["steps"]], "no steps")
    reasons = [(step, reason, f"{n:,}") for step, of in found["reasons"].items() for reason, n in of.items()]
    if reasons:
        print()
        print_table(("step", "reason", "documents"), reasons, "")
    print()
    print_table(("licence", "documents"), [(name, f"{n:,}") for name, n in found["licenses"].items()], "")
    for warning in found.get("warnings", []):
        print(f"\nWarning: {warning}")
    print(f"\nThe page: {page or f'{artifact.location.url}/report.html'}")


@corpus.command()
def stats(ref: Ref, store: StoreRoot = None, as_json: AsJson = False) -> None:
    """Show how much a corpus holds, of which languages, licences and sources, and what its tokens are like."""
    from pipelines.stages.corpus import summary

    artifact = _open(ref, store)
    found, tokens = summary.report(artifact), summary.token_statistics(artifact)
    kept = {name: found[name] for name in ("documents", "bytes", "characters", "replacement_characters")}
    shares = {name: found[name] for name in ("languages", "licenses", "sources", "encodings")}
    if as_json:
        print_json(kept | shares | {"tokens": tokens})
        return
    splits = [(name, f"{found['documents'][name]:,}", size(found["bytes"][name])) for name in found["documents"]]
    print_table(("split", "documents", "text"), splits, "")
    for name, counts in shares.items():
        print()
        print_table((name, "documents"), [(key, f"{n:,}") for key, n in list(counts.items())[:20]], "")
    for stored, by_split in tokens.items():
        print(f"\n{stored}")
        figures = ("tokens", "documents", "longest_tokens", "unseen_pieces", "rare_pieces")
        rows = [(name, *(f"{of[figure]:,}" for figure in figures), _ratio(of)) for name, of in by_split.items()]
        print_table(("split", "tokens", "documents", "longest", "unseen", "rare", "bytes/token"), rows, "")
        sources = by_split["train"]["sources"]
        rows = [(name, f"{of['tokens']:,}", f"{of['documents']:,}", _ratio(of)) for name, of in sources.items()]
        print_table(("source of train", "tokens", "documents", "bytes/token"), rows[:20], "")


@corpus.command()
def sample(
    ref: Ref,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 3,
    part: Part = "train",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives other documents.")] = 0,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Print documents drawn at random (the same ones for the same seed)."""
    from pipelines.stages.corpus import summary

    found = summary.sample(_open(ref, store), _checked(part), count, seed)
    if as_json:
        print_json(found)
        return
    for row in found:
        print(f"=== {row['id']}  [{row['reason'] if part == 'rejected' else row['source']}]")
        print(row["excerpt"] if part == "rejected" else row["text"])


@corpus.command()
def search(
    ref: Ref,
    pattern: Annotated[str, typer.Argument(help="Regular expression, looked for in texts, ids, URLs and reasons.")],
    part: Part = "train",
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="Capital or small.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Stop after so many documents.")] = 20,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Find documents by a regular expression."""
    from itertools import islice

    from pipelines.stages.corpus import summary

    found = list(islice(summary.search(_open(ref, store), _checked(part), pattern, ignore_case=ignore_case), limit))
    if as_json:
        print_json([{name: value for name, value in row.items() if name != "text"} for row in found])
    else:
        print_table(("document", "where"), [(row["id"], row["match"]) for row in found], "Nothing matches.")


def _ratio(counts: dict[str, int]) -> str:
    return f"{counts['bytes'] / counts['tokens']:.3f}" if counts["tokens"] else ""


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
