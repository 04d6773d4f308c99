"""Rewards of steps: where steps end, which tokens get them, and what advantages follow, by their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.location import Location
from pipelines.specs import Gae, NormalizedBatch, ProcessReward, RlhfSpec, ScalingSpec
from pipelines.stages.alignment.advantages.advantage import Drawn
from pipelines.stages.alignment.appraisal import Appraiser
from pipelines.stages.alignment.packing import placed_steps
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.scoring import Scorer, last_tokens, summed
from pipelines.stages.generation.engine import Completion
from tests.tuning.tokenizers import by_hand

OWN = "tests.alignment.own_rewards"
LINES = ProcessReward(function=f"{OWN}:each_line")


def spec(*rewards: ProcessReward, **fields: Any) -> RlhfSpec:
    given = {f"r{number}": reward for number, reward in enumerate(rewards)}
    made = RlhfSpec(**{"rewards": given, "advantage": NormalizedBatch(), "group_size": 2, **fields})
    made.check()
    return made


@pytest.mark.parametrize(
    ("answer", "ends", "steps"),
    [
        ("a\nbc\n\nd", r"\n+", ["a\n", "bc\n\n", "d"]),
        ("\n\na\nb\n", r"\n+", ["\n\na\n", "b\n"]),
        ("a\n \nb", r"\n", ["a\n \n", "b"]),
        ("First. Then. Last", r"\. ", ["First. ", "Then. ", "Last"]),
        ("one", r"\n+", ["one"]),
        ("", r"\n+", []),
        (" \n ", r"\n+", []),
    ],
)
def test_where_steps_end(answer: str, ends: str, steps: list[str]) -> None:
    places = ProcessReward(function="m:f", ends=ends).places(answer)
    assert [answer[a:b] for a, b in zip([0, *places], places, strict=False)] == steps


@given(text=st.text(alphabet="ab \n", max_size=30))
def test_steps_are_the_answer_in_order(text: str) -> None:
    places = LINES.places(text)
    assert places == sorted(set(places)) and (not places or places[-1] == len(text))
    assert bool(places) == bool(text.strip())
    assert all(text[a:b].strip() for a, b in zip([0, *places], places, strict=False))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return by_hand()


def completion(tokenizer: Any, *turns: str) -> Completion:
    """Turns with an end of text each, and 3 tokens of an environment's between them."""
    tokens: list[int] = []
    mine: list[bool] = []
    for number, turn in enumerate(turns):
        drawn = [*tokenizer(turn)["input_ids"], tokenizer.eos_token_id]
        between = [] if number + 1 == len(turns) else [5, 5, 5]
        tokens += drawn + between
        mine += [True] * len(drawn) + [False] * len(between)
    replies = [{"role": "user", "content": "?"}] * (len(turns) - 1)
    return Completion(tokens, [-1.0] * sum(mine), True, mine, replies)


def test_a_reward_is_at_the_token_that_ends_its_step(tokenizer: Any) -> None:
    """Counted without the environment's tokens; the last step ends with the end of the turn."""
    for text, pattern in (
        ("def f():\n  return 1\n\nok", r"\n+"),
        ("naïve 北京\nzwei", r"\n"),
        ("第一。第二。好", "。"),
        ("x", " "),
    ):
        for earlier in ([], ["an earlier turn"]):
            drawn = completion(tokenizer, *earlier, text)
            turn = drawn.turns()[-1]
            before = sum(map(len, drawn.turns()[:-1]))
            ends = ProcessReward(function="m:f", ends=pattern).places(text)
            found = last_tokens(tokenizer, drawn, ends)
            for end, token in zip(ends, found, strict=True):
                until = tokenizer.decode(turn[: token - before + 1], skip_special_tokens=True)
                shorter = tokenizer.decode(turn[: token - before], skip_special_tokens=True)
                assert until[:end] == text[:end] and (end == len(text) or shorter[:end] != text[:end])
            assert found[-1] == before + len(turn) - 1
    assert last_tokens(tokenizer, drawn, []) == []


def scored(tokenizer: Any, tmp_path: Path, made: RlhfSpec, texts: list[str]) -> Any:
    scorer = Scorer(made, tokenizer, None, ScalingSpec(reward_processes=1), Location(tmp_path))
    prompts = [Prompt(str(row), [{"role": "user", "content": "?"}], [1, 2]) for row in range(len(texts))]
    drawn = [completion(tokenizer, text) for text in texts]
    try:
        return prompts, drawn, summed(made, len(texts), [scorer(prompts, drawn)], {})
    finally:
        scorer.pool.close()


def test_rewards_of_steps_are_weighed_added_and_told(tokenizer: Any, tmp_path: Path) -> None:
    half = ProcessReward(function=f"{OWN}:each_line", options={"factor": 2.0}, weight=0.25)
    texts = ["ab\nabc", "a b c\n"]
    _, drawn, found = scored(tokenizer, tmp_path, spec(LINES, half), texts)
    assert found.by_name["r0"].tolist() == [5, 3] and found.by_name["r1"].tolist() == [10, 6]
    assert found.total.tolist() == [7.5, 4.5]
    for row, (steps, worth) in enumerate(zip(found.steps, ([2, 3, 1, 1.5], [3, 1.5]), strict=True)):
        assert [value for _, value in steps] == worth
        assert max(token for token, _ in steps) == len(drawn[row].tokens) - 1


