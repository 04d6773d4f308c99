"""Tokenizer and token store: no token lost or made, the same bytes whoever built them and however often killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from cluster.artifact import Artifact
from cluster.build import build
from cluster.errors import InputError
from cluster.specs import ScalingSpec, TokenizerSpec, TokensSpec
from cluster.store import Store
from pipelines.tokens.reader import TokenStore
from tests.conftest import ROOT
from tests.corpus.files import spec, write_corpus


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
    assert len(list(store.folder.glob("*.bin"))) > 2
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


def test_workers_do_not_show(line: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = {name: line[name] for name in ("corpus", "tokenizer")}
    one = build(
        TokensSpec(sequence_length=64), inputs, store=Store(tmp_path), scaling=ScalingSpec(data_workers=1), name="one"
    )
    assert one.record.files == line["tokens"].record.files


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
from cluster.build import build
from cluster.specs import ScalingSpec, TokenizerSpec, TokensSpec
from cluster.store import Store
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
        pause.wait(0.01)


def _kill_encoders(driver: subprocess.Popen[bytes]) -> int:
    """SIGKILL to every Ray worker that runs a task of the driver."""
    killed = 0
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "ray::" in " ".join(child.cmdline()) and "Map" in " ".join(child.cmdline()):
                child.kill()
                killed += 1
        except psutil.NoSuchProcess:
            continue
    return killed


def test_kills_leave_the_same_digests(tmp_path: Path) -> None:
    files = tmp_path / "files"
    write_corpus(files, documents=400)
    undisturbed = _drive(files, tmp_path / "undisturbed")

    assert undisturbed.wait(200) == 0
    root = tmp_path / "killed"
    for pattern in ("corpus-*/.work/chunk-*.json", "corpus-*/train/part-*.parquet", "tokens-*/train/shard-*.json"):
        driver = _drive(files, root)
        _wait_for(driver, root, pattern)
        if pattern.startswith("tokens"):
            _kill_encoders(driver)  # Ray runs their tasks again
            break
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert driver.wait(200) == 0
    for kind in ("corpus", "tokenizer", "tokens"):
        expected, found = (Store(tmp_path / name).list(kind)[0].record for name in ("undisturbed", "killed"))
        assert found.files == expected.files
