"""Reading a finished corpus: its report, its documents, and what did not stay."""

from __future__ import annotations

import heapq
import json
import re
from collections.abc import Iterator
from typing import Any

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages import licenses

PARTS = ("train", "heldout", "rejected")
BATCH_ROWS = 256
NO_TOKENS = b'<script type="application/json" id="tokens">{}</script>'  # as the page of a new corpus has it


def report(artifact: Artifact) -> dict[str, Any]:
    """The corpus's `report.json`; a licence has one name, in a report that was written before there was one, too."""
    found = dict(json.loads(artifact.location.read_bytes("report.json")))
    return found | {"licenses": licenses.counted(found["licenses"].items())}


def token_statistics(artifact: Artifact) -> dict[str, Any]:
    """`statistics.json` of every token store in the same store that was made from the corpus, by its reference."""
    return {
        tokens.record.ref: json.loads(tokens.location.read_bytes("statistics.json"))
        for tokens in Store(artifact.store_url).list("tokens")
        if tokens.record.parents["corpus"].fingerprint == artifact.fingerprint
    }


def page(artifact: Artifact) -> bytes:
    """The corpus's page, with the statistics of its tokens as far as there are any today."""
    template = artifact.location.read_bytes("report.html")
    data = json.dumps(token_statistics(artifact), ensure_ascii=False).replace("</", "<\\/")
    return template.replace(NO_TOKENS, NO_TOKENS.replace(b"{}", data.encode()))


def require_corpus(artifact: Artifact) -> Artifact:
    """The artifact itself; raises InputError where it is not a corpus."""
    if artifact.kind != "corpus":
        raise InputError(f"{artifact.record.ref} is not a corpus", "See `ctl artifacts list --kind corpus`.")
    return artifact


def rows(artifact: Artifact, part: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of `train`, `heldout` or `rejected`, streamed in their order."""
    import pyarrow.parquet as pq

    for name in artifact.location.names(part):
        with artifact.location.open(f"{part}/{name}") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()


def sample(artifact: Artifact, part: str, count: int, seed: int) -> list[dict[str, Any]]:
    """A fair sample: the documents whose ids hash lowest under `seed`."""
    import hashlib

    def key(row: dict[str, Any]) -> str:
        return hashlib.blake2b(f"{seed}/{row['id']}".encode(), digest_size=8).hexdigest()

    return heapq.nsmallest(count, rows(artifact, part), key=lambda row: (key(row), row["id"]))


def search(artifact: Artifact, part: str, pattern: str, *, ignore_case: bool) -> Iterator[dict[str, Any]]:
    """Rows whose id, text or reason match a regular expression, with the line around the first match as `match`.

    Raises InputError for a pattern that is none.
    """
    try:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise InputError(f"{pattern!r} is not a regular expression: {error}", "Escape its special signs.") from None
    fields = ("id", "reason", "excerpt") if part == "rejected" else ("id", "text", "url")
    for row in rows(artifact, part):
        for field in fields:
            if found := compiled.search(row[field]):
                yield {**row, "match": _around(row[field], found.start(), found.end())}
                break


def _around(text: str, start: int, end: int, characters: int = 60) -> str:
    """The matched line, cut to the match and some characters on either side."""
    first = max(text.rfind("\n", 0, start) + 1, start - characters)
    stop = text.find("\n", end)
    last = min(stop if stop >= 0 else len(text), end + characters)
    return text[first:last]
