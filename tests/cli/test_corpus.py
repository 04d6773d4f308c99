"""`ctl corpus`, and the page of the report in a real browser where the machine has one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, JsonLinesSource, Length, NotEmpty, TokenizerSpec, TokensSpec
from tests.cli.command import ctl
from tests.corpus.files import source

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCRIPT = "</script><script>document.title = 'taken over'</script>"  # what a document may hold


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """A corpus of forty documents and its tokenizer, under one name."""
    folder = tmp_path_factory.mktemp("corpus")
    names = ("MIT", "The MIT License", "License :: OSI Approved :: MIT License")
    records = [{"text": f"{source(number, 5)} {SCRIPT}", "license": names[number % 3]} for number in range(40)]
    records += [{"text": records[0]["text"]}, {"text": "tiny"}, {"text": None}]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    store = Store(folder / "artifacts")
    spec = CorpusSpec(
        sources=(JsonLinesSource(path=str(folder), name="mine"),),
        rules=(NotEmpty(), Length(min_characters=10)),
        heldout_fraction=0.3,
    )
    corpus = build(spec, {}, store=store, name="shared")
    tokenizer = build(TokenizerSpec(vocab_size=300), {"corpus": corpus}, store=store, name="shared")
    build(TokensSpec(sequence_length=16), {"corpus": corpus, "tokenizer": tokenizer}, store=store, name="shared")
    return folder / "artifacts"


def test_report_and_stats(root: Path) -> None:
    found = json.loads(ctl("corpus", "report", "shared", "--json", "--store", root).stdout)
    assert {name: found["flow"][name] for name in ("in", "rejected", "duplicates")} == {
        "in": 43,
        "rejected": 2,
        "duplicates": 1,
    }
    assert found["licenses"] == {"MIT": 40}
    said = ctl("corpus", "report", "shared", "--store", root).stdout
    assert re.search(r"licence +documents\s+MIT +40", said)
    assert re.search(r"length +few_characters +1", said)
    assert re.search(r"read +43 +1 +0 +0 +42", said)
    assert "report.html" in said
    stats = json.loads(ctl("corpus", "stats", "shared", "--json", "--store", root).stdout)
    assert (stats["sources"], sum(stats["documents"].values())) == ({"mine": 40}, 40)
    said = ctl("corpus", "stats", "shared", "--store", root).stdout
    assert "MIT" in said
    ((ref, splits),) = stats["tokens"].items()
    assert ref.startswith("tokens/shared-") and ref in said
    for split, of in splits.items():
        assert of["documents"] == stats["documents"][split] == sum(of["length_bins"].values())
        assert of["sources"] == {"mine": {name: of[name] for name in ("documents", "tokens", "bytes")}}
        assert of["bytes"] == stats["bytes"][split]
    assert re.search(rf"mine +{splits['train']['tokens']:,} ", said)


def test_sample_and_search(root: Path) -> None:
    def rows(*arguments: str) -> list[dict[str, str]]:
        return list(json.loads(ctl("corpus", *arguments, "--json", "--store", root).stdout))

    drawn = [rows("sample", "shared", "-n", "5", "--seed", str(seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({row["id"] for row in drawn[0]}) == 5
    assert "def function_" in ctl("corpus", "sample", "shared", "--store", root).stdout
    found = [
        row for part in ("train", "heldout") for row in rows("search", "shared", r"def function_7_\d", "--part", part)
    ]
    assert [row["id"] for row in found] == ["records.jsonl#8"]
    assert found[0]["match"].startswith("def function_7_0(")
    assert not rows("search", "shared", "FUNCTION_7_")
    assert len(rows("search", "shared", "FUNCTION_", "-i", "-n", "3")) == 3
    assert [row["reason"] for row in rows("search", "shared", "few_", "--part", "rejected")] == ["few_characters"]
    assert "Nothing matches" in ctl("corpus", "search", "shared", "nowhere", "--store", root).stdout


def test_mistakes(root: Path) -> None:
    for arguments, code, words in (
        (["report", "nothing"], 3, ["nothing"]),
        (["report", "tokenizer/shared"], 3, ["tokenizer/shared", "not a corpus"]),
        (["sample", "shared", "--part", "trian"], 2, ["trian", "'train'"]),
        (["search", "shared", "("], 3, ["'('", "regular expression"]),
    ):
        done = ctl("corpus", *arguments, "--store", root)
        assert done.returncode == code, done.stderr
        assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
@pytest.mark.parametrize("tokens", [False, True])
def test_the_page_opens_in_a_browser(root: Path, tmp_path: Path, tokens: bool) -> None:
    (page,) = root.glob("corpus/shared-*/report.html")
    if tokens:
        page = tmp_path / "page.html"
        assert str(page) in ctl("corpus", "report", "shared", "--page", page, "--store", root).stdout
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        shown, logged = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert not [line for line in logged.splitlines() if "CONSOLE" in line and "rror" in line]
    assert "<title>shared · corpus report</title>" in shown
    for words in ("Flow", "Why documents were rejected", "few_characters", "Documents to read", "def function_"):
        assert words in shown
    assert ("pieces never seen" in shown and "tokens/shared-" in shown) == tokens
