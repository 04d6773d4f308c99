"""The conversations stage: every function and every record is accounted for, and held out means unseen."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import ConversationsSpec, CorpusSpec, MinHash, TextSource
from pipelines.stages.tuning.conversations import read_conversations, read_lines
from pipelines.stages.tuning.formats import FORMATS, checked
from pipelines.stages.tuning.records import BadRecord
from tests.conftest import SHARED_DATA

pytestmark = pytest.mark.heavy

FUNCTION = '''def scale_{name}(value):
    """Scale by {factor}."""
    return value * {factor} + {name}
'''


def write_module(path: Path, numbers: range, extra: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = f"# The module of {path.stem}, which no other resembles: {path.stem * 7}\n"
    functions = [FUNCTION.format(name=number, factor=number * 7919 % 1013) for number in numbers]
    path.write_text(header + "\n\n".join([*functions, extra]) + "\n")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Artifact:
    """Sixty modules of two functions, some of them planted."""
    root = tmp_path_factory.mktemp("sources")
    for number in range(60):
        write_module(root / f"module_{number}.py", range(2 * number, 2 * number + 2))
    shared = 'def everywhere():\n    """Be the same."""\n    return "in every module"\n'
    for number in range(0, 60, 2):  # in both splits: once in train, nowhere else
        write_module(root / f"module_{number}.py", range(2 * number, 2 * number + 2), shared)
    asked = 'def asked(x):\n    """Be asked again."""\n    return "and answered anew in {}"\n'
    for number in range(1, 60, 2):  # the same request with another answer: in train only
        write_module(root / f"module_{number}.py", range(2 * number, 2 * number + 2), asked.format(number))
    write_module(root / "stub.py", range(900, 901), 'def stub():\n    """Do nothing."""\n    pass\n')
    write_module(root / "long.py", range(901, 902), f'def long():\n    """Say much."""\n    return "{"x" * 300}"\n')
    (root / "python2.py").write_text('print "of the module that is not Python any more"\n' * 3)
    spec = CorpusSpec(
        sources=(TextSource(path=str(root)),),
        heldout_fraction=0.25,
        part_bytes=4000,
        minhash=MinHash(bands=1, rows=64),  # what is planted here is alike
    )
    return build(spec, {}, store=Store(root / "store"), name="planted")


SPEC = ConversationsSpec(max_answer_chars=100)


def test_docstrings(corpus: Artifact, store: Store, tmp_path: Path) -> None:
    made = build(SPEC, {"corpus": corpus}, store=store, name="x")
    rows = {split: read_conversations(made.local(), split) for split in ("train", "heldout")}
    flow = made.metrics["flow"]
    documents = corpus.metrics["documents"]
    assert sum(documents.values()) == 63
    assert flow["in"] == 120 + 30 + 30 + 2 + 2 + 1  # scale_*, everywhere, asked, beside the planted, planted, python2
    assert flow["in"] == sum(flow[name] for name in ("train", "heldout", "rejected", "duplicates", "not_sampled"))
    assert {split: len(rows[split]) for split in rows} == {split: flow[split] for split in rows}
    assert made.metrics["reasons"] == {"answer too long": 1, "not Python": 1, "stub": 1}

    for split in rows:
        for row in rows[split]:
            user, assistant = row["messages"]
            assert (user["role"], assistant["role"]) == ("user", "assistant")
            [function] = ast.parse(f"{user['content']}\n{assistant['content']}").body
            assert isinstance(function, ast.FunctionDef)
            assert row["source"] and row["license"] and row["id"].partition(":")[0].endswith(".py")
    requests = {split: [row["messages"][0]["content"] for row in rows[split]] for split in rows}
    assert not set(requests["train"]) & set(requests["heldout"])
    assert sum("everywhere" in request for request in requests["train"]) == 1
    answers = {row["messages"][1]["content"] for row in rows["train"] if "asked" in row["messages"][0]["content"]}
    assert len(answers) == sum("asked" in request for request in requests["train"]) > 10

    listed = read_lines(made.location, "rejected.jsonl")
    assert len(listed) == flow["rejected"] + flow["duplicates"]
    kept = {row["id"] for split in rows for row in rows[split]}
    for row in listed:
        assert row["reason"] and row["id"] not in kept
        assert row["reason"] != "duplicate" or row["duplicate_of"] in kept

    again = build(SPEC, {"corpus": corpus}, store=Store(tmp_path / "other"), name="x")
    assert again.record.files == made.record.files


def test_a_sample_is_the_front_of_the_whole_and_another_seed_another(corpus: Artifact, store: Store) -> None:
    def train(**fields: Any) -> list[str]:
        spec = ConversationsSpec(max_answer_chars=100, **fields)
        made = build(spec, {"corpus": corpus}, store=store, name="x")
        flow = made.metrics["flow"]
        assert flow["in"] == sum(flow.values()) - flow["in"]
        return [row["id"] for row in read_conversations(made.local(), "train")]

    whole = train()
    assert train(max_conversations=20) == whole[:20]
    other = train(seed=1)
    assert other != whole
    assert len(other) == len(whole)


def test_docstrings_need_a_corpus_and_something_in_it(corpus: Artifact, store: Store) -> None:
    with pytest.raises(SpecError, match="corpus"):
        build(ConversationsSpec(), {}, store=store, name="x")
    with pytest.raises(InputError, match="nothing is left for train and heldout"):
        build(ConversationsSpec(max_answer_chars=1), {"corpus": corpus}, store=store, name="x")


USER, ASSISTANT = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}

RECORDS: dict[str, list[tuple[dict[str, Any], list[dict[str, str]]]]] = {
    "messages": [
        ({"messages": [USER, ASSISTANT], "license": "MIT"}, [USER, ASSISTANT]),
        (
            {"messages": [{"role": "system", "content": "Be."}, USER, ASSISTANT, USER, ASSISTANT]},
            [{"role": "system", "content": "Be."}, USER, ASSISTANT, USER, ASSISTANT],
        ),
    ],
    "alpaca": [
        ({"instruction": "Who?", "input": "", "output": "Me."}, [USER, ASSISTANT]),
        (
            {"instruction": "Add.", "input": "1\u2028 1", "output": "2", "system": "Be.", "history": [["Who?", "Me."]]},
            [
                {"role": "system", "content": "Be."},
                USER,
                ASSISTANT,
                {"role": "user", "content": "Add.\n1\u2028 1"},
                {"role": "assistant", "content": "2"},
            ],
        ),
    ],
    "sharegpt": [
        ({"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}, [USER, ASSISTANT]),
        (
            {
                "system": "Be.",
                "conversations": [{"from": "user", "value": "Who?"}, {"from": "assistant", "value": "Me."}],
            },
            [{"role": "system", "content": "Be."}, USER, ASSISTANT],
        ),
    ],
    "prompt-response": [({"prompt": "Who?", "response": "Me."}, [USER, ASSISTANT])],
}


def as_file(path: Path, records: list[Any], layout: str) -> Path:
    """Write records in one of the layouts; the name never tells which."""
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    text = {
        "lines": "\n".join(lines) + "\n",
        "lines with blanks and a byte order mark": "\ufeff" + "\r\n\r\n".join(lines),
        "array": json.dumps(records),
        "array over lines": json.dumps(records, indent=2),
        "gzipped lines": "\n".join(lines),
    }[layout]
    path.write_bytes(gzip.compress(text.encode()) if layout.startswith("gzipped") else text.encode())
    return path


LAYOUTS = ["lines", "lines with blanks and a byte order mark", "array", "array over lines", "gzipped lines"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("format_", FORMATS)
def test_files(format_: Any, layout: str, store: Store, tmp_path: Path) -> None:
    records = []
    for number in range(20):
        for record, _ in RECORDS[format_]:
            records.append(json.loads(json.dumps(record).replace("Who", f"Who is {number}")))
    path = as_file(tmp_path / "records.json", records, layout)
    spec = ConversationsSpec(source="file", path=str(path), format=format_, heldout_fraction=0.1)
    made = build(spec, {}, store=store, name="x")
    flow = made.metrics["flow"]
    assert (flow["in"], flow["rejected"]) == (len(records), 0)
    assert flow["heldout"] + flow["duplicates"] >= round(0.1 * len(records))
    found = [row for split in ("train", "heldout") for row in read_conversations(made.local(), split)]
    for record, messages in RECORDS[format_]:
        wanted = json.loads(json.dumps(messages).replace("Who", "Who is 7"))
        [row] = [row for row in found if row["messages"] == wanted]
        assert row["source"] == "records.json"
        assert row["license"] == record.get("license", "unknown")


CARD = "---\nlicense: cc-by-sa-4.0\ntags: [chat]\n---\n# Chats\n"


def test_licences_of_records_of_the_spec_and_of_the_card(store: Store, tmp_path: Path) -> None:
    """A record's own name comes first, then the spec's, then that of the card beside the file."""
    own = [
        {"license": "CC BY-NC 4.0"}, {"licence": "cc-by-nc-4.0"}, {"license": ["mit", "Apache 2.0"]},
        {"license": {"name": "MIT License"}}, {"metadata": {"license": "house rules"}}, {}, {"license": ""},
    ]  # fmt: skip
    turns = {"prompt": "Who?", "response": "Me."}
    records = [turns | {"prompt": f"Who is {number}?"} | record for number, record in enumerate(own)]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))

    def found(name: str, **fields: Any) -> list[str]:
        spec = ConversationsSpec(source="file", path=str(path), format="prompt-response", **fields)
        made = build(spec, {}, store=store, name=name)
        rows = [row for split in ("train", "heldout") for row in read_conversations(made.local(), split)]
        rows.sort(key=lambda row: row["id"])
        assert made.metrics["licenses"] == dict(
            sorted(Counter(row["license"] for row in rows).items(), key=lambda item: (-item[1], item[0]))
        )
        return [row["license"] for row in rows]

    named = ["CC-BY-NC-4.0", "CC-BY-NC-4.0", "MIT AND Apache-2.0", "MIT", "house rules"]
    assert found("none") == [*named, "unknown", "unknown"]
    (tmp_path / "README.md").write_text(CARD)
    assert found("card", seed=1) == [*named, "CC-BY-SA-4.0", "CC-BY-SA-4.0"]
    assert found("spec", license="Apache 2.0") == [*named, "Apache-2.0", "Apache-2.0"]


BAD = [
    ('{"prompt": "a", "response": "b"', "not JSON"),
    ("[1, 2]", "not an object"),
    ('{"prompt": "a"}', "response: missing"),
    ('{"prompt": ["a"], "response": "b"}', "prompt: list"),
    ('{"prompt": "a", "response": " "}', "nothing said by the assistant"),
    ('{"prompt": "a", "response": "\\ud800"}', "half of a surrogate pair"),
    ('{"prompt": "\udcff", "response": "b"}', "not JSON: 'utf-8' codec"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_record_is_named(line: str, reason: str, store: Store, tmp_path: Path) -> None:
    good = [json.dumps({"prompt": f"Who is {n}?", "response": "Me."}) for n in range(38)]
    path = tmp_path / "records.jsonl"
    path.write_bytes("\n".join([*good[:20], "", line, *good[20:]]).encode("utf-8", "surrogateescape"))
    spec = ConversationsSpec(source="file", path=str(path), format="prompt-response")
    made = build(spec, {}, store=store, name="x")
    [rejected] = read_lines(made.location, "rejected.jsonl")
    assert (rejected["id"], rejected["line"]) == ("records.jsonl:21", 22)
    assert reason in rejected["reason"]
    strict = ConversationsSpec(source="file", path=str(path), format="prompt-response", max_bad_fraction=0.02)
    with pytest.raises(InputError, match=r"records\.jsonl: 1 of 39 .* the first in line 22: .*max_bad_fraction"):
        build(strict, {}, store=store, name="x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no record"),
        (b'[{"prompt": "a",\n "response": "b"},\n {"prompt" "a"}]', r"line 3: Expecting ':'"),
        (b'["a", "b"]\n["c", "d"]\n', "JSON lines of arrays"),
        (b"\x1f\x8bnot gzip", "plain or gzipped"),
        (b"[" * 100_000, "array breaks"),
        (None, "No such file"),
        (b'[{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}]', "line 2: a comma is missing"),
        (b'[{"prompt": "a", "response": "b"},\n\n,{"prompt": "c"}]', "line 3: a value is missing"),
        (b'[{"prompt": "a", "response": "b"}', "array breaks in the record at line 1"),
        (b"[{'prompt': 'a', 'response': 'b'}]", "line 1: Expecting property name"),
        (b'[{"prompt": "a", "response": "b"}] and more', "text follows the array"),
        (b'[{"prompt": "a", "response": "b"}]\n[{"prompt": "c", "response": "d"}]', "text follows the array"),
    ],
)
def test_a_broken_file_is_named(data: bytes | None, said: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=rf"broken\.json.*{said}"):
        build(ConversationsSpec(source="file", path=str(path)), {}, store=store, name="x")


TOP = ("messages", "conversations", "instruction", "input", "output", "system", "history")
BELOW = ("role", "content", "from", "value")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(BELOW), inner | st.sampled_from(["user", "assistant", "gpt"]), max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("format_", FORMATS)
@given(record=st.dictionaries(st.sampled_from(TOP), values))
def test_any_record_is_read_or_refused(format_: str, record: dict[str, Any]) -> None:
    try:
        found = checked(FORMATS[format_](record))
    except BadRecord as error:
        assert str(error)
        return
    assert all(message["content"].strip() for message in found)
    assert found[-1]["role"] == "assistant"


FILES = [
    ("stanford_alpaca/alpaca_5000.json", "alpaca", {"in": 5000, "rejected": 2, "duplicates": 0}),
    ("llama-factory/alpaca_en_demo.json", "alpaca", {"in": 999, "rejected": 0, "duplicates": 14}),
    ("huatuo/data/llama_data.json", "alpaca", {"in": 8658, "rejected": 0, "duplicates": 1}),
    ("medicalgpt/medical_sft_1K_format.jsonl", "sharegpt", {"in": 1000, "rejected": 0, "duplicates": 0}),
    ("dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl", "prompt-response", {"in": 1000, "rejected": 0, "duplicates": 0}),
]


@pytest.mark.parametrize(("name", "format_", "expected"), FILES)
def test_files_of_the_world(name: str, format_: Any, expected: dict[str, int], store: Store) -> None:
    path = SHARED_DATA / "sft" / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    made = build(ConversationsSpec(source="file", path=str(path), format=format_), {}, store=store, name="x")
    assert {key: made.metrics["flow"][key] for key in expected} == expected


def test_a_file_that_a_package_carries_is_found_from_anywhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "package:pipelines/data/short_answers.jsonl"
    spec = ConversationsSpec(source="file", path=path, format="prompt-response")
    flow = build(spec, {}, store=store, name="x").metrics["flow"]
    assert (flow["in"], flow["rejected"], flow["duplicates"]) == (321, 0, 0)
    for wrong, said in (("no_such/x.json", "no Python package 'no_such'"), ("pipelines/data/no.json", "No such file")):
        with pytest.raises(InputError, match=said):
            build(msgspec.structs.replace(spec, path=f"package:{wrong}"), {}, store=store, name="x")
