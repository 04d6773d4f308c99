"""Tokenizer and token store: no token lost or made, the same bytes whoever built them and however often killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.build import build
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec, TokenizerSpec, TokensSpec
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stage import build as tokens_stage
from pipelines.stages.tokens.stage import encode_part
from pipelines.stages.tokens.tokenizers.encoder import load
from tests.conftest import ROOT
from tests.corpus.files import spec, write_corpus

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("tokens")
    write_corpus(folder / "files")
    store = Store(folder / "artifacts")
    corpus = build(spec(folder / "files"), {}, store=store, name="line")
    tokenizer = build(TokenizerSpec(vocab_size=600), {"corpus": corpus}, store=store, name="line")
    tokens = build(TokensSpec(sequence_length=64), {"corpus": corpus, "tokenizer": tokenizer}, store=store, name="line")
    return {"corpus": corpus, "tokenizer": tokenizer, "tokens": tokens}


def _texts(corpus: Artifact, split: str) -> list[str]:
    parts = sorted((corpus.local() / split).glob("*.parquet"))
    return [text for part in parts for text in pq.read_table(part, columns=["text"]).column("text").to_pylist()]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_store_is_the_corpus_encoded(line: dict[str, Artifact], split: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(line["tokenizer"].local())
    texts = _texts(line["corpus"], split)
    expected = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    store = TokenStore(line["tokens"].local(), split)
    assert store.tokens(0, store.num_tokens).tolist() == [token for document in expected for token in document]
    assert store.documents.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert store.num_bytes == sum(len(text.encode()) for text in texts)
    first = store.tokens(int(store.documents[1]), int(store.documents[2]) - 1)
    assert tokenizer.decode(first) == texts[1]


def test_sequences_tile_the_store_across_shards(line: dict[str, Artifact]) -> None:
    store = TokenStore(line["tokens"].local(), "train")
    assert len([name for name in store.folder.names() if name.endswith(".bin")]) > 2
    assert store.num_sequences == (store.num_tokens - 1) // 64
    sequences = np.stack([store.sequence(i) for i in range(store.num_sequences)])
    assert sequences.shape == (store.num_sequences, 65)
    assert np.array_equal(sequences[:-1, -1], sequences[1:, 0])  # a label that ends one is the input of the next
    assert np.array_equal(sequences[:, :-1].reshape(-1), store.tokens(0, store.num_sequences * 64))


def test_tokenizer_knows_every_byte(line: dict[str, Artifact]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(line["tokenizer"].local())
    for text in ("naïve 中文 \U0001f600\x00\t\r\n", "  def f():\n\treturn 1", ""):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (len(tokenizer), tokenizer.eos_token) == (600, "<|endoftext|>")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=80) | st.sampled_from(["<|endoftext|>", "a<|endoftext|><|endoftext|>b"]), min_size=1))
def test_packing_loses_and_repeats_no_token(
    line: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """Any texts: the shard is their encodings with one end-of-text token after each, and it reads back as they were."""
    folder = tmp_path_factory.mktemp("part")
    (folder / "train").mkdir()
    pq.write_table(pa.table({"text": texts, "source": ["web"] * len(texts)}), folder / "train" / "part-00000.parquet")
    where = {"split": "train", "part": "part-00000.parquet", "shard": "train/shard-00000"}
    encoder = load(str(line["tokenizer"].local()))
    summary = encode_part(Location(folder), encoder, Location(folder / "out"), TokensSpec(sequence_length=64), **where)
    tokenizer, end = encoder.reference, encoder.eos_token_id
    found = np.fromfile(folder / "out" / "train" / "shard-00000.bin", dtype="<u2").tolist()
    assert found == [id_ for text in texts for id_ in [*tokenizer.encode(text, add_special_tokens=False).ids, end]]
    assert found.count(end) == len(texts) == summary["num_documents"]
    ends = np.fromfile(folder / "out" / "train" / "shard-00000.documents.idx", dtype="<i8").tolist()
    documents = [found[start : stop - 1] for start, stop in zip([0, *ends], ends, strict=False)]
    assert [tokenizer.decode(document) for document in documents] == texts


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_show(line: dict[str, Artifact], tmp_path: Path, workers: int) -> None:
    inputs = {name: line[name] for name in ("corpus", "tokenizer")}
    scaling = ScalingSpec(data_workers=workers)
    again = build(TokensSpec(sequence_length=64), inputs, store=Store(tmp_path), scaling=scaling, name="again")
    assert again.record.files == line["tokens"].record.files
    assert (again.metrics["encoder"], again.metrics["fallback_shards"]) == ("snaptokens", 0)


def test_progress_tells_tokens_and_speed(line: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = {name: line[name] for name in ("corpus", "tokenizer")}
    told: list[tuple[float, float, str, dict[str, float]]] = []
    context = Context(
        TokensSpec(sequence_length=64, packing="best_fit"), inputs, Location(tmp_path), ScalingSpec(), "x", "0" * 64,
        lambda *report: told.append(report),
    )  # fmt: skip
    metrics = tokens_stage(context)
    assert [report[0] for report in told] == list(range(1, int(told[-1][1]) + 1))
    assert told[-1][3]["tokens"] == metrics["train_tokens"] + metrics["heldout_tokens"]
    assert told[-1][3]["mb_per_second"] > 0
    assert 0 < metrics["padding_fraction"] < 0.2
    assert metrics["cuts"] > 0


def test_finished_shards_are_not_encoded_again(line: dict[str, Artifact], tmp_path: Path) -> None:
    """Killed after its last shard, and killed again before its clean-up: no shard is touched in either."""
    inputs = {name: line[name] for name in ("corpus", "tokenizer")}
    output = Location(tmp_path / "out")
    context = Context(TokensSpec(sequence_length=64), inputs, output, ScalingSpec(), "x", "0" * 64)
    for split in ("train", "heldout"):
        for number, part in enumerate(line["corpus"].location.names(split)):
            where = {"split": split, "part": part, "shard": f"{split}/shard-{number:05d}"}
            encoder = load(str(line["tokenizer"].local()))
            encode_part(line["corpus"].location, encoder, output, TokensSpec(sequence_length=64), **where)
    shards = {name: (output.path / name).stat().st_mtime_ns for name in output.walk() if name.endswith(".bin")}
    summaries = {name: output.read_bytes(name) for name in output.walk() if name.endswith(".json")}
    metrics = tokens_stage(context)
    for name, data in summaries.items():
        assert not output.exists(name)
        output.write_bytes(name, data)
    assert tokens_stage(context) == metrics == line["tokens"].metrics
    assert shards == {name: (output.path / name).stat().st_mtime_ns for name in shards}
    assert {name: output.digest(name) for name in output.walk()} == {
        name: entry.sha256 for name, entry in line["tokens"].record.files.items()
    }


def test_a_store_knows_its_tokenizer(line: dict[str, Artifact]) -> None:
    store = TokenStore(line["tokens"].local(), "train")
    store.require_tokenizer(line["tokenizer"].fingerprint)
    with pytest.raises(InputError, match="was encoded by tokenizer"):
        store.require_tokenizer("f" * 64)
    index = json.loads((line["tokens"].local() / "index.json").read_text())
    for split, entry in index["splits"].items():
        for shard in entry["shards"]:
            assert line["tokens"].record.files[f"{split}/{shard['file']}"].sha256 == shard["sha256"]


def test_what_cannot_be(line: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = {name: line[name] for name in ("corpus", "tokenizer")}
    with pytest.raises(InputError, match="longer than the whole train split"):
        build(TokensSpec(sequence_length=10**7), inputs, store=Store(tmp_path), name="x")
    with pytest.raises(InputError, match=r"only [0-9]+ pieces"):
        build(TokenizerSpec(vocab_size=60_000), {"corpus": line["corpus"]}, store=Store(tmp_path), name="x")
    with pytest.raises(InputError, match="no split"):
        TokenStore(line["tokens"].local(), "validation")


DRIVER = """
import sys
from cluster.core.build import build
from pipelines.specs import ScalingSpec, TokenizerSpec, TokensSpec
from cluster.core.storage.store import Store
from tests.corpus.files import spec

