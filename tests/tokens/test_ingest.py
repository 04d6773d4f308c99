"""Reading a token store while it is still being written: the same sequences in the same order, or a plain end."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.core.build import build
from cluster.core.errors import JobError, SpecError
from cluster.core.graph import record as record_graph
from cluster.core.storage.artifact import Artifact, Code, Parent, Record
from cluster.core.storage.draft import Draft
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, MixtureSpec, PretrainSpec, TokenizerSpec, TokensSpec
from pipelines.stages.tokens.ingest import GrowingStore
from pipelines.stages.tokens.reader import HEADER_FILE, TokenStore
from pipelines.stages.tokens.stage import assemble, describe, encode_part
from pipelines.stages.tokens.stream import TokenStream, open_stores, open_stream
from pipelines.stages.tokens.tokenizers.encoder import Encoder
from pipelines.stages.tokens.tokenizers.tokenizer import train
from tests.corpus.files import source

pytestmark = pytest.mark.heavy

LENGTH = 24
PARTS = 7
WINDOW = 2
SEED = 5
PACKINGS = ["concatenate", "best_fit"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    train((source(i, 3) for i in range(40)), 500).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return Encoder(folder)


class Writer:
    """Writes a store shard by shard, as the stage does, holding its lease; the stage's own loop is tested with Ray."""

    def __init__(self, store: Store, folder: Path, encoder: Encoder, packing: str) -> None:
        self.spec = TokensSpec(sequence_length=LENGTH, packing=packing)  # type: ignore[arg-type]
        self.store, self.encoder, self.folder = store, encoder, folder
        self.draft = Draft.of(self.spec, {}, store, "ingest")
        self.output = store.staging("tokens", "ingest", self.draft.fingerprint)
        self.lease = store.lease("tokens", self.draft.fingerprint)
        assert self.lease.acquire()
        self.header = describe(self.spec, encoder, "f" * 64)
        self.summaries: dict[str, list[dict[str, object]]] = {"heldout": [], "train": []}
        for split, parts in (("heldout", 1), ("train", PARTS)):
            (folder / split).mkdir(parents=True)
            for number in range(parts):
                texts = [source(100 * number + i, 1 + i % 9) for i in range(11 + number)]
                table = pa.table({"text": texts, "source": ["code"] * len(texts)})
                pq.write_table(table, folder / split / f"{number}.parquet")

    def begin(self) -> None:
        header = self.header | {"num_shards": {"heldout": 1, "train": PARTS}}
        self.output.write_bytes(HEADER_FILE, json.dumps(header).encode())

    def write(self, split: str, number: int) -> None:
        where = {"split": split, "part": f"{number}.parquet", "shard": f"{split}/shard-{number:05d}"}
        summary = encode_part(Location(self.folder), self.encoder, self.output, self.spec, **where)
        self.summaries[split].append(summary)

    def finish(self) -> Artifact:
        metrics = assemble(self.output, self.header, self.summaries)
        record = Record(
            kind="tokens", name="ingest", fingerprint=self.draft.fingerprint, revision=1, spec={},
            parents={"tokenizer": Parent("tokenizer", "t", "f" * 64)}, scaling={}, code=Code("", ""), versions={},
            started_at="", duration_seconds=0.0, metrics=metrics, files={},
        )  # fmt: skip
        artifact = self.store.commit(record, self.output)
        self.lease.release()
        return artifact


