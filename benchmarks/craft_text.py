"""The JATS reader against CRAFT's plain texts of the same articles: similarity of characters, article by article.

    python -m benchmarks.craft_text FOLDER     # `articles` of UCDenver-ccp/CRAFT: `nxml/`, `txt/`, `ids/`

Both texts are reduced to runs of blanks as one blank. Similarity is difflib's `2 * matches / (length + length)`, the
matching blocks found by words and counted in characters, so that an article takes milliseconds. CRAFT's texts hold
captions, acknowledgements and footnotes, but no tables' cells and no references; the reader is set to the same.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from difflib import SequenceMatcher
from pathlib import Path

from pipelines.specs import JatsSource
from pipelines.stages.corpus.documents import Document


def similarity(a: str, b: str) -> float:
    """Share of characters, blanks left out, in words that both texts have in the same order."""
    ours, theirs = a.split(), b.split()
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    same = sum(len(word) for block in blocks for word in ours[block.a : block.a + block.size])
    return 2 * same / max(1, sum(map(len, ours)) + sum(map(len, theirs)))


def main(folder: Path) -> None:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "txt").glob("*.txt")}
    ids = folder / "ids" / "craft-idmappings.txt"  # file of XML, PMCID, PMID: half of PLoS's XML holds no PMID
    mapped = dict(re.findall(r"^([^#\t]+)\t\S+\t(\d+)", ids.read_text(), re.MULTILINE) if ids.exists() else [])
    source = JatsSource(path=str(folder / "nxml"), acknowledgements=True)
    started, seconds, size_bytes = time.perf_counter(), 0.0, 0
    scores: list[tuple[float, str, int, int]] = []
    for file in source.list_files():
        before = time.perf_counter()
        found = list(source.read(file))
        seconds += time.perf_counter() - before
        size_bytes += file.size_bytes
        for document in found:
            if not isinstance(document, Document):
                print(f"{document.id}: {document.position}: {document.reason}")
                continue
            pmid = document.metadata.get("pmid") or mapped.get(file.name, "")
            if pmid in texts:
                score = similarity(document.text, texts[pmid])
                scores.append((score, pmid, len(document.text), len(texts[pmid])))
    if not scores:
        sys.exit(f"{folder}: none of {len(texts)} texts has its article in nxml/")
    for score, pmid, ours, theirs in sorted(scores):
        print(f"{pmid:>9} {score:.4f} {ours:7d} {theirs:7d} characters")
    print(
        f"{len(scores)} of {len(texts)} texts compared: median {statistics.median(s[0] for s in scores):.4f}, least "
        f"{min(scores)[0]:.4f}; read {size_bytes / 1e6 / seconds:.1f} MB of XML a second; "
        f"{time.perf_counter() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
