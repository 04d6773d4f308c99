"""What a spec names is identity: the content of files and the source of functions, from any folder, read once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, get_args

import fsspec
import msgspec
import pytest

from cluster.control.planning.plan import make_plan
from cluster.core.graph import pinned, read_changes
from cluster.core.identity import digests, places, references
from cluster.core.lineage import lineage
from cluster.core.specs import spec as specs
from cluster.core.storage.artifact import RECORD_FILE
from cluster.core.storage.store import Store
from cluster.core.tools.program import Program
from cluster.pipeline import Pipeline, load_script
from pipelines.specs import (
    BadWords,
    BenchmarkSpec,
    CodeSource,
    ConversationsSpec,
    CorpusSpec,
    Decontaminate,
    HuggingFaceSource,
    HumanEvalSpec,
    InstalledPythonSource,
    JatsSource,
    JsonLinesSource,
    ParquetSource,
    PreferencesSpec,
    PretrainedSpec,
    PretrainSpec,
    Python,
    RedPajamaSource,
    RlhfSpec,
    Spec,
    TextSource,
    TokenizerSpec,
    UrlBlockList,
    VocabularySpec,
    WarcSource,
    WikipediaSource,
)
from pipelines.stages.alignment.environments.tools import Tools
from pipelines.stages.corpus.readers import AnySource
from tests.core.toys import CountSpec, WordsSpec
from tests.made import make

SOURCES = [cls for cls in get_args(AnySource) if cls is not InstalledPythonSource]
NAMING: dict[str, tuple[Any, str]] = {  # a spec that names files, and a file that it then reads
    **{
        cls.__struct_config__.tag: (lambda path, cls=cls: CorpusSpec(sources=(cls(path=path),)), "data/a.jsonl")
        for cls in (JsonLinesSource, CodeSource, RedPajamaSource)
    },
    "text": (lambda path: CorpusSpec(sources=(TextSource(path=path),)), "data/deep/a.txt"),
    "text.gz": (lambda path: CorpusSpec(sources=(TextSource(path=path),)), "data/deep/a.txt.gz"),
    "jats": (lambda path: CorpusSpec(sources=(JatsSource(path=path),)), "data/a.nxml"),
    "parquet": (lambda path: CorpusSpec(sources=(ParquetSource(path=path),)), "data/a.parquet"),
    "warc": (lambda path: CorpusSpec(sources=(WarcSource(path=path),)), "data/a.warc.gz"),
    "wikipedia": (lambda path: CorpusSpec(sources=(WikipediaSource(path=path),)), "data/a.xml.bz2"),
    "huggingface": (lambda path: CorpusSpec(sources=(HuggingFaceSource(path=path),)), "data/train/a.parquet"),
    "suffixes": (lambda path: CorpusSpec(sources=(TextSource(path=path, suffixes=(".rst",)),)), "data/a.rst"),
    "block list": (lambda path: CorpusSpec(rules=(UrlBlockList(path=path),)), "data/domains"),
    "bad words": (lambda path: CorpusSpec(rules=(BadWords(path=path),)), "data"),
    "decontaminate": (lambda path: CorpusSpec(rules=(Decontaminate(paths=("none", path)),)), "data/test.csv"),
    "conversations": (lambda path: ConversationsSpec(source="file", path=path), "data"),
    "preferences": (lambda path: PreferencesSpec(source="file", path=path), "data"),
    "humaneval": (lambda path: HumanEvalSpec(path=path), "data"),
    "benchmark": (lambda path: BenchmarkSpec(data=path), "data/arc/test.jsonl"),
    "pretrained": (lambda path: PretrainedSpec(source=path), "data/config.json"),
    "llama2c": (lambda path: PretrainedSpec(source=f"llama2c:{path}"), "data/model.bin"),
    "base": (lambda path: VocabularySpec(base=path), "data/tokenizer.json"),
    "merge": (lambda path: VocabularySpec(merge=path), "data"),
}


def print_of(spec: Spec) -> str:
    return specs.fingerprint(spec, {}, references.named(spec))


def test_every_reader_is_tried() -> None:
    tried = {made("x").sources[0].__class__ for made, _ in NAMING.values() if isinstance(made("x"), CorpusSpec)}
    assert tried >= set(SOURCES)


@pytest.mark.parametrize("name", NAMING)
def test_the_content_of_files_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = NAMING[name]
    monkeypatch.chdir(tmp_path)
    spec = made("data")
    nothing = print_of(spec)
    assert nothing == specs.fingerprint(spec, {})  # what is not there counts by its name, as it always did
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("one")
    first = print_of(spec)
    Path(file).write_text("two")
    second = print_of(spec)
    Path(file).write_text("one")
    assert len({nothing, first, second}) == 3
    os.utime(file, (1, 1))  # a copy of the same content is the same
    assert print_of(spec) == first
    prefix = "llama2c:" if name == "llama2c" else ""
    found = re.findall(r'"((?:llama2c:)?/[^"]*)"', msgspec.json.encode(references.located(spec)).decode())
    assert found == [f"{prefix}{tmp_path / 'data'}"]


def test_names_below_the_path_count_and_other_files_do_not(tmp_path: Path) -> None:
    spec = CorpusSpec(sources=(TextSource(path=str(tmp_path)),))
    (tmp_path / "a.txt").write_text("text")
    first = print_of(spec)
    (tmp_path / "nohup.out").write_text("log")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "note.txt").write_text("hidden")
    assert print_of(spec) == first
    store = Store(tmp_path / "artifacts")
    make(store, WordsSpec(), {}, {"words.txt": b"an artifact is no data"}, "made")
    assert specs.fingerprint(spec, {}, references.named(spec, store.local_root)) == first
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert print_of(spec) != first
    globs = [print_of(CorpusSpec(sources=(TextSource(path=f"{tmp_path}/*.txt"),)))]
    (tmp_path / "b.txt").write_text("other")
    globs.append(print_of(CorpusSpec(sources=(TextSource(path=f"{tmp_path}/*.txt"),))))
    assert len(set(globs)) == 2


def test_a_spec_that_names_nothing_keeps_its_fingerprint() -> None:
    for spec in (PretrainSpec(), TokenizerSpec(), CorpusSpec(), RlhfSpec(), PretrainedSpec(), ConversationsSpec()):
        known = {name: value for name, value in specs.fields(spec).items() if name not in spec.later_fields}
        old = {"kind": spec.kind, "revision": spec.revision, "spec": known, "inputs": {}}
        assert print_of(spec) == hashlib.sha256(specs.canonical(old).encode()).hexdigest()
    hub = CorpusSpec(sources=(HuggingFaceSource(path="allenai/c4"),))
    assert references.named(hub) == {} and references.located(hub) == hub
    assert references.named(PretrainedSpec(source="hub:a/b")) == {}


def test_a_field_that_came_to_a_struct_of_a_spec_counts_once_it_is_set() -> None:
    """Of a tool environment `program` came later: artifacts of before keep their fingerprint."""
    plain, other = Tools(), Tools(program=Program(cpu_seconds=1))
    known = specs.fields(RlhfSpec(environment=plain))
    del known["environment"]["program"]
    known = {name: value for name, value in known.items() if name == "environment" or name not in RlhfSpec.later_fields}
    old = {"kind": "rlhf", "revision": RlhfSpec.revision, "spec": known, "inputs": {}}
    expected = hashlib.sha256(specs.canonical(old).encode()).hexdigest()
    assert print_of(RlhfSpec(environment=plain)) == expected != print_of(RlhfSpec(environment=other))


def test_two_folders_with_one_store(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prints = []
    for user, text in (("ann", "hers"), ("bob", "his"), ("cy", "hers")):
        (tmp_path / user / "data" / "code").mkdir(parents=True)
        (tmp_path / user / "data" / "code" / "a.py").write_text(text)
        monkeypatch.chdir(tmp_path / user)
        graph = Pipeline(lambda step: step(CorpusSpec(sources=(TextSource(path="data/code"),)))).graph(store)
        prints.append(graph.steps[0].fingerprint)
        located = references.located(graph.steps[0].spec).sources[0].path
        assert Path(located) == tmp_path / user / "data" / "code"
    assert prints[0] == prints[2] != prints[1]


def test_a_job_reads_what_travelled_or_the_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, worker = tmp_path / "home", tmp_path / "worker"
    for folder in (home / "script" / "data", home / "large", worker / "data"):
        folder.mkdir(parents=True)
    monkeypatch.setenv(places.ORIGIN, json.dumps({"cwd": str(home), "root": str(home / "script")}))
    monkeypatch.chdir(worker)
    assert places.locate("script/data") == "data"
    assert places.locate(str(home / "script" / "data")) == "data"
    assert places.locate("large") == str(home / "large")
    assert places.locate("script/data/*.txt") == "data/*.txt"
    assert places.locate("data") == "data"  # nothing there: the stage says so
    assert places.locate("s3://bucket/data") == "s3://bucket/data"


def test_an_object_store_tells_what_its_files_are(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    spec = CorpusSpec(sources=(JsonLinesSource(path="memory://lake/texts"),))
    nothing = print_of(spec)
    fs.pipe_file("/lake/texts/a.jsonl", b"{}")
    first = print_of(spec)
    fs.pipe_file("/lake/texts/b.jsonl", b"{}")
    assert len({nothing, first, print_of(spec)}) == 3
    fs.rm("/lake", recursive=True)
    assert print_of(spec) == nothing


def test_of_very_much_the_times_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "CONTENT_BYTES", 3)
    (tmp_path / "a.txt").write_text("large")
    spec = CorpusSpec(sources=(TextSource(path=str(tmp_path)),))
    first = print_of(spec)
    os.utime(tmp_path / "a.txt", (1, 1))
    assert print_of(spec) != first


def test_a_digest_is_remembered_once_the_file_has_settled(tmp_path: Path) -> None:
    file, old = tmp_path / "a", b"a" * digests.REMEMBERED_BYTES
    file.write_bytes(old)
    os.utime(file, (5, 5))
    (known,) = digests.many([file])
    assert known == hashlib.sha256(old).hexdigest()
    with file.open("r+b") as changed:
        changed.write(b"b")
    os.utime(file, (5, 5))  # size, time and inode are as they were: it is not read again
    assert digests.many([file]) == [known]
    file.touch()  # written just now: it may be written again within the same tick
    (fresh,) = digests.many([file])
    times = file.stat().st_mtime_ns
    file.write_bytes(old)
    os.utime(file, ns=(times, times))
    assert (digests.many([file]), fresh != known) == ([known], True)
    assert digests.many([tmp_path / "none", tmp_path]) == ["", ""]


def test_a_home_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * digests.REMEMBERED_BYTES)
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "file" / "cache"))
    assert digests.many([tmp_path / "file"]) == [hashlib.sha256(b"x" * digests.REMEMBERED_BYTES).hexdigest()]


SCRIPT = """
from typing import ClassVar

