"""Losses on preferences and of reward models, and their gradients, beside TRL's, of one model on the same token ids.

python benchmarks/preference_losses.py FOLDER     # a folder with TRL: pip install --no-deps --target FOLDER trl

TRL's own trainers tokenize, collate and compute; their batches are given to our objectives. A Llama of 60,000
parameters in fp32 and one that was moved away from it at random, of which one is trained and the other the reference.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from pipelines.specs import Dpo, Ipo, Kto, Orpo, Simpo
from pipelines.stages.alignment.offline.logprobs import AnswerLogprobs
from pipelines.stages.alignment.offline.losses.loss import Answers
from pipelines.stages.alignment.offline.objective import BASELINE, Preference
from pipelines.stages.alignment.ranking import Ranking

PAIRS = 8


def models() -> tuple[Any, Any, Any]:
    """A policy, a reference that is near it, and their tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipelines.stages.tuning.templates import prepare
    from tests.alignment.tiny_chat import write_conversations, write_model

    folder = Path(tempfile.mkdtemp())
    write_conversations(folder / "functions.jsonl", 60)
    write_model(folder / "model", folder / "functions.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prepare(tokenizer, "completion")
    tokenizer.pad_token = tokenizer.eos_token
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "model") for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return policy, reference, tokenizer


def rows() -> list[dict[str, Any]]:
    return [
        {"prompt": f"Say {n}.", "chosen": f" {n}, so it is." + " Yes." * (n % 3), "rejected": " No." * (1 + n % 4)}
        for n in range(PAIRS)
    ]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


class Compared(NamedTuple):
    """Ours and TRL's loss, and the largest difference of a gradient relative to the largest gradient."""

    name: str
    ours: float
    theirs: float
    gradients_apart: float

    @property
    def apart(self) -> float:
        return abs(self.ours - self.theirs) / abs(self.theirs)


def compared(name: str, ours: Tensor, own: dict[str, Tensor], theirs: Tensor, other: dict[str, Tensor]) -> Compared:
    largest = max(g.abs().max() for g in other.values())
    apart = max((own[key] - other[key]).abs().max() for key in other) / largest
    return Compared(name, float(ours.detach()), float(theirs.detach()), float(apart))


def interleaved(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """TRL's batch, chosen before rejected, as ours: pair after pair."""
    order = torch.arange(2 * PAIRS).view(2, PAIRS).T.flatten()
    return {"tokens": batch["input_ids"][order], "learn": batch["completion_mask"][order, 1:].bool()}


def log_ratio_of(reference: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return AnswerLogprobs(copy.deepcopy(reference), "fp32").of(batch)


def pairs(policy: Any, reference: Any, tokenizer: Any, options: dict[str, Any]) -> Iterator[Compared]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    for name, loss, fields in (
        ("DPO", Dpo(beta=0.3), {"loss_type": ["sigmoid"], "beta": 0.3}),
        ("IPO, per token", Ipo(tau=0.3), {"loss_type": ["ipo"], "beta": 0.3}),
    ):
        config = DPOConfig(**options, **fields)
        trainer = DPOTrainer(
            copy.deepcopy(policy),
            copy.deepcopy(reference),
            args=config,
            train_dataset=Dataset.from_list(rows()),
            processing_class=tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(PAIRS)])
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        own = interleaved(batch)
        own["reference"] = log_ratio_of(reference, own)
        objective = Preference(copy.deepcopy(policy), "fp32", loss)
        ours = objective(own) / PAIRS
        yield compared(name, ours, gradients(objective.model, ours), theirs, gradients(trainer.model, theirs))


def single(policy: Any, reference: Any, tokenizer: Any, options: dict[str, Any]) -> Iterator[Compared]:
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    given = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for number, row in enumerate(rows())
        for side in (("chosen", "rejected") if number % 2 else ("chosen",))
    ][:PAIRS]
    for name, wanted in (("KTO, both sides", None), ("KTO, wanted answers alone", True)):
        some = [row | {"label": row["label"] if wanted is None else wanted} for row in given]
        trainer = KTOTrainer(
            copy.deepcopy(policy),
            copy.deepcopy(reference),
            args=KTOConfig(**options, beta=0.3, desirable_weight=1.2),
            train_dataset=Dataset.from_list(some),
            processing_class=tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(PAIRS)])
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        own, others = (
            {"tokens": batch[f"{of}input_ids"], "learn": batch[f"{of}completion_mask"][:, 1:].bool()}
            for of in ("", "KL_")
        )
        desirable = torch.tensor([row["label"] for row in some])
        objective = Preference(copy.deepcopy(policy), "fp32", Kto(beta=0.3, desirable_weight=1.2))
        with torch.no_grad():
            baseline = objective(others | {"reference": log_ratio_of(reference, others)}) / PAIRS
        own |= {"reference": log_ratio_of(reference, own), "desirable": desirable, "weights": torch.ones(PAIRS)}
        ours = objective(own | {BASELINE: baseline.expand(PAIRS)}) / PAIRS
        yield compared(name, ours, gradients(objective.model, ours), theirs, gradients(trainer.model, theirs))


