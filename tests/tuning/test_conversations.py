"""Conversations of a corpus: every function is accounted for, and held out means unseen."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import ConversationsSpec, CorpusSpec, MinHash, TextSource
from pipelines.stages.tuning.conversations import read_conversations, read_lines

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
