"""Results and their comparison: intervals and tests against figures worked out by hand, and `ctl eval compare`."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import BenchmarkSpec
from pipelines.stages.evaluation.paired import compare, differences, read
from pipelines.stages.evaluation.results import (
    Outcome,
    Result,
    Results,
    aggregate,
    encode_outcomes,
    encode_results,
    wilson,
    with_interval,
)
from tests.cli.command import ctl
from tests.made import make

ACC, PERPLEXITY = ("toy", "acc"), ("toy", "word_perplexity")


def outcomes(metric: str, values: Sequence[float], weights: Sequence[float] = ()) -> list[Outcome]:
    weights = weights or [1.0] * len(values)
    return [
        Outcome(task="toy", metric=metric, id=str(i), value=value, weight=weight)
        for i, (value, weight) in enumerate(zip(values, weights, strict=True))
    ]


def evaluation(
    store: Store,
    name: str,
    right: Sequence[int],
    losses: Sequence[float] = (),
    data: str = "d",
    words: Sequence[float] = (),
) -> Artifact:
    """A benchmark artifact with an accuracy, and a word perplexity where there are losses."""
    found = [(Result(task="toy", metric="acc", value=sum(right) / len(right), samples=len(right), aggregation="mean"))]
    own = outcomes("acc", right)
    if losses:
        texts = outcomes("word_perplexity", [-loss for loss in losses], words or [1.0] * len(losses))
        value = aggregate("perplexity", [o.value for o in texts], [o.weight for o in texts])
        found.append(
            Result(
                task="toy",
                metric="word_perplexity",
                value=value,
                samples=len(losses),
                higher_is_better=False,
                aggregation="perplexity",
            )
        )
        own += texts
    found = [with_interval(result, [o for o in own if o.metric == result.metric]) for result in found]
    report = Results(model=f"pretrain/{name}", results=found, data_sha256={"toy": data})
    files = {"results.json": encode_results(report), "samples.jsonl": encode_outcomes(own)}
    return make(store, BenchmarkSpec(tasks=(name,)), {}, files, name)


def test_wilson_by_hand() -> None:
    """Eight of ten: centre (0.8 + 1.9207 / 10) / 1.38415 = 0.71674, half 0.22658. No end is beyond 0 or 1."""
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    low, high = wilson(0, 5)
    assert low == 0 and high == pytest.approx(3.8415 / 8.8415, abs=1e-4)
    assert wilson(5, 5) == pytest.approx((1 - high, 1.0))


def test_aggregates_by_hand() -> None:
    assert aggregate("mean", [1, 0, 1, 1], [1] * 4) == 0.75
    assert aggregate("perplexity", [-math.log(8), -math.log(2)], [2, 2]) == pytest.approx(2.0)  # 16 ** (1 / 4)
    assert aggregate("bits", [-6 * math.log(2)], [4]) == pytest.approx(1.5)
    assert aggregate("perplexity", [-1e6], [1]) == math.inf


@given(st.lists(st.floats(0.1, 5), min_size=3, max_size=30), st.integers(0, 5))
def test_the_bootstrap_is_seeded_and_holds_the_value_of_equal_texts(losses: list[float], seed: int) -> None:
    result = Result(task="toy", metric="p", value=math.e, samples=len(losses), aggregation="perplexity")
    own = outcomes("p", [-loss for loss in losses], losses)
    made = with_interval(result, own, seed)
    assert made == with_interval(result, own, seed)
    assert (made.ci_method, made.ci_low, made.ci_high) == ("bootstrap", pytest.approx(math.e), pytest.approx(math.e))


def test_mcnemar_by_hand(store: Store) -> None:
    """Seven questions only the second got right, one only the first: p = 2 (1 + 8) / 2^8."""
    first = evaluation(store, "a", [1] * 5 + [0] * 7 + [1])
    second = evaluation(store, "b", [1] * 5 + [1] * 7 + [0])
    (found,) = differences([read(first), read(second)])
    assert found.p_value == pytest.approx(18 / 256)
    assert (found.test, found.difference) == ("McNemar", pytest.approx(6 / 13))
    half = 1.96 * math.sqrt(8 - 36 / 13) / 13
    assert (found.ci_low, found.ci_high) == (
        pytest.approx(6 / 13 - half, abs=1e-4),
        pytest.approx(6 / 13 + half, abs=1e-4),
    )
    same = compare(read(first), read(first), ACC)
    assert (same.p_value, same.difference) == (1.0, 0.0)


def test_pairs_see_what_intervals_do_not(store: Store) -> None:
    """Texts that differ much from each other, each a little easier for the second model."""
    draw = random.Random(0)
    losses = [draw.uniform(1, 5) for _ in range(60)]
    first = read(evaluation(store, "a", [1, 0], losses))
    second = read(evaluation(store, "b", [1, 0], [loss - 0.1 + draw.uniform(-0.05, 0.05) for loss in losses]))
    noisy = read(evaluation(store, "c", [1, 0], [loss + draw.uniform(-0.5, 0.5) for loss in losses]))
    ours, theirs = second.results[PERPLEXITY], first.results[PERPLEXITY]
    assert ours.ci_high is not None and theirs.ci_low is not None and ours.ci_high > theirs.ci_low
    clear = compare(first, second, PERPLEXITY)
    assert clear.test == "paired bootstrap" and clear.p_value is not None and clear.p_value < 0.01
    assert clear.ci_high is not None and clear.ci_high < 0
    assert clear == compare(first, second, PERPLEXITY)
    chance = compare(first, noisy, PERPLEXITY)
    assert chance.p_value is not None and chance.p_value > 0.05


def test_what_cannot_be_paired_says_why(store: Store) -> None:
    one = read(evaluation(store, "a", [1, 0, 1], [1.0, 2.0]))
    assert compare(one, read(evaluation(store, "b", [1, 0, 1], data="e")), ACC).reason == "other data"
    assert compare(one, read(evaluation(store, "c", [1, 0])), ACC).reason == "other samples"
    other_tokens = read(evaluation(store, "d", [1, 0, 1], [1.0, 2.0], words=[3.0, 3.0]))
    assert compare(one, other_tokens, PERPLEXITY).reason == "other samples"
    assert compare(one, other_tokens, PERPLEXITY).p_value is None


def test_the_command(store: Store) -> None:
    for name, right in (("a", [1, 0, 0, 0]), ("b", [1, 1, 1, 0])):
        evaluation(store, name, right, [1.0, 2.0, 3.0])
    place = ("--store", store.root.url)
    table = ctl("eval", "compare", "benchmark/a", "benchmark/b", *place)
    assert table.returncode == 0, table.stderr
    assert "0.2500 (0.0456 to 0.6994)" in table.stdout and "McNemar" in table.stdout and "may be noise" in table.stdout
    found = json.loads(ctl("eval", "compare", "benchmark/a", "benchmark/b", "--json", *place).stdout)
    assert [entry["metric"] for entry in found["differences"]] == ["acc", "word_perplexity"]
    assert found["differences"][0]["p_value"] == 0.5
    assert len(found["results"]) == 2


def test_an_artifact_without_results_is_named(store: Store) -> None:
    artifact = make(store, BenchmarkSpec(), {}, {"else.json": b"{}"}, "x")
    with pytest.raises(InputError, match=r"holds no results\.json"):
        read(artifact)