@pytest.fixture
def remote(s3_server: None) -> str:
    import s3fs

    fs = s3fs.S3FileSystem()
    if not fs.exists("ingest"):
        fs.mkdir("ingest")
    return "s3://ingest/artifacts"


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_run_that_begins_early_sees_what_one_that_waits_sees(
    where: str, packing: str, tmp_path: Path, encoder: Encoder, request: pytest.FixtureRequest
) -> None:
    store = Store(tmp_path / "artifacts" if where == "local" else f"{request.getfixturevalue('remote')}-{packing}")
    writer = Writer(store, tmp_path / "corpus", encoder, packing)
    may_read, seen = threading.Semaphore(0), []

    def write() -> None:  # never further than the reader has come
        writer.begin()
        writer.write("heldout", 0)
        for number in range(PARTS):
            writer.write("train", number)
            if number % WINDOW == WINDOW - 1:
                assert may_read.acquire(timeout=240)
        writer.finish()

    thread = threading.Thread(target=write)
    thread.start()
    heldout = open_stores(writer.draft, "heldout")["tokens"]
    early = open_stream(writer.draft, SEED, 10**6, WINDOW)
    growing = early.stores["tokens"]
    assert isinstance(growing, GrowingStore)
    while not growing.is_complete:
        known = int(growing.sequence_starts[len(growing.sequence_starts[:-1]) // WINDOW * WINDOW])
        seen += early.read(len(seen), known).tolist() if known > len(seen) else []
        may_read.release()
        growing.grow()
    thread.join()
    artifact = writer.draft.finished()
    assert artifact is not None
    late = open_stream(artifact, SEED, 10**6, WINDOW)
    size = late.stores["tokens"].num_sequences
    assert WINDOW * 20 < len(seen) < size
    assert late.read(0, len(seen)).tolist() == seen
    for stream in (late, early):  # the rest of this epoch and the two after it
        assert stream.read(len(seen), 3 * size).tolist() == late.read(len(seen), 3 * size).tolist()
        assert stream.epochs(3 * size) == {"epochs": 3.0}
        assert stream.num_labels(0, size) == late.num_labels(0, size)
    for epoch in range(3):
        assert sorted(late.order.samples(epoch * size, (epoch + 1) * size)[1].tolist()) == list(range(size))
    assert late.read(0, size).tolist() != late.read(size, 2 * size).tolist()
    assert heldout.num_sequences == open_stores(artifact, "heldout")["tokens"].num_sequences > 0
    every = [heldout.sequence(number).tolist() for number in range(heldout.num_sequences)]
    final = TokenStore.open(artifact, "heldout")
    assert every == [final.sequence(number).tolist() for number in range(final.num_sequences)]


def test_a_first_epoch_stays_within_its_windows(tmp_path: Path, encoder: Encoder) -> None:
    writer = Writer(Store(tmp_path / "artifacts"), tmp_path / "corpus", encoder, "concatenate")
    writer.write("heldout", 0)
    for number in range(PARTS):
        writer.write("train", number)
    artifact = writer.finish()
    stream = open_stream(artifact, SEED, 10, WINDOW)
    starts = stream.stores["tokens"].sequence_starts.tolist()
    for first in range(0, PARTS, WINDOW):
        begin, end = starts[first], starts[min(first + WINDOW, PARTS)]
        found = stream.order.samples(begin, end)[1]
        assert sorted(found.tolist()) == list(range(begin, end)) != found.tolist()
    whole = open_stream(artifact, SEED, 10)
    assert np.any(whole.order.samples(0, starts[WINDOW])[1] >= starts[WINDOW])


def test_a_builder_that_ends_without_an_artifact_ends_its_reader(tmp_path: Path, encoder: Encoder) -> None:
    writer = Writer(Store(tmp_path / "artifacts"), tmp_path / "corpus", encoder, "concatenate")
    writer.begin()
    writer.write("heldout", 0)
    writer.write("train", 0)
    stream: TokenStream = open_stream(writer.draft, SEED, 10, WINDOW)
    writer.lease.release()
    with pytest.raises(JobError, match=r"tokens/ingest-.* is no longer being built"):
        stream.read(0, 1)
    with pytest.raises(JobError, match="no longer being built"):
        GrowingStore(Draft.of(TokensSpec(sequence_length=99), {}, writer.store, "other"), "train")
    with pytest.raises(JobError, match="no longer being built"):
        writer.draft.wait()


def test_a_mixture_has_no_windows(tmp_path: Path) -> None:
    def lines(step):  # type: ignore[no-untyped-def]
        corpus = step(CorpusSpec())
        tokenizer = step(TokenizerSpec(), corpus=corpus)
        tokens = step(TokensSpec(), corpus=corpus, tokenizer=tokenizer)
        step(PretrainSpec(window_shards=3), tokens=step(MixtureSpec(), web=tokens))

    with pytest.raises(SpecError, match=r"pretrain.window_shards: the order of a mixture"):
        record_graph("lines", lines, {}, Store(tmp_path))


def test_a_reader_commits_only_after_what_it_read(tmp_path: Path) -> None:
    """Else a killed builder would leave an artifact whose parent is nowhere."""
    from tests.core.toys import CountSpec, WordsSpec

    store = Store(tmp_path)
    draft = Draft.of(WordsSpec(words=("a",)), {}, store, "toys")
    draft.location.write_bytes("0.txt", b"a")
    with pytest.raises(JobError, match="no longer being built"):
        build(CountSpec(), {"words": draft}, store=store, name="toys")
    assert store.list("count") == []