folder, root = sys.argv[1:]
store = Store(root)
corpus = build(spec(folder, part_bytes=20_000), {}, store=store, name="line")
tokenizer = build(TokenizerSpec(vocab_size=600), {"corpus": corpus}, store=store, name="line")
build(TokensSpec(sequence_length=64), {"corpus": corpus, "tokenizer": tokenizer}, store=store, name="line")
"""


def _drive(files: Path, root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(files), str(root)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def _wait_for(process: subprocess.Popen[bytes], root: Path, pattern: str) -> None:
    """Until a file appears below the staging place. Files send no events, so it is looked for."""
    pause = threading.Event()
    while not list((root / ".staging").glob(pattern)):
        assert process.poll() is None, "the driver ended before it could be killed"
        pause.wait(0.05)


def _kill_an_encoder(driver: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a Ray worker in the middle of a task of the driver; tasks are short, so it is looked for."""
    pause = threading.Event()
    while driver.poll() is None:
        for child in psutil.Process(driver.pid).children(recursive=True):
            try:
                if child.name().startswith("ray::Map"):
                    child.kill()
                    return
            except psutil.NoSuchProcess:
                continue
        pause.wait(0.005)
    raise AssertionError("the driver ended before a worker could be killed")


@pytest.mark.exhaustive
def test_kills_leave_the_same_digests(tmp_path: Path, ray_cluster: None) -> None:
    files = tmp_path / "files"
    write_corpus(files, documents=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["", str(files), str(tmp_path / "undisturbed")])
        exec(DRIVER, {})
    root = tmp_path / "killed"
    for pattern in ("corpus-*/train/part-*.parquet", "tokens-*/train/shard-*.json"):
        driver = _drive(files, root)
        _wait_for(driver, root, pattern)
        if pattern.startswith("tokens"):
            _kill_an_encoder(driver)  # Ray runs its task again
            break
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert driver.wait(600) == 0
    for kind in ("corpus", "tokenizer", "tokens"):
        expected, found = (Store(tmp_path / name).list(kind)[0].record for name in ("undisturbed", "killed"))
        assert found.files == expected.files
