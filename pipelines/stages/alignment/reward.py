"""The reward model: a scalar head on a fine-tuned model, trained on pairs.

Loss -log sigmoid(r(chosen) - r(rejected)), after Bradley and Terry (1952), as in Ouyang et al. 2022 (arXiv:2203.02155).
The score is read at the last token, the end of the answer; padding stands to the right, where nothing looks. What
transformers itself pads, it scores at the last token that is not padding: the artifact has a padding token that no
conversation holds, for with the end of a turn for one it would read at another place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from cluster.core import metrics
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.model_files import CONFIG_FILE, context_tokens, fitting_tokens
from pipelines.specs import RewardSpec
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.evaluation.results import wilson
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan, Share, plan_batches
from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.models.models import require_classifier, require_rows, require_trainable
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.sources import Source
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.conversations import Row
from pipelines.stages.tuning.encoding import Encoded, Refused, encode
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.stage import tokenizer_files
from pipelines.stages.tuning.templates import prepare

PADDING = "<|pad|>"  # added to a tokenizer that has no padding token, or its end of text for one
ACCURACY = "accuracy"  # share of pairs whose chosen answer has the higher score


def scores(model: Any, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Rewards (batch,) fp32 of right-padded sequences (batch, length) of `lengths` tokens each."""
    hidden = getattr(model, model.base_model_prefix)(tokens, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(tokens), device=tokens.device), lengths - 1]
    return model.score(last).squeeze(-1).float()


class BradleyTerry(Objective):
    """Pairs, chosen in even rows and rejected in odd ones: tokens (2 * pairs, length), lengths (2 * pairs,)."""

    names = (ACCURACY,)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        with self.autocast(batch["tokens"]):
            found = scores(self.model, batch["tokens"], batch["lengths"])
        margin = found[0::2] - found[1::2]
        self.add_sums((margin > 0).sum())
        return -F.logsigmoid(margin).sum()


class PairBatches(Source):
    """Pairs in shuffled order. In the sequences, pair i is 2 i (chosen) and 2 i + 1 (rejected)."""

    def __init__(self, train: Sequences, heldout: Sequences, plan: BatchPlan, spec: RewardSpec, rank: int) -> None:
        self.train, self.heldout = train, heldout
        self.plan, self.rank = plan, rank
        self.order = Order(len(train) // 2, spec.seed)
        self.validation = min(spec.validation_pairs, len(heldout) // 2)

    def share(self, step: int, engine: Engine) -> Share:
        whole = self.order.samples(*self.plan.batch(step))
        own = self.order.samples(*self.plan.positions(step, self.rank)).tolist()
        size = self.plan.micro_batch
        micro_batches = [pairs(self.train, own[i : i + size]) for i in range(0, len(own), size)]
        tokens = int(self.train.lengths[2 * whole].sum() + self.train.lengths[2 * whole + 1].sum())
        return Share(list(micro_batches), len(whole), tokens)

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        summed = torch.zeros(2, dtype=torch.float64)
        for samples, counts in self.rounds(self.validation):
            found = engine.evaluate(pairs(self.heldout, samples))
            summed += found if counts else 0.0
        dist.all_reduce(summed)
        loss, right = (summed / self.validation).tolist()
        low, high = wilson(right * self.validation, self.validation)
        found = {metrics.VALIDATION_LOSS: loss, "heldout_accuracy": right, "heldout_pairs": self.validation}
        return {**found, "heldout_accuracy_low": low, "heldout_accuracy_high": high}


def pairs(sequences: Sequences, samples: Sequence[int]) -> dict[str, Tensor]:
    rows = [row for sample in samples for row in (2 * sample, 2 * sample + 1)]
    return {"tokens": sequences.batch(rows)["tokens"], "lengths": torch.from_numpy(sequences.lengths[rows])}


def build(ctx: Context[RewardSpec]) -> dict[str, Any]:
    """Train the reward model and leave it as a Hugging Face sequence classifier with one label.

    Raises SpecError and InputError before any cluster time, JobError where training fails.
    """
    spec, model = ctx.spec, ctx.inputs["model"]
    config = require_trainable(model)
    require_classifier(model, config)
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    require_rows(model, config, tokenizer)
    prepare(tokenizer, "")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PADDING})
    longest = fitting_tokens(config, spec.sequence_length)
    left_out: dict[str, dict[str, int]] = {}

    def plan() -> BatchPlan:
        sizes = {}
        for split in ("train", "heldout"):
            rows, sequences, left_out[split] = read_pairs(ctx, tokenizer, split, longest)
            sequences.save(ctx.output / STATE, f"{split}.npz")
            sizes[split] = len(rows)
        steps = BatchSizes.of(spec).steps_to_see(math.ceil(spec.epochs * sizes["train"]))
        return plan_batches(spec, ctx.scaling, steps)

    def needs() -> dict[str, Any]:
        padding = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        return {**padding, "left_out": left_out["train"]}

    figures = run_training(ctx, "pipelines.stages.alignment.reward:recipe", plan, tokenizer_files(tokenizer), needs)
    heldout, _, _ = read_pairs(ctx, tokenizer, "heldout", longest)
    return figures | {"heldout_accuracy_by_kind": accuracy_by_kind(ctx, heldout[: spec.validation_pairs])}


