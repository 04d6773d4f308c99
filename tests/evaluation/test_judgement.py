"""Judging in pairs: both orders, ties, verdicts read strictly, and intervals by plain numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.build import build
from cluster.core.errors import JobError
from cluster.core.storage.store import Store
from pipelines.specs import JudgementSpec
from pipelines.stages.evaluation.judgement import BASELINE, OURS, TIE, UNREAD, end_of, figures, read_verdict
from pipelines.stages.evaluation.paired import compare, read
from pipelines.stages.evaluation.results import Results
from pipelines.stages.generation.asking import Answer
from tests.evaluation.generations import answered
from tests.making.endpoint import Reply, last, serving

QUALITY = {"bad": 0, "fine": 1, "good": 2}


def judge(body: dict[str, Any], number: int) -> Reply:
    """Prefers the better one by QUALITY; of `first` answers that which stands first; of `mute` ones it says nothing
    that can be read, and of `odd` ones a tie only where they stand first."""
    shown = [re.search(rf'<answer number="{n}">\n(\S+) .*\n</answer>', last(body))[1] for n in (1, 2)]  # type: ignore[index]
    if "mute" in shown:
        return Reply("[[1]] it is, since the first one is better.")
    if "first" in shown:
        return Reply("I like how it begins.\n[[1]]")
    if shown[0] == "odd":
        return Reply("Hard to say.\n\n[[tie]]\n")
    if "odd" in shown:
        return Reply("[[1]]")
    worth = [QUALITY[text] for text in shown]
    verdict = "tie" if worth[0] == worth[1] else str(1 + (worth[1] > worth[0]))
    return Reply(f"The one says [[2]], but:\n[[{verdict}]]")


@pytest.mark.heavy
def test_pairs_are_judged_both_ways(store: Store) -> None:
    ours = ["good a", "bad a", "fine a", "first a", "mute a", "odd a", "same answer"]
    theirs = ["bad b", "good b", "fine b", "first b", "good b", "fine b", "same answer"]
    inputs = {"answers": answered(store, "tuned", ours, seed=1), "baseline": answered(store, "base", theirs, seed=2)}
    told: list[Any] = []
    with serving(judge) as server:
        spec = JudgementSpec(endpoint=server.endpoint(temperature=0.0))
        made = build(spec, inputs, store=store, name="x", notice=told.append)
    assert len(server.asked) == 12  # what is the same is not asked about
    found = made.metrics
    assert {name: found[name] for name in ("pairs", "won", "lost", "tied", "unread", "identical", "inconsistent")} == {
        "pairs": 7, "won": 1, "lost": 1, "tied": 4, "unread": 1, "identical": 1, "inconsistent": 2,
    }  # fmt: skip
    assert found["win_rate"] == 0.5
    folder = made.local()
    asked = {line["key"]: line for line in map(json.loads, (folder / "asked.jsonl").read_text().splitlines())}
    verdicts = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    assert [(v["first"], v["verdict"]) for v in verdicts if v["id"] == "0"] == [(OURS, OURS), (BASELINE, OURS)]
    assert [v["verdict"] for v in verdicts if v["id"] == "3"] == [OURS, BASELINE]
    for verdict in verdicts:
        prompt = asked[verdict["request"]]["messages"][0]["content"]
        mine = prompt.index(ours[int(verdict["id"])]) < prompt.index(theirs[int(verdict["id"])])
        assert mine == (verdict["first"] == OURS)
        assert f"question {verdict['id']} <b>&" in prompt and f"reference {verdict['id']}" in prompt
    decided = [v for v in verdicts if v["verdict"] in (OURS, BASELINE)]
    assert found["favours_first"] == pytest.approx(np.mean([v["verdict"] == v["first"] for v in decided]), abs=1e-4)
    report = msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
    assert report.model == "sft/tuned"
    again = read(made)
    assert compare(again, again, ("judgement", "win_rate")).difference == 0


def test_a_judge_that_cannot_be_read(store: Store) -> None:
    inputs = {"answers": answered(store, "a", ["good"], seed=1), "baseline": answered(store, "b", ["bad"], seed=2)}
    with (
        serving(lambda body, number: Reply("The first.")) as server,
        pytest.raises(JobError, match="none of 2 verdicts"),
    ):
        build(JudgementSpec(endpoint=server.endpoint()), inputs, store=store, name="x")


@pytest.mark.parametrize(
    ("text", "first", "verdict"),
    [
        ("because\n[[1]]", OURS, OURS),
        ("[[1]]", BASELINE, BASELINE),
        ("because\n [[2]] \n\n", OURS, BASELINE),
        ("[[tie]]", OURS, TIE),
        ("[[1]] or\n[[2]]", OURS, BASELINE),
        ("[[1]] because", OURS, UNREAD),
        ("1", OURS, UNREAD),
        ("[[1]][[2]]", OURS, UNREAD),
        ("[[3]]", OURS, UNREAD),
        ("", OURS, UNREAD),
    ],
)
def test_a_verdict_is_its_last_line(text: str, first: str, verdict: str) -> None:
    assert read_verdict(Answer(key="k", id="i", seed=0, text=text), first) == verdict


def test_how_a_pair_ends() -> None:
    assert [end_of(pair) for pair in ([OURS] * 2, [BASELINE] * 2, [TIE] * 2)] == [OURS, BASELINE, TIE]
    assert [end_of(pair) for pair in ([OURS, BASELINE], [OURS, TIE], [TIE, BASELINE], [])] == [TIE] * 4
    assert end_of([OURS, UNREAD]) == UNREAD


@given(
    st.lists(st.sampled_from([OURS, BASELINE, TIE, UNREAD]), min_size=1, max_size=60).filter(
        lambda e: set(e) != {UNREAD}
    )
)
def test_the_win_rate_by_numpy(ends: list[str]) -> None:
    results, outcomes = figures({str(n): end for n, end in enumerate(ends)})
    values = np.array([{OURS: 1, TIE: 0.5, BASELINE: 0}[end] for end in ends if end != UNREAD])
    n, p, z = len(values), values.mean(), 1.959963984540054
    centre, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n),
    )
    rate = results[0]
    assert (rate.metric, rate.samples) == ("win_rate", n)
    assert rate.value == pytest.approx(p)
    assert rate.ci_low == pytest.approx(max(0, centre - half), abs=1e-12)
    assert rate.ci_high == pytest.approx(min(1, centre + half), abs=1e-12)
    assert values.std() <= np.sqrt(p * (1 - p)) + 1e-12  # so that the interval is no narrower than it should be
    shares = {result.metric: result.value for result in results}
    assert shares["wins"] == pytest.approx((values == 1).mean()) and shares["ties"] == pytest.approx(
        (values == 0.5).mean()
    )
    assert sum(o.value for o in outcomes if o.metric == "win_rate") == pytest.approx(values.sum())
