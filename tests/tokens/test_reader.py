"""The reader: what sequences hold under both packings, and the same from an object store through a bounded cache."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import TokensSpec
from pipelines.stages.tokens.reader import PADDING, TokenStore
from pipelines.stages.tokens.shards import ArrayFolder, BlockCache, RemoteArray
from pipelines.stages.tokens.stage import SPLITS, assemble, describe, encode_part
from pipelines.stages.tokens.tokenizers.encoder import Encoder
from pipelines.stages.tokens.tokenizers.tokenizer import train
from tests.corpus.files import source

LENGTH = 32
TEXTS = [source(i, lines) for i, lines in enumerate([1, 2, 1, 30, 1, 1, 3, 2, 1, 12] * 6)] + ["", "a"] * 20


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    train(iter(TEXTS), 600).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return Encoder(folder)


def build_store(folder: Path, encoder: Encoder, texts: list[str], packing: str, parts: int = 3) -> Path:
    """A token store of these texts in both splits, without Ray."""
    spec = TokensSpec(sequence_length=LENGTH, packing=packing)  # type: ignore[arg-type]
    output, summaries = Location(folder / "tokens"), {}
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
        shards = []
        for number in range(parts):
            mine = texts[number::parts]
            table = pa.table({"text": mine, "source": [("web", "code")[len(text) % 2] for text in mine]})
            pq.write_table(table, folder / split / f"{number}.parquet")
            where = {"split": split, "part": f"{number}.parquet", "shard": f"{split}/shard-{number:05d}"}
            shards.append(encode_part(Location(folder), encoder, output, spec, **where))
        summaries[split] = shards
    assemble(output, describe(spec, encoder, "f" * 64), summaries)
    return output.path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return {packing: build_store(folder / packing, encoder, TEXTS, packing) for packing in ("concatenate", "best_fit")}


def check(store: TokenStore) -> None:
    """What holds of every store: sequences are what their segments and documents say."""
    flat = store.tokens(0, store.num_tokens)
    starts = set(store.documents.tolist())
    for index in range(store.num_sequences):
        sequence, segments, bounds = store.sequence(index), store.segments(index), store.documents_of(index)
        assert sequence.shape == (LENGTH + 1,)
        pieces = np.concatenate([flat[start:stop] for start, stop in segments])
        assert np.array_equal(sequence[: bounds[-1]], pieces)
        assert (sequence[bounds[-1] :] == PADDING).all()
        assert store.num_labels(index) == bounds[-1] - 1
        assert bounds[0] == 0
        assert (np.diff(bounds) > 0).all()
        places = np.concatenate([np.arange(start, stop) for start, stop in segments])  # in the flat tokens
        inner = {int(place) for place in bounds[1:-1]}
        begins = {at for at, place in enumerate(places.tolist()) if at and place in starts}
        assert begins <= inner
        if store.packing == "concatenate":
            assert begins == inner


def test_concatenate(stores: dict[str, Path]) -> None:
    store = TokenStore(stores["concatenate"], "train")
    check(store)
    assert store.num_sequences == (store.num_tokens - 1) // LENGTH
    flat = store.tokens(0, store.num_tokens)
    assert all(
        np.array_equal(store.sequence(i), flat[i * LENGTH : (i + 1) * LENGTH + 1]) for i in range(store.num_sequences)
    )


def test_best_fit_cuts_nothing_that_fits(stores: dict[str, Path], encoder: Encoder) -> None:
    store = TokenStore(stores["best_fit"], "train")
    check(store)
    segments = np.concatenate([store.segments(index) for index in range(store.num_sequences)])
    covered = np.sort(np.concatenate([np.arange(start, stop) for start, stop in segments]))
    assert np.array_equal(covered, np.arange(store.num_tokens))
    documents = {
        (start, stop)
        for start, stop in zip(store.documents.tolist(), store.documents.tolist()[1:], strict=False)
        if stop - start <= LENGTH + 1
    }
    assert len(documents) > 30
    assert documents <= {(int(start), int(stop)) for start, stop in segments}
    order = [text for part in range(3) for text in TEXTS[part::3]]  # as they lie in the shards
    number = order.index(TEXTS[0])
    whole = next(
        (index, place)
        for index in range(store.num_sequences)
        for place, (start, _) in enumerate(store.segments(index).tolist())
        if start == store.documents[number]
    )
    bounds = store.documents_of(whole[0])
    piece = store.sequence(whole[0])[bounds[whole[1]] : bounds[whole[1] + 1]]
    assert order[number].startswith(encoder.reference.decode(piece.tolist()))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("ab \n", max_size=120), min_size=40, max_size=60), st.sampled_from(["concatenate", "best_fit"]))
def test_any_texts(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory, texts: list[str], packing: str) -> None:
    check(TokenStore(build_store(tmp_path_factory.mktemp("any"), encoder, texts, packing), "train"))


def test_what_sequences_cover(stores: dict[str, Path]) -> None:
    store = TokenStore(stores["concatenate"], "train")
    found = list(store.covered(np.array([7, 0, 1, 3, 4, 5])))
    assert found == [(0, 2 * LENGTH + 1), (3 * LENGTH, 6 * LENGTH + 1), (7 * LENGTH, 8 * LENGTH + 1)]
    assert list(store.covered(np.array([], dtype=np.int64))) == []
    packed = TokenStore(stores["best_fit"], "train")
    assert list(packed.covered(np.arange(packed.num_sequences))) == [(0, packed.num_tokens)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blocks"


@pytest.fixture(scope="module")
def s3(s3_server: None) -> Location:
    import s3fs

    s3fs.S3FileSystem().mkdir("token-stores")
    return Location("s3://token-stores")


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_an_object_store_reads_the_same(stores: dict[str, Path], s3: Location, cache: Path, packing: str) -> None:
    place = s3 / packing
    place.put(stores[packing])
    local, remote = TokenStore(stores[packing], "train"), TokenStore.open(place, "train")
    assert not cache.exists(), "nothing is fetched before it is read"
    check(remote)
    assert np.array_equal(remote.tokens(0, remote.num_tokens), local.tokens(0, local.num_tokens))
    place.remove()
    check(remote)  # from the blocks of the cache
    check(TokenStore.open(stores[packing], "train"))


FLAT = np.arange(100_000, dtype="<i8")


def remote_array(place: Path, cache: Path, limit_bytes: int = 1 << 20, block_bytes: int = 1 << 12) -> RemoteArray:
    files = ArrayFolder(Location(f"file://{place}"), "x", BlockCache(cache, limit_bytes, block_bytes))
    found = files.open("flat.bin", FLAT.dtype, len(FLAT))
    assert isinstance(found, RemoteArray)
    return found


def cached_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())


def test_ranges_of_a_remote_array(tmp_path: Path) -> None:
    FLAT.tofile(tmp_path / "flat.bin")
    array = remote_array(tmp_path, tmp_path / "cache")
    for start, stop in [(0, 0), (0, 1), (511, 513), (512, 1024), (99_999, 100_000), (5, 5000), (99_000, 200_000)]:
        assert np.array_equal(array[start:stop], FLAT[start:stop])
    assert len(array) == len(FLAT)


def test_the_cache_keeps_its_bound_and_what_was_used_last(tmp_path: Path) -> None:
    FLAT.tofile(tmp_path / "flat.bin")
    cache = tmp_path / "cache"
    array = remote_array(tmp_path, cache, limit_bytes=10 << 12)
    largest = 0
    for block in range(100):
        assert np.array_equal(array[block * 512 : block * 512 + 4], FLAT[block * 512 : block * 512 + 4])
        fresh = remote_array(tmp_path, cache, limit_bytes=10 << 12)
        assert fresh[7:8] == [7]  # the first block is used again and again
        largest = max(largest, cached_bytes(cache))
    assert largest <= 10 << 12
    kept = {int(path.name) for path in (cache / "x" / "flat.bin").iterdir()}
    assert {0, 99} < kept
    assert max(kept - {0}) - min(kept - {0}) < 10


def _read_at_random(place: Path, cache: Path, seed: int) -> int:
    array = remote_array(place, cache, limit_bytes=20 << 12)
    wrong = 0
    for start in np.random.default_rng(seed).integers(0, 99_000, 400).tolist():
        wrong += not np.array_equal(array[start : start + 700], FLAT[start : start + 700])
    return wrong


@pytest.mark.heavy
def test_processes_share_a_cache_that_is_too_small(tmp_path: Path) -> None:
    FLAT.tofile(tmp_path / "flat.bin")
    cache = tmp_path / "cache"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.starmap(_read_at_random, [(tmp_path, cache, seed) for seed in range(3)]) == [0, 0, 0]
    assert cached_bytes(cache) <= (20 + 3) << 12  # each process may be a block above
    assert not list(cache.rglob("*.partial-*"))


def test_damaged_blocks_are_fetched_again_and_damaged_files_told(tmp_path: Path) -> None:
    FLAT.tofile(tmp_path / "flat.bin")
    assert remote_array(tmp_path, tmp_path / "cache")[0:3].tolist() == [0, 1, 2]
    os.truncate(tmp_path / "cache" / "x" / "flat.bin" / "000000000", 0)
    assert remote_array(tmp_path, tmp_path / "cache")[0:3].tolist() == [0, 1, 2]
    os.truncate(tmp_path / "flat.bin", 8 * 99_999)
    with pytest.raises(InputError, match="not of 800000 bytes"):
        remote_array(tmp_path, tmp_path / "cache")[99_998:99_999]
    os.unlink(tmp_path / "flat.bin")
    with pytest.raises(InputError, match="no such file"):
        remote_array(tmp_path, tmp_path / "cache")[50_000:50_001]


def test_a_local_shard_of_another_size_is_told(stores: dict[str, Path], tmp_path: Path) -> None:
    Location(tmp_path).put(stores["concatenate"])
    os.truncate(tmp_path / "train" / "shard-00001.bin", 10)
    with pytest.raises(InputError, match=r"shard-00001\.bin: missing or not of"):
        check(TokenStore(tmp_path, "train"))


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_statistics_count_every_token(stores: dict[str, Path], encoder: Encoder, packing: str) -> None:
    for split, found in json.loads((stores[packing] / "statistics.json").read_text()).items():
        store = TokenStore(stores[packing], split)
        lengths = np.diff(store.documents)
        counts = np.bincount(store.tokens(0, store.num_tokens), minlength=encoder.vocab_size)
        assert (
            found["unseen_pieces"] == (counts == 0).sum()
            and found["rare_pieces"] == ((counts > 0) & (counts < 100)).sum()
        )
        assert found["length_bins"] == {
            str(bits): count for bits in range(64) if (count := sum(int(n).bit_length() == bits for n in lengths))
        }
        assert found["longest_tokens"] == lengths.max()
        sources: dict[str, dict[str, int]] = {}
        for text in TEXTS:
            entry = sources.setdefault(("web", "code")[len(text) % 2], {"documents": 0, "tokens": 0, "bytes": 0})
            tokens = len(encoder.reference.encode(text, add_special_tokens=False).ids) + 1
            for name, number in (("documents", 1), ("tokens", tokens), ("bytes", len(text.encode()))):
                entry[name] += number
        assert found["sources"] == sources
        assert {name: found[name] for name in ("documents", "tokens", "bytes")} == {
            "documents": store.num_documents,
            "tokens": store.num_tokens,
            "bytes": store.num_bytes,
        }
