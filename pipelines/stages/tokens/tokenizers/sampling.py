"""A fair sample of a corpus: documents of a whole split, chosen by a keyed hash of their ids, streamed.

The same documents are chosen wherever and in whatever order they lie; how many is known from the files' metadata, so
that nothing is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.core.storage.location import Location
from pipelines.stages.corpus.documents import keyed_hash

BATCH_DOCUMENTS = 256
OFFSET_BYTES = 4  # of a string in a Parquet page


def sample(corpus: Location, split: str, sample_bytes: int, purpose: str = "tokenizer") -> Iterator[dict[str, str]]:
    """Rows (`text`, `metadata`) of about `sample_bytes` of text, or of the whole split where it has no more.

    Other purposes choose other documents.
    """
    parts = [f"{split}/{name}" for name in corpus.names(split) if name.endswith(".parquet")]
    total_bytes = sum(_text_bytes(corpus, part) for part in parts)
    below = 2**64 * min(1.0, sample_bytes / max(total_bytes, 1))
    for part in parts:
        with corpus.open(part) as file:
            source = pq.ParquetFile(file)
            columns = [name for name in ("id", "text", "metadata") if name in source.schema_arrow.names]
            for batch in source.iter_batches(batch_size=BATCH_DOCUMENTS, columns=columns):
                if total_bytes > sample_bytes:
                    ids = batch.column("id").to_pylist()
                    batch = batch.filter(pa.array([keyed_hash(0, purpose, id_) < below for id_ in ids]))
                yield from batch.to_pylist()


def texts(corpus: Location, split: str, sample_bytes: int) -> Iterator[str]:
    """The texts of a sample."""
    return (row["text"] for row in sample(corpus, split, sample_bytes))


def _text_bytes(corpus: Location, part: str) -> int:
    """How much text a part holds, as its metadata says: pages before compression, without the lengths in them."""
    with corpus.open(part) as file:
        metadata = pq.ParquetFile(file).metadata
    column = metadata.schema.names.index("text")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(max(0, group.column(column).total_uncompressed_size - OFFSET_BYTES * group.num_rows) for group in groups)
