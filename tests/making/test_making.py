"""Conversations that a model writes: each maker, what is left out and why, figures that add up, and going on."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.core.build import build
from cluster.core.errors import InputError, JobError, SpecError
from cluster.core.graph import record
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    DiseaseTable,
    KnowledgeGraph,
    PretrainedSpec,
    ScalingSpec,
    SelfInstruct,
    SftSpec,
    SyntheticSpec,
)
from pipelines.stages.export.origins import source_names, sources
from pipelines.stages.making.makers.self_instruct import read_seeds
from pipelines.stages.making.novelty import rouge_l, words
from pipelines.stages.making.parsing import objects
from pipelines.stages.making.stage import split
from pipelines.stages.tuning.conversations import read_conversations
from tests.conftest import SHARED_DATA
from tests.made import make as store_model
from tests.making.endpoint import Reply, Server, last, serving

GRAPH = [
    {"class": "百种常见病", "中心词": "肝癌", "药物": ["索拉非尼", "瑞格非尼"], "发病部位": "肝脏", "病史": []},
    {"class": "百种常见病", "中心词": "感冒", "药物": ["对乙酰氨基酚"], "症状": ["流涕", "咳嗽"]},
    {"class": "百种常见病", "中心词": "空"},
]
SUBJECTS = [
    "rivers", "chess", "violins", "snow", "granite", "tides", "orchids", "copper", "wolves", "bridges", "maple",
    "sugar", "clocks", "lenses", "paper", "salt", "harbours", "turbines", "poppies", "ballads", "deserts", "comets",
    "barley", "looms", "tunnels", "falcons", "amber", "glaciers", "printing",
]  # fmt: skip


def rows_of(made: Artifact) -> dict[str, list[dict[str, Any]]]:
    folder = made.local()
    rows = {name: read_conversations(folder, name) for name in ("train", "heldout")}
    report = json.loads((folder / "report.json").read_text())
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    flow = report["flow"]
    assert flow["in"] == flow["train"] + flow["heldout"] + flow["rejected"]
    assert (flow["train"], flow["heldout"], flow["rejected"]) == (*map(len, rows.values()), len(rejected))
    assert report["reasons"] == Counter(row["reason"].partition(":")[0] for row in rejected)
    ids = [row["id"] for row in [*rows["train"], *rows["heldout"], *rejected]]
    assert len(set(ids)) == len(ids)
    asked = {line["key"]: line for line in map(json.loads, (folder / "asked.jsonl").read_text().splitlines())}
    for row in [*rows["train"], *rows["heldout"]]:
        origin = asked[row["origin"]["request"]]
        assert origin["messages"] and row["origin"]["seed"] == origin["seed"]
        assert row["messages"][-1]["content"] in json.dumps(origin["text"], ensure_ascii=False).replace(
            "\\\\n", "\n"
        ) or (row["messages"][-1]["content"] in origin["text"])
    return {**rows, "rejected": rejected}


def make(server: Server, store: Store, maker: Any, name: str = "made", scaling: Any = None, **fields: Any) -> Artifact:
    spec = SyntheticSpec(maker=maker, endpoint=server.endpoint(max_completion_tokens=500), **fields)
    spec.check()
    return build(spec, {}, store=store, name=name, scaling=ScalingSpec(**(scaling or {})))


def task(instruction: str, input: str = "", output: str = "An answer.") -> str:
    return json.dumps({"instruction": instruction, "input": input, "output": output}, ensure_ascii=False)


def writer() -> Callable[[dict[str, Any], int], Reply]:
    """A model that writes tasks: new ones for each prompt, the same for the same."""

    def behave(body: dict[str, Any], number: int) -> Reply:
        draw = random.Random(body["seed"])
        return Reply("\n".join(task(f"Tell of {' and '.join(draw.sample(SUBJECTS, 5))}") for _ in range(3)))

    return behave


def test_self_instruct_shows_seeds_and_what_was_made(store: Store) -> None:
    maker = SelfInstruct(tasks=12, seed_examples=3, made_examples=2, tasks_per_request=3, requests_per_round=2)
    with serving(writer()) as server:
        made = make(server, store, maker, heldout_fraction=0.25, license="apache 2.0")
    rows = rows_of(made)
    kept = rows["train"] + rows["heldout"]
    assert len(kept) == 12 and len(rows["heldout"]) == 3
    assert {row["license"] for row in kept} == {"Apache-2.0"} and {row["source"] for row in kept} == {
        "self-instruct by writer-2"
    }
    seeds = {seed.instruction for seed in read_seeds("package:pipelines/data/seed_tasks.jsonl")}
    instructions = {row["messages"][0]["content"] for row in kept}
    shown = [{record["instruction"] for record in objects(last(body))[0]} for body in server.asked]
    assert all(len(found & seeds) == 3 for found in shown)
    assert all(len(found - seeds) == 0 for found in shown[:2])  # of the first round nothing was made before
    assert all(len(found - seeds) == 2 and found - seeds <= instructions for found in shown[2:])
    texts = [words(text) for text in [*seeds, *instructions]]
    assert all(rouge_l(a, b) < 0.7 for n, a in enumerate(texts) for b in texts[:n] if " ".join(a) not in seeds)
    assert len({body["seed"] for body in server.asked}) == len(server.asked)


def test_sft_takes_what_was_made(store: Store) -> None:
    """And the card of what learns from it has its licence and its writer."""
    with serving(writer()) as server:
        made = make(server, store, SelfInstruct(tasks=6, seed_examples=3, tasks_per_request=3), license="MIT")
    model = store_model(store, PretrainedSpec(), {}, {"config.json": b"{}"}, "base")

    def learn(step: Any) -> Any:
        return step(SftSpec(), model=model.record.ref, conversations=made.record.ref)

    graph = record("x", learn, {}, store)
    assert graph.step("sft").inputs["conversations"].fingerprint == made.fingerprint
    tuned = store_model(store, SftSpec(), {"model": model, "conversations": made}, {}, "tuned")
    (learned,) = [source for source in sources(tuned) if source.what == "conversations"]
    assert learned.ref == "synthetic/made" and learned.counts == {"MIT": 5}
    assert source_names(made) == ["self-instruct by writer-2"]


def test_the_same_again(store: Store, tmp_path: Path) -> None:
    maker = SelfInstruct(tasks=9, seed_examples=3, tasks_per_request=3, requests_per_round=2)
    with serving(writer()) as server:
        first = make(server, store, maker)
        half = len(server.asked)
        second = make(server, Store(tmp_path / "other"), maker, scaling={"endpoint_requests": 1})
    assert Counter(map(last, server.asked[:half])) == Counter(map(last, server.asked[half:]))
    assert rows_of(first) == rows_of(second)


REASONS = {
    "refused word": task("Look at the picture and tell a story about it"),
    "instruction too short": task("Why so"),
    "instruction too long": task("go " * 151),
    "refused beginning": task("Write a program that counts the words of a text"),
    "begins with a sign": task("- Tell me something about the moon"),
    "similar": task("Explain to a ten-year-old child why the sky is blue."),
    "repeated": task("Tell a story of a lighthouse keeper"),
    "answer too short": task("Give the shortest answer that there is", output=" "),
    "answer too long": task("Give the longest answer that there is", output="x" * 8001),
    "control token": task("Say how the end of a turn is written", output="It is <|im_end|> of course"),
    "refused phrase": task("Tell me how you feel this morning", output="As an AI language model I have no feelings."),
    "unparseable": json.dumps({"instruction": "A task without any output"}),
}


def test_what_is_left_out_is_counted_by_its_reason(store: Store) -> None:
    good = [
        task("Tell a story of a lighthouse keeper"),
        task("Name every river of Europe that flows north", "<noinput>"),
    ]

    def behave(body: dict[str, Any], number: int) -> Reply:
        if number == 1:
            return Reply("Here you are:\n```json\n" + "\n".join([*good, *REASONS.values()]) + "\n```")
        if number == 2:
            return Reply("I would rather not.")
        if number == 3:
            return Reply(status=400, body={"error": {"message": "too long"}})
        return Reply(
            task("Compare glass with porcelain in three sentences") + '\n{"instruction": "Half of',
            finish_reason="length",
        )

    maker = SelfInstruct(tasks=3, requests_per_round=1, tasks_per_request=20)
    with serving(behave) as server:
        rows = rows_of(make(server, store, maker))
    found = Counter(row["reason"].partition(":")[0] for row in rows["rejected"])
    assert found == Counter([*REASONS, "unparseable", "refused", "cut off"])
    assert {row["messages"][0]["content"] for row in rows["train"] + rows["heldout"]} == {
        "Tell a story of a lighthouse keeper",
        "Name every river of Europe that flows north",
        "Compare glass with porcelain in three sentences",
    }


def test_a_model_that_writes_nothing_new_ends_the_making(store: Store) -> None:
    told: list[str] = []
    spec_of = SelfInstruct(tasks=50, requests_per_round=1)
    with serving(
        lambda body, number: Reply(
            "\n".join([task("Tell a story of a lighthouse keeper"), task("Name a big river in Asia")])
        )
    ) as server:
        spec = SyntheticSpec(maker=spec_of, endpoint=server.endpoint())
        made = build(spec, {}, store=store, name="x", notice=told.append)
    assert len(rows_of(made)["train"]) == 1 and len(server.asked) == 11
    assert "2 of 50 tasks: 10 rounds" in told[0] and "repeated" in told[0]
    with serving(lambda body, number: Reply("no")) as server, pytest.raises(InputError, match="unparseable: 10"):
        make(server, store, spec_of, name="y")


def test_a_stopped_run_goes_on(store: Store) -> None:
    maker = SelfInstruct(tasks=18, seed_examples=3, tasks_per_request=3, requests_per_round=2)
    prices = {"price_per_million_output_tokens": 100.0}  # 0.0005 an answer, at most 0.05
    with serving(writer()) as server:
        with pytest.raises(JobError, match="raise it and run the same command again"):
            make(server, store, maker, scaling={**prices, "max_cost": 0.0512})
        stopped = len(server.asked)
        assert stopped == 3
        made = make(server, store, maker, scaling=prices)
        rows = rows_of(made)
        other = make(server, Store(store.local_root / "other"), maker)  # type: ignore[operator]
    assert len(rows["train"] + rows["heldout"]) == 18
    first = Counter(map(last, server.asked[: made.metrics["asked"]["requests"]]))
    assert set(first.values()) == {1}
    assert rows == rows_of(other)
    assert made.metrics["asked"]["cost"] == pytest.approx(made.metrics["asked"]["requests"] * 5e-4)


def about(body: dict[str, Any]) -> list[str]:
    """The values that a prompt tells."""
    return [value for line in re.findall(r"^- [^:]+: (.+)$", last(body), re.MULTILINE) for value in line.split("; ")]


def test_questions_from_a_knowledge_graph(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(GRAPH, ensure_ascii=False))

    def behave(body: dict[str, Any], number: int) -> Reply:
        name = "肝癌" if "肝癌" in last(body) else "感冒"
        pairs = [{"question": f"{name}可以用什么药？", "answer": f"可以用{about(body)[0]}。"},
                 {"question": f"请问{name}严重吗？", "answer": "请咨询医生。"},
                 {"question": f"{name}怎么办，我很担心？", "answer": f"{about(body)[-1]}，请放心。"}]  # fmt: skip
        return Reply(json.dumps(pairs, ensure_ascii=False))

    maker = KnowledgeGraph(path=str(path), language="chinese", pairs_per_request=3, system="你是医生。")
    with serving(behave) as server:
        rows = rows_of(make(server, store, maker, heldout_fraction=0.1))
    assert len(server.asked) == 2 and "百种常见病" not in "".join(map(last, server.asked))
    assert Counter(row["reason"] for row in rows["rejected"]) == {"no facts: 空": 1, "names no fact": 2}
    kept = rows["train"] + rows["heldout"]
    assert [m["role"] for m in kept[0]["messages"]] == ["system", "user", "assistant"]
    of = [
        {"肝癌" if "肝癌" in row["messages"][1]["content"] else "感冒" for row in rows[name]}
        for name in ("train", "heldout")
    ]
    assert all(len(found) == 1 for found in of) and of[0] != of[1]  # what is about one thing stays together


def test_twins_are_of_one_topic(store: Store, tmp_path: Path) -> None:
    """Questions about two things may be alike but for the name; about one thing they may not."""
    path = tmp_path / "graph.jsonl"
    facts = [{"entity": name, "treated by": ["rest", "water"]} for name in ("flu", "asthma")]
    path.write_text("".join(json.dumps(fact) + "\n" for fact in facts))

    def behave(body: dict[str, Any], number: int) -> Reply:
        name = re.search(r'about "(\w+)"', last(body))[1]  # type: ignore[index]
        asked = (
            f"How do doctors usually treat {name} in old people?",
            f"How do doctors usually treat {name} in people?",
        )
        return Reply("\n".join(json.dumps({"question": question, "answer": "By rest."}) for question in asked))

    with serving(behave) as server:
        rows = rows_of(make(server, store, KnowledgeGraph(path=str(path))))
    assert [row["reason"].partition(":")[0] for row in rows["rejected"]] == ["similar", "similar"]


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared data are not here")
def test_talks_from_chatdoctors_table(store: Store) -> None:
    path = SHARED_DATA / "sft" / "chatdoctor" / "format_dataset.csv"
    maker = DiseaseTable(path=str(path), requests_per_entity=2, facts_per_request=4, max_entities=5)
    assert len(list(maker.entities())) == 796

    def behave(body: dict[str, Any], number: int) -> Reply:
        values = about(body)
        assert len(values) == 4
        return Reply(
            json.dumps({"question": f"Doctor, {values[0]}?", "answer": f"This calls for {values[-1].split(' (')[0]}."})
        )

    with serving(behave) as server:
        rows = rows_of(make(server, store, maker))
    assert len(server.asked) == 10
    assert "about Panic disorder:" in "".join(map(last, server.asked))
    topics = [{row["id"].partition(".")[0] for row in rows[name]} for name in ("train", "heldout")]
    assert not topics[0] & topics[1]


def test_cells_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(
        b"\xef\xbb\xbfdisease,Symptom,extra\r\nFlu,\"['Fever',\n 'Dry   cough']\",x\r\nCold,sneezing,y\r\n"
    )
    maker = DiseaseTable(path=str(path), columns=("Symptom",))
    assert [(e.name, e.facts) for e in maker.entities()] == [
        ("Flu", {"Symptom": ["Fever", "Dry cough"]}),
        ("Cold", {"Symptom": ["sneezing"]}),
    ]


BAD = {
    "no column": (DiseaseTable(columns=("Signs",)), "disease,Symptom\na,b\n", "no column Signs, but disease, Symptom"),
    "no list": (
        DiseaseTable(columns=("S",)),
        "disease,S\na,\"['x'\"\n",
        r"line 2: the cell under S begins like a list",
    ),
    "numpy's list": (DiseaseTable(columns=("S",)), "disease,S\na,\"['x' 'y']\"\n", r"line 2: the cell under S"),
    "a short row": (DiseaseTable(columns=("S",)), "disease,S\na\n", "line 2: 1 cells under 2 columns"),
    "no rows": (DiseaseTable(columns=("S",)), "disease,S\n", "holds no row"),
    "no entity": (
        KnowledgeGraph(),
        '{"title": "x", "by": ["y"]}\n',
        r"line 1: no text in 中心词 or entity or name.*entity_field",
    ),
    "numbers": (KnowledgeGraph(), '{"name": "x", "by": [1]}\n', "line 1: by holds int"),
    "no JSON": (KnowledgeGraph(), '{"name": "x"}\n{"name":\n', "line 2: not JSON"),
    "not objects": (KnowledgeGraph(), '["x"]', "line 1: str, where an object belongs"),
    "a seed without output": (SelfInstruct(), '{"instruction": "Do it", "input": ""}\n', "line 1: output is missing"),
    "few seeds": (SelfInstruct(), task("Do it") + "\n", "1 seed tasks, and a request shows 6"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_told_before_anything_is_asked(case: str, store: Store, tmp_path: Path) -> None:
    maker, text, said = BAD[case]
    path = tmp_path / "file"
    path.write_text(text)
    field = "seeds" if isinstance(maker, SelfInstruct) else "path"
    fields = {name: getattr(maker, name) for name in maker.__struct_fields__}
    with serving(lambda body, number: Reply()) as server, pytest.raises(InputError, match=said):
        make(server, store, type(maker)(**{**fields, field: str(path)}))
    assert not server.asked


def test_a_maker_without_its_file_is_no_spec() -> None:
    with pytest.raises(SpecError, match=r"synthetic.maker.path: is empty"):
        SyntheticSpec(maker=KnowledgeGraph(), endpoint=Server("http://x/v1", writer()).endpoint()).check()


@pytest.mark.parametrize(
    ("text", "found", "broken"),
    [
        ('[{"a": 1}, {"b": {"c": 2}}]', [{"a": 1}, {"b": {"c": 2}}], False),
        ('Sure!\n```json\n{"a": "}"}\n```', [{"a": "}"}], False),
        ('{"a": 1}\n{"a": "cut', [{"a": 1}], True),
        ("{so} it goes", [], True),
        ("nothing", [], False),
        ('{"tasks": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}], False),
        ('{"tasks": []}', [{"tasks": []}], False),
        ('<think>Maybe {"a": 0}?</think>\n{"a": 1}', [{"a": 1}], False),
        ('<think>Maybe {"a": 0}?', [], False),
    ],
)
def test_objects_in_a_text(text: str, found: list[Any], broken: bool) -> None:
    assert objects(text) == (found, broken)


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_a_split_keeps_topics_together_and_leaves_both_sides_something(fraction: float) -> None:
    rows = [{"id": str(n)} for n in range(40)]
    topics = {str(n): f"t{n % 7}" for n in range(20)}
    found = split(rows, topics, fraction, 0)
    assert sorted(row["id"] for part in found.values() for row in part) == sorted(row["id"] for row in rows)
    assert all(found.values())
    sides = [{topics[row["id"]] for row in part if row["id"] in topics} for part in found.values()]
    assert not sides[0] & sides[1]
    assert abs(len(found["heldout"]) - fraction * 40) <= 3


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="the shared data are not here")
def test_published_seeds_are_read() -> None:
    assert len(read_seeds(str(SHARED_DATA / "sft" / "stanford_alpaca" / "seed_tasks.jsonl"))) == 175
    assert len(read_seeds(str(SHARED_DATA / "sft" / "belle" / "data" / "1.5M" / "zh_seed_tasks.json"))) == 175
