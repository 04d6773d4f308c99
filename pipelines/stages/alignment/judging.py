"""The input `judge` of an RL run: a reward model, or a model that chats and is asked for a mark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoTokenizer

from cluster.core.encoding import prompt_tokens
from cluster.core.errors import InputError
from cluster.core.model_files import context_tokens, read_config
from cluster.core.storage.artifact import Artifact
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.judge_model import JudgeModel
from pipelines.stages.alignment.rewards.pool import Failed, Scored
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.training.models.models import load_model, require_trainable

REWARD = "reward"  # the kind of a reward model


class Judging(Protocol):
    """A judge that is an artifact."""

    def marks(self, judge: JudgeModel, samples: Sequence[Sample]) -> list[Scored]:
        """What each sample is worth, 0 to 1, or that this Failed."""
        ...


def open_judge(model: Artifact, device: str) -> Judging:
    """The judge of an artifact, on a device."""
    if model.kind == REWARD:
        return ScoreJudge(RewardModel(model.local(), device))
    return MarkJudge(model.local(), context_tokens(read_config(model)), device)


def check_judge(model: Artifact, judges: dict[str, JudgeModel]) -> None:
    """Raise InputError for an artifact that cannot judge. `judges` are the rewards of a spec that ask it."""
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    if not tokenizer.chat_template:
        raise InputError(f"{model.record.ref} has no chat template", "Give a judge that was fine-tuned.")
    if model.kind == REWARD:
        return
    require_trainable(model)
    for name, judge in judges.items():
        if not mark_tokens(tokenizer, judge.marks):
            raise InputError(
                f"rlhf.rewards.{name}: {model.record.ref} has no token for each mark of [[0]] to [[{judge.best}]]",
                "Lower `best`, or give a judge of another tokenizer.",
            )


def mark_tokens(tokenizer: Any, marks: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """The token ids that all marks begin with, and the next one of each, by which they are told apart; None where they
    are not."""
    written = [tokenizer.encode(mark, add_special_tokens=False) for mark in marks]
    shared = 0
    while len({tuple(ids[: shared + 1]) for ids in written}) == 1 and shared < min(map(len, written)) - 1:
        shared += 1
    next_ones = [ids[shared] for ids in written]
    return (written[0][:shared], next_ones) if len(set(next_ones)) == len(marks) else None


class ScoreJudge:
    """A reward model, of which scores are made numbers between 0 and 1."""

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def marks(self, judge: JudgeModel, samples: Sequence[Sample]) -> list[Scored]:
        return [*torch.tensor(self.model.score_samples(samples)).sigmoid().tolist()]


class MarkJudge:
    """A model that chats. It begins its answer with what all marks begin with; what it would write next is its mark."""

    def __init__(self, folder: Path, longest: int | None, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = load_model(folder).eval().to(device)
        self.longest = longest

    def marks(self, judge: JudgeModel, samples: Sequence[Sample]) -> list[Scored]:
        """Each by itself, so that what it is worth does not depend on the others."""
        found = mark_tokens(self.tokenizer, judge.marks)
        assert found, "check_judge has seen to it"
        return [self._mark(judge, sample, *found) for sample in samples]

    @torch.inference_mode()
    def _mark(self, judge: JudgeModel, sample: Sample, begun: list[int], next_ones: list[int]) -> Scored:
        tokens = prompt_tokens(self.tokenizer, [{"role": "user", "content": judge.question(sample)}]) + begun
        if self.longest and len(tokens) >= self.longest:
            return Failed(f"failed: the question has {len(tokens)} tokens, and the judge takes {self.longest}")
        logits = self.model(torch.tensor([tokens], device=self.model.device), use_cache=False).logits[0, -1]
        of_marks = logits.float().softmax(-1)[torch.tensor(next_ones, device=logits.device)].double().cpu()
        total = float(of_marks.sum())
        if not total >= judge.least_probability:
            instead = self.tokenizer.decode([int(logits.argmax())])
            return Failed(f"failed: the judge would write {instead!r}, and a mark with probability {total:.3g} only")
        return float(of_marks @ torch.arange(len(next_ones), dtype=torch.float64)) / total / judge.best