def test_the_appraiser_parts_steps_from_answers(tokenizer: Any, tmp_path: Path) -> None:
    """REINFORCE's returns: of each token the sum of its reward and of all later ones, normalized over all tokens."""
    made = spec(LINES, kl_coef=0.0)
    prompts, drawn, found = scored(tokenizer, tmp_path, made, ["ab\nabc", "a\nb\nc\nabcdef"])
    plan: Any = type("Plan", (), {"num_workers": 1, "micro_batch": 2})()
    appraiser = Appraiser(made, plan, 0, None, None)
    appraiser._asked = lambda *of: {}  # type: ignore[method-assign]  # no model is asked
    verdict = appraiser(cast(Any, None), prompts, drawn, found.total, found.present, 0.0, found.steps)
    returns = []
    for row, answer in enumerate(drawn):
        values = np.zeros(len(answer.tokens))
        for token, value in found.steps[row]:
            values[token] += value
        returns.append([values[place:].sum() for place in range(len(values))])
    assert returns[0][0] == 5 and returns[1][0] == 9 and returns[1][-1] == 6
    known = np.concatenate(returns)
    for told, expected in zip(cast(Any, verdict.advantages), returns, strict=True):
        np.testing.assert_allclose(told, (np.array(expected) - known.mean()) / (known.std() + 1e-4), atol=1e-9)


@pytest.mark.parametrize("present", [None, [True, False, True]])
def test_advantages_of_steps_are_their_definitions(present: list[bool] | None) -> None:
    """Steps within an answer, two at one token, an outcome besides, and an answer without tokens."""
    rng = np.random.default_rng(0)
    lengths = [5, 4, 0]
    learn = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    brought = placed_steps([[(0, 1.0), (2, -2.0), (2, 0.5)], [(3, 4.0)], []], learn)
    assert brought[0].tolist() == [1, 0, -1.5, 0, 0]
    outcome, values = rng.normal(size=3), rng.normal(size=(3, 5))
    counts = None if present is None else torch.tensor(present)
    drawn = Drawn(torch.tensor(outcome), 1, learn, brought, torch.tensor(values), None, counts, by_step=True)
    gamma, lam = 0.9, 0.8
    returns, advantages = np.zeros((3, 5)), np.zeros((3, 5))
    for row, length in enumerate(lengths):
        reward = brought[row, :length].numpy().copy()
        if length:
            reward[-1] += outcome[row]
        after = np.append(values[row, :length], 0.0)
        delta = [reward[t] + gamma * after[t + 1] - after[t] for t in range(length)]
        for t in range(length):
            returns[row, t] = reward[t:].sum()
            advantages[row, t] = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length))
    known = learn.numpy() if present is None else learn.numpy() & np.array(present)[:, None]
    found = Gae(gamma=gamma, lam=lam, whiten=False).of_tokens(drawn).advantages
    np.testing.assert_allclose(found, np.where(known, advantages, 0), atol=1e-9)
    white = NormalizedBatch().of_tokens(drawn).advantages
    own = returns[known]
    np.testing.assert_allclose(white[torch.tensor(known)], (own - own.mean()) / (own.std() + 1e-4), atol=1e-9)
    assert not white[~torch.tensor(known)].any()


def test_what_cannot_tell_steps_apart_is_refused() -> None:
    process = {"type": "process", "function": f"{OWN}:each_line"}
    for advantage in (
        {"type": "group"},
        {"type": "leave_one_out"},
        {"type": "normalized_batch", "subtract_group_mean": True},
    ):
        fields = {"rewards": {"steps": process}, "advantage": advantage}
        with pytest.raises(
            SpecError, match=f"rewards single steps, and rlhf.advantage {advantage['type']} compares whole"
        ):
            convert(fields, RlhfSpec, "rlhf")
    convert({"rewards": {"steps": process}, "advantage": {"type": "gae"}}, RlhfSpec, "rlhf")
    with pytest.raises(SpecError, match=r"rewards.steps.ends: .*unterminated"):
        convert({"rewards": {"steps": {**process, "ends": "["}}, "advantage": {"type": "gae"}}, RlhfSpec, "rlhf")
    with pytest.raises(SpecError, match="cannot be called with one Sample and one list of steps"):
        ProcessReward(function=f"{OWN}:letters").require()
    LINES.require()


@pytest.mark.parametrize(
    ("function", "words"), [("one_too_few", "1 numbers for 2 steps"), ("not_finite", "returned nan")]
)
def test_steps_that_are_not_told_are_a_failure(function: str, words: str, tokenizer: Any, tmp_path: Path) -> None:
    broken = ProcessReward(function=f"{OWN}:{function}")
    with pytest.raises(InputError, match=words):
        scored(tokenizer, tmp_path, spec(broken), ["ab\nabc"] * 2)
    counted = ProcessReward(function=f"{OWN}:{function}", on_failure="score", failure_score=-1.0)
    _, _, found = scored(tokenizer, tmp_path, spec(counted), ["ab\nabc"] * 2)
    assert found.total.tolist() == [-1, -1] and found.steps == [[], []]
