"""The published filters against datatrove's: the decision on every document, and the speed of both.

    python benchmarks/datatrove_rules.py DATA --rival PYTHON   # a Python with datatrove==0.10.1 and spacy

Writes the English documents below DATA (the shared test data) to a file, then starts itself as `--side ours` and, under
the other Python, `--side theirs`, in turns, one process each and three times. A filter is shown every document as it
was read; the chain (Gopher repetition, Gopher quality, C4, FineWeb) ends at the first filter that rejects, and is timed
first, while the process is cold.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROUNDS = 3
CHAIN = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
FILTERS = (*CHAIN, "c4, same marks")  # datatrove lets a line end in ' too
Decision = tuple[str, str]  # why it was rejected, empty where it stays; the text that is left
Side = tuple[dict[str, Any], Callable[[list[Any], str], Decision]]
SHOWN_CHARACTERS = 60


def documents(data: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every English document."""
    for path in sorted((data / "redpajama_like").rglob("*.jsonl")):
        for number, line in enumerate(path.read_text(errors="replace").split("\n"), 1):
            if line.strip() and "text" in (record := json.loads(line)):
                yield f"{path.relative_to(data)}#{number}", record["text"]
    wiki = data / "redpajama_like/llama-factory/data/wiki_demo.txt"
    for number, line in enumerate(wiki.read_text().splitlines(), 1):
        yield f"{wiki.relative_to(data)}#{number}", line
    for folder in (
        "redpajama_like/gutenberg",
        "redpajama_like/wikitext-2",
        "craft_pmc_text",
        "rl_prompts/imdb",
        "shakespeare",
    ):
        for path in sorted((data / folder).rglob("*.txt")):
            yield str(path.relative_to(data)), path.read_bytes().decode(errors="replace")


def ours() -> Side:
    """Trunkline's rules, and how they decide."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from pipelines.specs import C4, FineWeb, GopherQuality, GopherRepetition
    from pipelines.stages.corpus.documents import Document
    from pipelines.stages.corpus.rules.rule import apply

    def decide(rules: list[Any], text: str) -> Decision:
        document = Document("0", text)
        return apply(rules, document)[1], document.text

    chosen = (GopherRepetition(), GopherQuality(), C4(), FineWeb(), C4(terminal_marks=(".", "?", "!", '"', "'")))
    return dict(zip(FILTERS, chosen, strict=True)), decide


def theirs() -> Side:
    """datatrove's filters, and how they decide."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    def decide(rules: list[Any], text: str) -> Decision:
        document = Document(text=text, id="0")
        for rule in rules:
            kept = rule.filter(document)
            if kept is not True:
                return kept[1], document.text
        return "", document.text

    chosen = (GopherRepetitionFilter, GopherQualityFilter, C4QualityFilter, FineWebQualityFilter, C4QualityFilter)
    return {name: rule() for name, rule in zip(FILTERS, chosen, strict=True)}, decide


def run(side: Side, source: Path, answers: Path) -> None:
    """One process's part: the chain timed first, then each filter on every document."""
    texts: list[str] = json.loads(source.read_text())
    rules, decide = side
    chain = [rules[name] for name in CHAIN]
    decide(chain, "Load what is loaded late. " * 20)
    seconds: dict[str, float] = {}
    decisions: dict[str, list[Decision]] = {}
    start = time.perf_counter()
    decisions["chain"] = [decide(chain, text) for text in texts]
    seconds["chain"] = time.perf_counter() - start
    for name, rule in rules.items():
        start = time.perf_counter()
        decisions[name] = [decide([rule], text) for text in texts]
        seconds[name] = time.perf_counter() - start
    answers.write_text(json.dumps({"seconds": seconds, "decisions": decisions}))


def compare(data: Path, rival: str) -> None:
    found = list(documents(data))
    megabytes = sum(len(text.encode()) for _, text in found) / 1e6
    print(f"{len(found)} documents, {megabytes:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "texts.json"
        source.write_text(json.dumps([text for _, text in found]))
        answers: dict[str, list[Any]] = {"ours": [], "theirs": []}
        for _ in range(ROUNDS):
            for side, python in (("ours", sys.executable), ("theirs", rival)):
                written = Path(folder) / f"{side}.json"
                command = [python, __file__, str(source), "--side", side, "--answers", str(written)]
                subprocess.run(command, check=True)
                answers[side].append(json.loads(written.read_text()))
    print(
        f"{'filter':20} {'agree':>6} {'differ':>6} {'kept':>6} {'text':>5} {'ours MB/s':>10} {'theirs MB/s':>11} ratio"
    )
    for name in answers["ours"][0]["decisions"]:
        pairs = list(zip(*(answers[side][0]["decisions"][name] for side in ("ours", "theirs")), strict=True))
        differ = [bool(mine[0]) != bool(other[0]) for mine, other in pairs]
        kept = [not mine[0] and not other[0] for mine, other in pairs]
        texts = sum(both and mine[1] != other[1] for both, (mine, other) in zip(kept, pairs, strict=True))
        mine, other = (statistics.median(a["seconds"][name] for a in answers[side]) for side in ("ours", "theirs"))
        print(
            f"{name:20} {len(pairs) - sum(differ):6} {sum(differ):6} {sum(kept):6} {texts:5} {megabytes / mine:10.1f} "
            f"{megabytes / other:11.2f} {other / mine:5.1f}"
        )
        for (document, _), apart, (mine, other) in zip(found, differ, pairs, strict=True):
            if apart:
                print(f"    {document[-SHOWN_CHARACTERS:]}: ours {mine[0] or 'keeps'}, datatrove {other[0] or 'keeps'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rival", default=sys.executable)
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--answers", type=Path)
    options = parser.parse_args()
    if options.side:
        run(ours() if options.side == "ours" else theirs(), options.data, options.answers)
    else:
        compare(options.data, options.rival)


if __name__ == "__main__":
    main()
