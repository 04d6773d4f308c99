"""Files that break off, of every kind: what was read stays, what is lost is counted by size and named; and same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, JatsSource, JsonLinesSource, ParquetSource, TextSource, WarcSource
from pipelines.specs import WikipediaSource as Wiki
from pipelines.stages.corpus.chunks import plan_chunks
from pipelines.stages.corpus.cleaning import Corpus, Summary, clean
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.stage import _check_readable
from pipelines.stages.corpus.tally import BrokenFile, Tally, add_up
from tests.corpus.files import source
from tests.corpus.test_files import PACK, tar_of
from tests.corpus.test_warc import HTML, http, record


def cleaned(spec: CorpusSpec, place: Path) -> list[Summary]:
    """The chunks of a corpus, cleaned here."""
    work = Location(place / "work")
    return [clean(Corpus(spec, work, work / "index", work / "output"), chunk) for chunk in plan_chunks(spec)]


def corpus(source: Source, **fields: float) -> CorpusSpec:
    return CorpusSpec(sources=(source,), rules=(), **fields)  # type: ignore[arg-type]


def lines(file: int, count: int = 1500) -> bytes:
    return b"".join(json.dumps({"text": source(file * 2000 + row, 2)}).encode() + b"\n" for row in range(count))


@pytest.mark.parametrize("ending", PACK)
def test_files_that_are_all_cut(tmp_path: Path, ending: str) -> None:
    """As a download that stopped: an eighth of each of five files."""
    (tmp_path / "files").mkdir()
    for number in range(5):
        packed = PACK[ending](lines(number))
        (tmp_path / "files" / f"p{number}.jsonl{ending}").write_bytes(packed[: len(packed) // 8])
    spec = corpus(JsonLinesSource(path=str(tmp_path / "files")))
    summaries = cleaned(spec, tmp_path)
    with pytest.raises(InputError) as caught:
        _check_readable(spec, summaries)
    assert caught.value.exit_code == 3
    told = str(caught.value)
    assert "5 of 5 " in told and "p0.jsonl" in told and "cut off" in told and "max_bad_fraction" in told


def test_a_compressed_file_of_no_bytes_was_cut_and_an_empty_one_was_not(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    files = {"none.jsonl.gz": b"", "empty.jsonl.gz": PACK[".gz"](b""), "empty.jsonl": b"", "full.jsonl": lines(1, 9)}
    for name, data in files.items():
        (tmp_path / "files" / name).write_bytes(data)
    spec = corpus(JsonLinesSource(path=str(tmp_path / "files")))
    tally = add_up(summary.tally for summary in cleaned(spec, tmp_path))
    assert [file.name for file in tally.broken_files] == ["none.jsonl.gz"]
    assert tally.steps[0].entered == 10 and tally.steps[0].rejected == 1


@pytest.mark.parametrize(("cut", "refused"), [(1, False), (4, True)])
def test_a_cut_file_counts_as_one_of_mean_size(tmp_path: Path, cut: int, refused: bool) -> None:
    """Of forty files: as little as is left of it, a file that breaks off is a file."""
    (tmp_path / "files").mkdir()
    for number in range(40):
        packed = PACK[".gz"](lines(number, 150))
        (tmp_path / "files" / f"{number}.jsonl.gz").write_bytes(packed[: len(packed) // 8] if number < cut else packed)
    spec = corpus(JsonLinesSource(path=str(tmp_path / "files")))
    summaries = cleaned(spec, tmp_path)
    (tally,) = [add_up(summary.tally for summary in summaries)]
    assert [file.name for file in tally.broken_files] == [f"{number}.jsonl.gz" for number in range(cut)]
    assert tally.lost_fraction() == pytest.approx(cut / 40, rel=0.05)
    if refused:
        with pytest.raises(InputError, match=r"4 of 40 files break off .* 0\.jsonl\.gz \(.*cut off"):
            _check_readable(spec, summaries)
    else:
        _check_readable(spec, summaries)


def dump(pages: int) -> bytes:
    page = "<page><title>{0}</title><ns>0</ns><id>{0}</id><revision><id>1</id><text>{1}</text></revision></page>\n"
    return f"<mediawiki>{''.join(page.format(n, source(n, 3)) for n in range(pages))}</mediawiki>".encode()


def parquet(tmp_path: Path) -> bytes:
    pq.write_table(pa.table({"text": [source(n, 3) for n in range(100)]}), tmp_path / "whole", row_group_size=10)
    return (tmp_path / "whole").read_bytes()


def archive() -> bytes:
    return b"".join(record(http(HTML.encode()), number=number) for number in range(40))


def array() -> bytes:
    return json.dumps([{"text": source(n, 3)} for n in range(100)]).encode()


KINDS: dict[str, tuple[Callable[[Path], Source], Callable[[Path], bytes]]] = {
    "a.jsonl": (lambda path: JsonLinesSource(path=str(path)), lambda _: lines(1, 100)),
    "a.json": (lambda path: JsonLinesSource(path=str(path)), lambda _: array()),
    "a.parquet": (lambda path: ParquetSource(path=str(path)), parquet),
    "a.xml": (lambda path: Wiki(path=str(path)), lambda _: dump(100)),
    "bulk.xml": (
        lambda path: JatsSource(path=str(path)),
        lambda _: b"".join(b"<article><body><p>%s</p></body></article>" % source(n, 9).encode() for n in range(9)),
    ),
    "a.warc": (lambda path: WarcSource(path=str(path)), lambda _: archive()),
    "a.tar": (
        lambda path: JatsSource(path=str(path), suffixes=(".tar",)),
        lambda _: tar_of("a.nxml", b"<article><body><p>" + source(1, 400).encode() + b"</p></body></article>"),
    ),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("ending", ["", *PACK])
@pytest.mark.parametrize("kept", [0.43, 0.83])
def test_every_kind_of_file_that_breaks_off(tmp_path: Path, name: str, ending: str, kept: float) -> None:
    make, whole = KINDS[name]
    data = whole(tmp_path)
    if not ending and name == "a.jsonl":
        data = data[: int(kept * len(data)) // 100 * 100 + 30].rstrip(b"\n}")
    packed = PACK[ending](data) if ending else data
    path = tmp_path / "files" / f"{name}{ending}"
    path.parent.mkdir()
    path.write_bytes(packed[: int(kept * len(packed))] if ending or name != "a.jsonl" else packed)
    spec = corpus(make(path), max_bad_fraction=0.5)
    summaries = cleaned(spec, tmp_path)
    tally = add_up(summary.tally for summary in summaries)
    assert [(file.name, file.size_bytes) for file in tally.broken_files] == [(path.name, path.stat().st_size)]
    assert tally.lost_fraction() == 1
    with pytest.raises(InputError, match=rf"(?s){path.name}"):
        _check_readable(spec, summaries)


def test_sizes_that_nobody_knows() -> None:
    assert Tally().lost_fraction() == 0
    gone = [BrokenFile("a", -1, 0, "gone"), BrokenFile("b", -1, 0, "gone")]
    assert Tally(files=4, file_bytes=0, broken_files=gone).lost_fraction() == 0.5
    assert Tally(files=4, file_bytes=200, broken_files=gone).lost_fraction() == 0.5
    large = BrokenFile("a", 1000, 3, "cut off")
    assert Tally(files=11, file_bytes=2000, broken_files=[large]).lost_fraction() == 0.5


def test_what_nobody_foresaw_costs_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.stages.corpus.readers import text

    def decode(data: bytes, declared: str) -> None:
        raise RecursionError("of ours")

    monkeypatch.setattr(text, "decode", decode)
    (tmp_path / "a.txt").write_text("one")
    (summary,) = cleaned(corpus(TextSource(path=str(tmp_path / "a.txt"))), tmp_path)
    (example,) = [shown for of in summary.tally.examples.values() for shown in of]
    assert (example.id, example.note) == ("a.txt", "unreadable: RecursionError: of ours")


def test_the_report_warns(tmp_path: Path, ray_cluster: None) -> None:
    """Of a file that breaks off below the threshold, of characters that could not be read, of ids that are shared."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(source(1 if folder == "one" else 2))
        for number in range(20):
            (tmp_path / folder / f"{folder}{number}.txt").write_text(source(1000 * ord(folder[0]) + number))
    (tmp_path / "one" / "odd.txt").write_bytes(source(7).encode() + b"\xff\xff")
    (tmp_path / "one" / "cut.txt.gz").write_bytes(PACK[".gz"](source(9).encode())[:-200])
    rows = [{"text": source(500 + number), "key": number // 2} for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = (
        TextSource(path=str(tmp_path / "one"), suffixes=(".txt",)),
        TextSource(path=str(tmp_path / "two"), suffixes=(".txt",)),
        JsonLinesSource(path=str(tmp_path / "rows.jsonl"), id_field="key"),
    )
    told: list[str] = []
    spec = CorpusSpec(sources=sources, rules=(), heldout_fraction=0.3)
    made = build(spec, {}, store=Store(tmp_path / "artifacts"), name="x", notice=told.append)
    report = json.loads((made.local() / "report.json").read_text())
    assert report["warnings"] == told
    assert [file["name"] for file in report["broken_files"]] == ["cut.txt.gz"]
    assert report["same_ids"] == {
        "documents": 8,
        "examples": ["rows.jsonl#0", "rows.jsonl#1", "rows.jsonl#2", "same.txt"],
    }
    broken, replaced, same = told
    assert (
        broken.startswith("1 of 45 files break off") and "cut.txt.gz (the compressed file ends in the middle" in broken
    )
    assert replaced.startswith("2 characters of 1 documents") and "`encoding`" in replaced
    assert same.startswith("8 documents have an id that another one has, such as rows.jsonl#0")
    assert report["flow"]["duplicates"] == 0 and report["flow"]["train"] + report["flow"]["heldout"] == 49
