"""Answers of several turns: the model's, and between them what an environment says.

Token in, token out: what was drawn stays as it was drawn, and what is said to it is put behind as the chat template
writes it. The log-probabilities of a completion are of the drawn tokens alone, and only these are learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cluster.core.encoding import encode, prompt_tokens
from cluster.core.errors import InputError
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.pool import Failed, Pool
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.scoring import Scorer
from pipelines.stages.generation.engine import Completion
from pipelines.stages.training.loop import mix

Draw = Callable[[list[list[int]], list[int], int], list[Completion]]  # prompts, seeds, most tokens -> completions
ENVIRONMENT = "environment"  # its name in the pool


class Episodes:
    """Plays answers to their end. Who has the engines calls it; the same prompts and seeds give the same answers."""

    def __init__(
        self, environment: Environment, tokenizer: Any, max_tokens: int, pool: Pool, timeout_seconds: float, draw: Draw
    ) -> None:
        """`timeout_seconds`: of the environment, over one turn of all answers."""
        self.environment, self.tokenizer, self.max_tokens = environment, tokenizer, max_tokens
        self.pool, self.timeout_seconds, self.draw = pool, timeout_seconds, draw

    @staticmethod
    def of(spec: RlhfSpec, scorer: Scorer, draw: Draw) -> Episodes:
        environment, scaling = spec.environment, scorer.scaling
        assert environment
        played = {ENVIRONMENT: environment}
        most, memory = scaling.reward_processes, scaling.reward_memory_bytes
        pool = Pool(played, spec.seed, most, memory, "environments", scorer.files)
        tokens, seconds = spec.max_completion_tokens, scaling.reward_timeout_seconds
        return Episodes(environment, scorer.tokenizer, tokens, pool, seconds, draw)

    def __call__(self, prompts: Sequence[Prompt], seeds: Sequence[int], tick: Callable[[], Any]) -> list[Completion]:
        """An answer to each prompt. `tick` is called between two things that each have a deadline."""
        answers = [Completion([], [], False, []) for _ in prompts]
        going = list(range(len(prompts)))
        for turn in range(self.environment.turns):
            asked = [prompts[row].tokens + answers[row].tokens for row in going]
            drawn = self.draw(asked, [mix(seeds[row], turn) for row in going], self._turn_tokens)
            tick()
            for row, each in zip(going, drawn, strict=True):
                answers[row] = _with_turn(answers[row], each)
            going = [row for row in going if answers[row].finished]
            if turn + 1 == self.environment.turns or not going:
                break
            going = self._replied(prompts, answers, going)
            tick()
        return answers

    @property
    def _turn_tokens(self) -> int:
        return min(self.environment.turn_tokens, self.max_tokens)

    def _replied(self, prompts: Sequence[Prompt], answers: list[Completion], going: list[int]) -> list[int]:
        """Put what the environment says behind the answers that it speaks to; these go on. One that has no room for
        that and another turn counts as cut off."""
        samples = [
            Sample.of(self.tokenizer, asked.messages, answers[row], asked.reference, asked.fields)
            for row, asked in ((row, prompts[row]) for row in going)
        ]
        goes_on = []
        said = self.pool.call(samples, self.timeout_seconds)[ENVIRONMENT]
        for row, sample, text in zip(going, samples, said, strict=True):
            if text is None:
                continue
            content = f"error: {text.why}" if isinstance(text, Failed) else str(text)
            message = {"role": "user", "content": content}
            tokens = reply_tokens(self.tokenizer, sample.messages, message)
            answer = answers[row]
            if len(answer.tokens) + len(tokens) + self._turn_tokens > self.max_tokens:
                answers[row] = _cut(answer)
                continue
            answers[row] = _with_reply(answer, tokens, message)
            goes_on.append(row)
        return goes_on


def reply_tokens(tokenizer: Any, messages: list[dict[str, str]], reply: dict[str, str]) -> list[int]:
    """What stands between the end of the model's turn, to `messages`, and its next turn: the reply, as the chat
    template writes it. Raises InputError for a template that writes earlier turns anew."""
    turn = {"role": "assistant", "content": "."}
    ended = encode(tokenizer, [*messages, turn])
    end = len(ended.tokens) - ended.learn[::-1].index(True)
    whole = prompt_tokens(tokenizer, [*messages, turn, reply])
    if whole[:end] != ended.tokens[:end]:
        raise InputError(
            "rlhf.environment: the chat template does not go on from the tokens of an earlier turn",
            "Take a model of another template, such as chatml.",
        )
    return whole[end:]


def _with_turn(answer: Completion, drawn: Completion) -> Completion:
    mine = [*(answer.mine or []), *[True] * len(drawn.tokens)]
    tokens, logprobs = answer.tokens + drawn.tokens, answer.logprobs + drawn.logprobs
    return Completion(tokens, logprobs, drawn.finished, mine, answer.replies, answer.versions + drawn.versions)


def _with_reply(answer: Completion, tokens: list[int], message: dict[str, str]) -> Completion:
    mine = [*(answer.mine or []), *[False] * len(tokens)]
    replies = [*answer.replies, message]
    return Completion(answer.tokens + tokens, answer.logprobs, False, mine, replies, answer.versions)


def _cut(answer: Completion) -> Completion:
    return replace(answer, finished=False)