def without_reference() -> Iterator[Compared]:
    """ORPO's and SimPO's, of mean log-probabilities of a token, by the methods of TRL's experimental trainers."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    chosen, rejected = (torch.tensor(values) for values in ([-0.2, -2.0, -0.7, -0.01], [-1.5, -0.3, -0.7, -9.0]))
    accelerator = SimpleNamespace(device="cpu")
    orpo = SimpleNamespace(beta=0.3, accelerator=accelerator)
    simpo = SimpleNamespace(
        loss_type="simpo", simpo_gamma=1.6, beta=2.0, alpha=0.0, label_smoothing=0.0, accelerator=accelerator
    )

    def answers(means: Tensor) -> Answers:
        return Answers(means, torch.zeros(4), torch.ones(4))

    rivals: dict[str, tuple[Any, Any]] = {
        "ORPO": (Orpo(weight=0.3), lambda high, low: -high - ORPOTrainer.odds_ratio_loss(orpo, high, low)[0]),
        "SimPO": (Simpo(beta=2.0, gamma=1.6), lambda high, low: CPOTrainer.cpo_loss(simpo, high, low)[0]),
    }
    for name, (own, theirs_of) in rivals.items():

        def ours_of(high: Tensor, low: Tensor, own: Any = own) -> Tensor:
            return own.of_pairs(answers(high), answers(low))

        found = []
        for function in (ours_of, theirs_of):
            at = [values.clone().requires_grad_() for values in (chosen, rejected)]
            loss = function(*at).mean()
            loss.backward()
            found += [loss.detach(), {str(side): values.grad for side, values in enumerate(at)}]
        yield compared(name, *found)


def reward(policy: Any, tokenizer: Any, options: dict[str, Any]) -> Iterator[Compared]:
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(2)
    scorer = LlamaForSequenceClassification(policy.config)
    scorer.config.num_labels = 1
    scorer.config.pad_token_id = 1  # no conversation has it
    scorer.score = torch.nn.Linear(policy.config.hidden_size, 1, bias=False)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    given = [row | {"margin": 0.25 * number} for number, row in enumerate(rows())]
    trainer = RewardTrainer(
        copy.deepcopy(scorer),
        args=RewardConfig(**options, center_rewards_coefficient=0.05),
        train_dataset=Dataset.from_list(given),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(PAIRS)])
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    order = torch.arange(2 * PAIRS).view(2, PAIRS).T.flatten()
    own = {
        "tokens": batch["input_ids"][order],
        "lengths": batch["attention_mask"][order].sum(1),
        "sizes": torch.full((PAIRS,), 2),
        "margins": batch["margin"],
        "ties": torch.zeros(PAIRS, dtype=torch.bool),
    }
    objective = Ranking(copy.deepcopy(scorer), "fp32", 0.05, 1.0).train()
    ours = objective(own) / PAIRS
    yield compared(
        "reward model, margins and centring",
        ours,
        gradients(objective.model, ours),
        theirs,
        gradients(trainer.model, theirs),
    )


def losses() -> Iterator[Compared]:
    """Every loss that TRL has, too."""
    policy, reference, tokenizer = models()
    options = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": PAIRS,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    yield from pairs(policy, reference, tokenizer, options)
    yield from single(policy, reference, tokenizer, options)
    yield from without_reference()
    yield from reward(policy, tokenizer, options)


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    print("| loss | ours | TRL | relative difference | of gradients, relative to the largest |\n|---|---|---|---|---|")
    for row in losses():
        print(f"| {row.name} | {row.ours:.7f} | {row.theirs:.7f} | {row.apart:.1e} | {row.gradients_apart:.1e} |")


if __name__ == "__main__":
    main()