from cluster.pipeline import pipeline
from pipelines.specs import CorpusSpec, Python, RlhfSpec, Spec


class OwnSpec(Spec, frozen=True):
    \"\"\"A stage of the user's.\"\"\"

    kind: ClassVar[str] = "own"
    stage: ClassVar[str] = "my_stage:build"


@pipeline
def mine(step):
    step(CorpusSpec(rules=(Python(function="my_rules:no_poems"),)))
    step(OwnSpec())
    step(RlhfSpec(rewards={"my_rewards:unit": 1.0, "python_parses": 1.0}), model="words/m", prompts="words/m")
"""
BESIDE = {
    "my_rules.py": "from my_words import poems\n\ndef no_poems(document):\n    return poems.find(document)\n",
    "my_words/__init__.py": "",
    "my_words/poems.py": "from . import lists\n\ndef find(document):\n    return lists.NAME\n",
    "my_words/lists.py": "NAME = 'a'\n",
    "my_rewards.py": "def unit(sample):\n    return 1.0\n",
    "my_stage.py": "def build(ctx):\n    return {}\n",
    "unrelated.py": "",
}


class Named(Spec, frozen=True):
    """A model by name, of a kind that the RLHF step takes."""

    kind = "sft"


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("my_rules.py", {"corpus"}),
        ("my_words/poems.py", {"corpus"}),
        ("my_words/lists.py", {"corpus"}),
        ("my_rewards.py", {"rlhf"}),
        ("my_stage.py", {"own"}),
        ("unrelated.py", set()),
    ],
)
def test_the_source_of_a_function_counts(file: str, changed: set[str], tmp_path: Path, store: Store) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT.replace('model="words/m"', 'model="sft/m"').replace('"words/m")', '"conversations/m")'))
    for name, text in BESIDE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    make(store, Named(), {}, {}, "m")
    make(store, ConversationsSpec(), {}, {}, "m")
    before = load_script(script).graph(store)
    for step in before.steps:
        make(store, step.spec, step.inputs, {"x": b""}, "mine") if not step.named else _made(store, step)
    assert all(planned.artifact for planned in make_plan(before, store))
    (tmp_path / file).write_text(BESIDE[file] + "# another body\n")
    after = make_plan(load_script(script).graph(store), store)
    assert {item.step.key for item in after if not item.artifact} == changed
    for item in after:
        if not item.artifact:
            (reason,) = item.reasons
            assert re.match(r"what (rules\[0\].function|stage|rewards.my_rewards:unit) names: \w+ -> \w+", reason)
    assert "rewards.python_parses" not in str([step.named for step in before.steps])


def _made(store: Store, step: Any) -> None:
    from cluster.core.storage.draft import Draft

    draft = Draft.of(step.spec, step.inputs, store, "mine", step.named)
    draft.location.write_bytes("x", b"")
    store.commit(msgspec.structs.replace(draft.record, started_at="2026-01-01T00:00:00+00:00"), draft.location)


def test_what_was_built_of_files_that_are_gone_is_found(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("{}")
    wanted = Pipeline(lambda step: step(ConversationsSpec(source="file", path=str(file))))
    _made(store, wanted.graph(store).steps[0])
    assert make_plan(wanted.graph(store), store)[0].artifact
    file.unlink()
    assert make_plan(wanted.graph(store), store)[0].artifact
    file.write_text("[]")
    assert make_plan(wanted.graph(store), store)[0].artifact is None


def test_an_artifact_of_before_still_opens(tmp_path: Path, store: Store) -> None:
    old = make(store, ConversationsSpec(source="file", path="gone.jsonl"), {}, {"x": b"y"}, "old")
    place = old.location.path / RECORD_FILE
    record = json.loads(place.read_text())
    for field in ("named", "user_code"):
        del record[field]
    for field in ("reason", "repository"):
        del record["code"][field]
    place.write_text(json.dumps(record))
    store.set_alias("kept", old)
    assert store.resolve("kept").record.named == {}
    assert lineage(store.resolve("conversations/old"))["ref"] == old.record.ref


def test_an_alias_that_moves_changes_nothing_of_what_was_resolved(tmp_path: Path, store: Store) -> None:
    one = make(store, WordsSpec(), {}, {"1.txt": b"a"}, "one")
    two = make(store, WordsSpec(words=("x",)), {}, {"1.txt": b"b"}, "two")
    store.set_alias("words@prod", one)
    wanted = Pipeline(lambda step: step(CountSpec(factor=2), words="words@prod"))
    before = wanted.graph(store, read_changes(None, ["count.factor=3"]))
    file = tmp_path / "job.json"
    file.write_text(json.dumps(pinned(before)))
    store.set_alias("words@prod", two)
    assert wanted.graph(store, read_changes(file, [])).steps[0].fingerprint == before.steps[0].fingerprint
    assert wanted.graph(store).steps[0].inputs["words"].fingerprint == two.fingerprint


def test_python_names_a_function() -> None:
    assert references.named(CorpusSpec(rules=(Python(function="tests.core.toys:build_words"),)))
    assert not references.named(CorpusSpec(rules=(Python(function="no_such_module:f"),)))
    assert not references.named(CorpusSpec(rules=(Python(function="pipelines.stages.corpus.rules.bounds:length"),)))
