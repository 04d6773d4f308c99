"""Answers computed with one copy of their prompt are worth what they are worth in rows of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.specs import ScalingSpec
from pipelines.stages.alignment.advantages.advantage import ValueFunction
from pipelines.stages.alignment.critic import Critic
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.losses import Clipped
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.shared_prompts import NAME, share_prompts, shared
from pipelines.stages.tuning.attention import APART
from tests.tuning.test_packing import has_experts, objective

LENGTH = 14


def batch(group_rows: list[list[tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    """Tokens (rows, LENGTH + 1) and which to learn (rows, LENGTH): of each group (prompt, answer) lengths of its rows,
    the answer's third token, if there is one, said by somebody else. An answer of 0 has nothing to learn."""
    generator = torch.Generator().manual_seed(3)
    rows = [row for group in group_rows for row in group]
    tokens = torch.zeros((len(rows), LENGTH + 1), dtype=torch.int64)
    learn = torch.zeros((len(rows), LENGTH), dtype=torch.bool)
    row = 0
    for group in group_rows:
        prompt = torch.randint(1, 60, (LENGTH,), generator=generator)
        for begin, length in group:
            tokens[row, :begin] = prompt[:begin]
            tokens[row, begin : begin + length] = torch.randint(1, 60, (length,), generator=generator)
            learn[row, begin - 1 : begin + length - 1] = True
            if length > 2:
                learn[row, begin + 1] = False
            row += 1
    return tokens, learn


def model(family: str, sharing: bool, **fields: Any) -> Any:
    found = objective(family, **fields).model
    if sharing:
        share_prompts(found, ScalingSpec())
        assert found.config._attn_implementation == NAME
    return found


def told(model: Any, tokens: Tensor, learn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities, and the gradients of a sum of them in which each has a factor of its own."""
    found = token_logprobs(model, tokens, 0.7, learn)
    (found * torch.linspace(-1, 2, found.numel()).view_as(found)).sum().backward()
    return found.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


GROUPS = [[(5, 9), (5, 1), (5, 4)], [(3, 6)], [(4, 2), (4, 0), (4, 8), (4, 11)]]


@pytest.mark.parametrize("family", APART)
def test_answers_are_worth_what_they_are_in_rows_of_their_own(family: str) -> None:
    tokens, learn = batch(GROUPS)
    expected, gradients = told(model(family, False), tokens, learn)
    found, shared_gradients = told(model(family, True), tokens, learn)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert gradients.keys() == shared_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("start", ["head", "policy"])
def test_a_critic_sees_each_prompt_once_and_expects_the_same(family: str, start: Any) -> None:
    """Of PPO: values, loss and all gradients, of a head on the policy and of a model beside it."""
    tokens, learn = batch(GROUPS)
    figures = torch.Generator().manual_seed(4)
    rows = {name: torch.randn(learn.shape, generator=figures) for name in ("advantages", "values", "returns")}
    given = {"tokens": tokens, "learn": learn, "weights": torch.ones(len(tokens))} | rows
    given["behaviour"] = torch.full(learn.shape, -4.0)
    found = []
    for sharing in (False, True):
        policy, trunk = model(family, sharing), model(family, sharing).base_model if start == "policy" else None
        torch.manual_seed(1)
        score = torch.nn.Linear(policy.config.hidden_size, 1)
        critic = Critic(ValueFunction(start=start), trunk, score)
        ppo = PolicyGradient(
            policy, "fp32", loss=Clipped(), kl_coef=0.0, kl_penalty="token", temperature=1.0, critic=critic
        )
        values = ppo({"tokens": tokens, "valued": learn}).detach()
        assert bool((values != 0).eq(learn).all())
        loss = ppo(given)
        loss.backward()
        gradients = {name: p.grad for name, p in ppo.named_parameters() if p.grad is not None}
        found.append((values, loss.detach(), ppo.pop_sums(), gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=2e-5)


def test_a_prompt_is_computed_once_and_padding_not_at_all() -> None:
    tokens, learn = batch(GROUPS)
    text = shared(model("llama", True), tokens, learn)
    assert text is not None
    # An answer's last token tells nothing more; an answer without anything to learn is not there.
    assert text.texts == [(5, [8, 0, 3]), (3, [5]), (4, [1, 7, 10])]
    assert text.inputs.shape == text.positions.shape == (1, 5 + 11 + 3 + 5 + 4 + 18)
    assert len(text.told_from) == int(learn.sum())
    assert text.positions[0, :16].tolist() == [0, 1, 2, 3, 4, *range(5, 13), *range(5, 8)]


@pytest.mark.parametrize("family", [family for family in APART if not has_experts(family)])
def test_no_answer_sees_another(family: str) -> None:
    tokens, learn = batch(GROUPS)
    changed = tokens.clone()
    changed[2, 5:9] = 60 - changed[2, 5:9]
    lm = model(family, True).eval()
    with torch.no_grad():
        before, after = (token_logprobs(lm, given, 1.0, learn) for given in (tokens, changed))
    same = (before == after).all(dim=1)
    assert same.tolist() == [row != 2 for row in range(len(tokens))]


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_sliding_window_slides_over_the_prompt(family: str) -> None:
    window = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    tokens, learn = batch(GROUPS)
    expected, _ = told(model(family, False, **window), tokens, learn)
    found, _ = told(model(family, True, **window), tokens, learn)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    unbounded, _ = told(model(family, False), tokens, learn)
    assert float((unbounded - expected).abs().max()) > 1e-4


def test_whole_rows_are_told_as_without() -> None:
    tokens, _ = batch(GROUPS)
    with torch.no_grad():
        expected, found = (token_logprobs(model("llama", sharing), tokens, 1.0) for sharing in (False, True))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_what_hands_nothing_on_keeps_its_rows() -> None:
    lm = objective("bloom").model
    share_prompts(lm, ScalingSpec())
    assert shared(lm, *batch(GROUPS)) is None
    share_prompts(lm := objective("llama").model, ScalingSpec(compile=True))
    assert shared(lm, *batch(GROUPS)) is None
    assert (
        shared(model("llama", True), torch.ones((2, 4), dtype=torch.int64), torch.zeros((2, 3), dtype=torch.bool))
        is None
    )
