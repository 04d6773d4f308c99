"""From an answer to the training documents that share long runs of words with it, as the command line shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, TextSource, TokenizerSpec
from pipelines.stages.corpus import ngram_index
from pipelines.stages.corpus.ngram_index import FOUND_WORDS, NgramIndex, winnowed
from pipelines.stages.corpus.shared_text import answer_in, shared_runs
from tests.cli.command import ctl
from tests.made import make

WORDS = st.lists(st.sampled_from("abcd"), max_size=40)


def of(words: list[str]) -> list[bytes]:
    return [word.encode() for word in words]


@given(WORDS, WORDS, st.integers(2, 6))
def test_runs_are_those_that_a_search_of_all_finds(own: list[str], others: list[str], least: int) -> None:
    text = " ".join(others)
    shared = {(a, b) for a in range(len(own)) for b in range(a + least, len(own) + 1) if _in(own[a:b], others)}
    found = shared_runs(of(own), of(others), least)
    assert set(found) <= shared and text is not None
    assert {place for run in found for place in range(*run)} == {place for run in shared for place in range(*run)}
    longest = max((b - a for a, b in shared), default=0)
    assert max((b - a for a, b in found), default=0) == longest


def _in(run: list[str], words: list[str]) -> bool:
    return any(words[place : place + len(run)] == run for place in range(len(words) - len(run) + 1))


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=FOUND_WORDS, max_size=30),
    st.lists(st.text("xyz", min_size=1, max_size=3), max_size=20),
    st.lists(st.text("uvw", min_size=1, max_size=3), max_size=20),
)
def test_a_long_run_has_an_ngram_that_is_kept(run: list[str], left: list[str], right: list[str]) -> None:
    one, other = " ".join([*left, *run]), " ".join([*run, *right])
    assert set(winnowed(one).tolist()) & set(winnowed(other).tolist())


@pytest.mark.heavy
def test_an_answer_leads_to_the_documents_and_their_licences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    taken = "the quick brown fox jumps over the lazy dog and then it sleeps until the morning comes again"
    texts = [f"document {n} has words of its own " + " ".join(f"w{n}x{k}" for k in range(60)) for n in range(50)]
    texts[7] = f"{texts[7]} {taken.upper()}!"
    texts[31] = f"{' '.join(taken.split()[:14])}, {texts[31]}"
    columns = {
        "id": [f"files/{n}.txt" for n in range(50)],
        "text": texts,
        "source": ["made"] * 50,
        "license": ["mit"] * 31 + ["unknown"] * 19,
        "url": [""] * 50,
        "metadata": ["{}"] * 50,
    }
    folder = tmp_path / "rows"
    folder.mkdir()
    for number, rows in enumerate((slice(0, 20), slice(20, 50))):
        part = {name: values[rows] for name, values in columns.items()}
        pq.write_table(pa.table(part), folder / f"{number}.parquet", row_group_size=8)
    files = {f"train/{number}.parquet": (folder / f"{number}.parquet").read_bytes() for number in (0, 1)}
    store = Store(tmp_path / "store")
    corpus = make(store, CorpusSpec(sources=(TextSource(path="files"),)), {}, files, "made")
    model = make(store, TokenizerSpec(), {"corpus": corpus}, {"x": b""}, "made")
    answer = tmp_path / "answer.json"
    text = f"It is said: {taken}. And more."
    answer.write_text(json.dumps({"choices": [{"message": {"content": text}}]}))
    done = ctl("artifacts", "sources", model.record.ref, str(answer), "--json", "--store", store.root.url)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert (first["document"], first["license"], first["longest_words"]) == ("files/7.txt", "MIT", 18)
    assert first["text"] == f"{taken}." and 0.7 < first["share"] < 1 and first["corpus"] == corpus.record.ref
    assert (second["document"], second["license"], second["longest_words"]) == ("files/31.txt", "unknown", 14)
    shown = ctl("artifacts", "sources", model.record.ref, str(answer), "--words", "15", "--store", store.root.url)
    assert "files/7.txt" in shown.stdout and "files/31.txt" not in shown.stdout and "MIT" in shown.stdout
    found = NgramIndex.of(corpus).candidates(text)
    assert {7, 31} == set(found) and list((tmp_path / "cache" / "ngrams").iterdir())
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(ngram_index, "BUFFERED", 50)
    assert NgramIndex.of(corpus).candidates(text) == found
    answer.write_text("nothing of it")
    shown = ctl("artifacts", "sources", corpus.record.ref, str(answer), "--store", store.root.url)
    assert "No training document shares 12 words in a row" in shown.stdout


def test_a_saved_answer_is_what_was_written() -> None:
    chat = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
    assert answer_in(json.dumps(chat)) == "a\n\nb"
    assert answer_in(json.dumps({"response": {"status_code": 200, "body": {"choices": [{"text": "c"}]}}})) == "c"
    assert answer_in(json.dumps({"output": [{"content": [{"type": "output_text", "text": "d"}]}]})) == "d"
    assert answer_in("plain") == "plain" and answer_in("[1]") == "[1]"