def accuracy_by_kind(ctx: Context[RewardSpec], rows: list[Row]) -> dict[str, float]:
    """The finished model's accuracy on pairs, those of `heldout_accuracy`, by kind of rejected answer."""
    with ctx.scratch() as folder:
        ctx.output.get(folder)
        model = RewardModel(folder)
    chosen, rejected = (model.score([dialogue(row, role) for row in rows]) for role in ("chosen", "rejected"))
    kinds: dict[str, list[bool]] = {}
    for row, better, worse in zip(rows, chosen, rejected, strict=True):
        kinds.setdefault(row["how"], []).append(better > worse)
    return {kind: round(sum(right) / len(right), 4) for kind, right in sorted(kinds.items())}


def read_pairs(
    ctx: Context[RewardSpec], tokenizer: Any, split: str, longest: int
) -> tuple[list[Row], Sequences, dict[str, int]]:
    """The pairs of a split of which the template renders both conversations and neither is longer than `longest`
    tokens, as rows and as sequences, and how many are not so."""
    rows = read_preferences(ctx.inputs["preferences"].local(), split)
    kept: list[Row] = []
    sequences: list[Encoded] = []
    refused = 0
    for row in rows:
        try:
            pair = [encode(tokenizer, dialogue(row, role)) for role in ("chosen", "rejected")]
        except Refused:
            refused += 1
            continue
        if all(len(encoded.tokens) <= longest for encoded in pair):
            kept.append(row)
            sequences += pair
    if not kept:
        raise InputError(
            f"{ctx.inputs['preferences'].record.ref}: no {split} pair fits into {longest} tokens "
            f"({len(rows)} are there, {refused} are refused by the chat template)",
            "Raise reward.sequence_length (or take a model of a longer context), or give more pairs.",
        )
    left_out = {"too_long": len(rows) - len(kept) - refused, "refused": refused}
    return kept, Sequences.collect(sequences), left_out


def dialogue(row: Row, role: str) -> list[dict[str, str]]:
    """The conversation of a pair that ends with its `chosen` or its `rejected` answer."""
    return [*row["prompt"], {"role": "assistant", "content": row[role]}]


def recipe(work: Work, rank: int) -> Parts:
    """A model folder with a fresh head, trained on pairs."""
    spec = work.spec
    assert isinstance(spec, RewardSpec)
    train, heldout = (Sequences.load(work.state, f"{split}.npz") for split in ("train", "heldout"))
    torch.manual_seed(spec.seed)  # the head
    model = AutoModelForSequenceClassification.from_pretrained(
        work.inputs["model"].local(),
        num_labels=1,
        dtype=torch.float32,
        attn_implementation="sdpa",
        pad_token_id=work.extra["pad_token_id"],
    )
    if work.extra["vocab_size"] > model.config.vocab_size:  # a row for the padding, which nothing looks at
        model.resize_token_embeddings(work.extra["vocab_size"])

    def write(weights: dict[str, Tensor], into: Path) -> None:
        model.save_pretrained(into, state_dict=weights)

    return Parts(
        objective=BradleyTerry(model, spec.precision),
        source=PairBatches(train, heldout, work.plan, spec, rank),
        sequence_length=int(train.lengths.mean()),
        write=write,
        figures=lambda: {
            "pairs": len(train) // 2,
            **work.extra["left_out"],
            "epochs": round(work.plan.num_positions / (len(train) // 2), 4),
        },
    )


class RewardModel:
    """A finished reward model that scores answers. The conversation is rendered by its own template and tokenizer."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        self.model = model.to(device).eval()
        self.longest = context_tokens(json.loads((folder / CONFIG_FILE).read_bytes()))

    def score_samples(self, samples: Sequence[Sample]) -> list[float]:
        """The reward of each sampled answer; one that was cut off is shown as that, without the end of a turn."""
        whole = [[*sample.messages, {"role": "assistant", "content": sample.answer}] for sample in samples]
        return self.score(whole, [sample.finished for sample in samples])

    @torch.inference_mode()
    def score(
        self, conversations: list[list[dict[str, str]]], finished: Sequence[bool] | None = None, batch_size: int = 32
    ) -> list[float]:
        """The reward of each conversation, which ends with an answer; any real number, higher is better.

        Of one that is longer than the model's context the end is read, where the answer stands; of an answer that is
        not `finished` what there is.
        """
        known = finished or [True] * len(conversations)
        encoded = [self._tokens(messages, end) for messages, end in zip(conversations, known, strict=True)]
        order = np.argsort([len(tokens) for tokens in encoded], kind="stable").tolist()
        found: dict[int, float] = {}
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            length = len(encoded[rows[-1]])
            tokens = torch.tensor([encoded[row] + [0] * (length - len(encoded[row])) for row in rows])
            lengths = torch.tensor([len(encoded[row]) for row in rows])
            device = self.model.device
            found |= zip(rows, scores(self.model, tokens.to(device), lengths.to(device)).tolist(), strict=True)
        return [found[row] for row in range(len(encoded))]

    def _tokens(self, messages: list[dict[str, str]], finished: bool) -> list[int]:
        found = encode(self.tokenizer, messages)
        end = len(found.tokens)
        if not finished:
            end = max(index for index, learned in enumerate(found.learn) if learned)  # where the turn would end
        return found.tokens[:end][-(self.longest or 0) :]
