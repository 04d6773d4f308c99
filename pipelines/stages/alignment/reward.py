"""The reward model: a scalar head on a fine-tuned model, trained on pairs and ranked lists of answers (ranking.py).

The score is read at the last token, the end of the answer; padding stands to the right, where nothing looks. What
transformers itself pads, it scores at the last token that is not padding: the artifact has a padding token that no
conversation holds, for with the end of a turn for one it would read at another place.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from cluster.core.context import Context
from cluster.core.encoding import Encoded, Refused, encode, scored_tokens
from cluster.core.errors import InputError
from cluster.core.model_files import CONFIG_FILE, context_tokens, embedding_rows, fitting_tokens
from pipelines.specs import RewardSpec
from pipelines.stages.alignment import histograms
from pipelines.stages.alignment.preferences import read_rankings
from pipelines.stages.alignment.ranking import ListBatches, Lists, Ranking, calibration_error, scores
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import require_classifier, require_rows, require_trainable
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.conversations import Row
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.stage import tokenizer_files
from pipelines.stages.tuning.templates import prepare

PADDING = "<|pad|>"  # added to a tokenizer that has no padding token, or its end of text for one


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
            rows, lists, left_out[split] = read_lists(ctx, tokenizer, split, longest)
            lists.save(ctx.output / STATE, split)
            sizes[split] = len(rows)
        steps = BatchSizes.of(spec).steps_to_see(math.ceil(spec.epochs * sizes["train"]))
        return plan_batches(spec, ctx.scaling, steps)

    def needs() -> dict[str, Any]:
        padding = {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
        return {**padding, "left_out": left_out["train"]}

    figures = run_training(ctx, "pipelines.stages.alignment.reward:recipe", plan, tokenizer_files(tokenizer), needs)
    heldout, _, _ = read_lists(ctx, tokenizer, "heldout", longest)
    compared = [row for row in heldout if not row.get("tie")]
    return figures | judged(ctx, compared[: spec.validation_pairs])


def judged(ctx: Context[RewardSpec], rows: list[Row]) -> dict[str, Any]:
    """The finished model on held-out rows, those of `heldout_accuracy`: its accuracy by kind of rejected answer, the
    mean margin of better answers over worse ones, and how far its probabilities are from what is true. How scores and
    margins are spread is left beside the model."""
    with ctx.scratch() as folder:
        ctx.output.get(folder)
        model = RewardModel(folder)
    found = iter(model.score([messages for row in rows for messages in dialogues(row)]))
    best: list[float] = []
    others: list[float] = []
    kinds: dict[str, list[float]] = {}
    margins: list[float] = []
    weights: list[float] = []
    for row in rows:
        first, *rest = [next(found) for _ in answers(row)]
        best.append(first)
        others += rest
        own = [high - low for high, low in itertools.combinations([first, *rest], 2)]
        kinds.setdefault(row["how"], []).append(sum(margin > 0 for margin in own) / len(own))
        margins += own
        weights += [1 / len(own)] * len(own)  # a list counts as a pair does
    spread = {"scores of the best answers": best, "scores of the others": others}
    shown = histograms.in_text(spread) + histograms.in_text({"better answers minus worse ones": margins})
    ctx.output.write_bytes(histograms.HISTOGRAMS_FILE, shown.encode())
    return {
        "heldout_accuracy_by_kind": {kind: round(sum(right) / len(right), 4) for kind, right in sorted(kinds.items())},
        "heldout_margin": float(np.average(margins, weights=weights)),
        "heldout_calibration_error": calibration_error(np.array(margins), np.array(weights)),
    }


def answers(row: Row) -> list[str]:
    """The answers of a pair or a list, the best first."""
    return list(row["ranked"]) if "ranked" in row else [row["chosen"], row["rejected"]]


def read_lists(
    ctx: Context[RewardSpec], tokenizer: Any, split: str, longest: int
) -> tuple[list[Row], Lists, dict[str, int]]:
    """The pairs and lists of a split whose conversations the template renders in at most `longest` tokens, as rows and
    as sequences, and how many are not so. Of a list, answers that are too long are left out where two are left."""
    rows = read_rankings(ctx.inputs["preferences"].local(), split)
    kept: list[Row] = []
    sequences: list[Encoded] = []
    left_out = Counter({"too_long": 0, "refused": 0})
    for row in rows:
        if "desirable" in row:
            left_out["unpaired"] += 1
            continue
        texts = answers(row)
        try:
            found = [encode(tokenizer, messages) for messages in dialogues(row)]
        except Refused:
            left_out["refused"] += 1
            continue
        fitting = [place for place, one in enumerate(found) if len(one.tokens) <= longest]
        if len(fitting) < (len(texts) if "chosen" in row else 2):
            left_out["too_long"] += 1
            continue
        if len(fitting) < len(texts):
            left_out["shortened"] += 1
        kept.append(row | {"ranked": [texts[place] for place in fitting]} if "ranked" in row else row)
        sequences += [found[place] for place in fitting]
    if not any(not row.get("tie") for row in kept):
        raise InputError(
            f"{ctx.inputs['preferences'].record.ref}: no {split} pair fits into {longest} tokens "
            f"({len(rows)} are there, {left_out['refused']} are refused by the chat template)",
            "Raise reward.sequence_length (or take a model of a longer context), or give more pairs.",
        )
    lists = Lists(
        Sequences.collect(sequences),
        np.array([len(answers(row)) for row in kept]),
        np.array([float(row.get("margin", 0.0)) for row in kept]),
        np.array([bool(row.get("tie")) for row in kept]),
    )
    return kept, lists, dict(left_out)


def dialogues(row: Row) -> list[list[dict[str, Any]]]:
    """The conversations of a row, each with one of its answers at the end, the best first."""
    return [[*row["prompt"], {"role": "assistant", "content": text}] for text in answers(row)]


def recipe(work: Work, rank: int) -> Parts:
    """A model folder with a fresh head, trained on pairs and lists."""
    spec = work.spec
    assert isinstance(spec, RewardSpec)
    train, heldout = (Lists.load(work.state, split) for split in ("train", "heldout"))
    torch.manual_seed(spec.seed)  # the head
    folder = work.inputs["model"].local()
    model = untrained(folder, work.extra["pad_token_id"], work.extra["vocab_size"])

    def write(weights: dict[str, Tensor], into: Path) -> None:
        model.save_pretrained(into, state_dict=weights)

    return Parts(
        objective=Ranking(model, spec.precision, spec.center_coef, spec.margin_scale),
        source=ListBatches(train, heldout, work.plan, spec, rank),
        sequence_length=int(train.sequences.lengths.mean()),
        write=write,
        figures=lambda: {
            "pairs": int((train.sizes == 2).sum()),
            "lists": int((train.sizes > 2).sum()),
            "ties": int(train.ties.sum()),
            **work.extra["left_out"],
            "epochs": round(work.plan.num_positions / len(train), 4),
        },
    )


def untrained(folder: Path, pad_token_id: int, vocab_size: int) -> Any:
    """The model in a folder with a head of one number, drawn from torch's random state, and a row for each token id. A
    row for the padding, which nothing looks at, is added where there is none: only then can families such as Llama's be
    told which one it is."""
    rows = embedding_rows(json.loads((folder / CONFIG_FILE).read_bytes()))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=1,
        dtype=torch.float32,
        attn_implementation="sdpa",
        pad_token_id=pad_token_id if pad_token_id < rows else None,
    )
    if vocab_size > rows:
        model.resize_token_embeddings(vocab_size)
    model.config.pad_token_id = pad_token_id
    return model


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
        return scored_tokens(self.tokenizer, messages, finished)[-(self.longest or 0) :]
