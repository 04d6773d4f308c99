"""Losses of policy gradients against TRL's own code, values and gradients in fp64, at ratios from 0.1 to 50.

    pip install --no-deps --target FOLDER trl && python benchmarks/trl_formulas.py FOLDER

TRL's are called as they stand: `GRPOTrainer._compute_loss` on answers of unequal length with good and bad advantages,
and, for distillation, GKD's `generalized_jsd_loss` at beta 1, the reverse KL over the whole vocabulary, of which ours,
weighted by the probabilities of what could have been drawn, must have the gradient. TRL 1.16 has no PPO.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from pipelines.specs import Cispo, Clipped, Distillation, Gspo, RlhfSpec
from pipelines.stages.alignment.advantages.advantage import Drawn
from pipelines.stages.alignment.losses.loss import PolicyLoss
from pipelines.stages.alignment.packing import token_weights
from pipelines.stages.alignment.policy_gradient import kl_penalties
from pipelines.stages.generation.engine import Completion

RATIOS = [[0.1, 0.5, 0.79, 0.81, 1.0, 1.19], [1.3, 2.9, 3.1, 4.9, 5.1, 50.0], [50.0, 0.1, 1.0, 1.0, 1.0, 1.0]]
LENGTHS = [6, 4, 1]
LONGEST = 8
# What each is called in TRL, and its settings there; ours, and the mean that it is taken with.
LOSSES: dict[str, tuple[dict[str, Any], PolicyLoss, str]] = {
    "GRPO": ({"loss_type": "grpo"}, Clipped(), "answers"),
    "Dr. GRPO": ({"loss_type": "dr_grpo"}, Clipped(), "length"),
    "DAPO": ({"loss_type": "dapo", "epsilon_high": 0.28}, Clipped(high=0.28), "tokens"),
    "CISPO": ({"loss_type": "cispo", "epsilon_high": 5.0}, Cispo(), "tokens"),
    "GSPO": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        Gspo(),
        "answers",
    ),
}


def theirs(
    settings: dict[str, Any], logprobs: Tensor, old: Tensor, reference: Tensor, learn: Tensor, beta: float
) -> Any:
    """TRL's loss of these log-probabilities."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    delta = 3.0 if settings.get("importance_sampling_level") != "sequence" else None  # its bound of bad answers
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
    )
    usual = {"epsilon_low": 0.2, "epsilon_high": 0.2, "importance_sampling_level": "token"}
    trainer = SimpleNamespace(
        **(usual | settings),
        args=SimpleNamespace(delta=delta, use_bias_correction_kl=True, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        beta=beta,
        use_vllm=False,
        aux_loss_enabled=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        accelerator=accelerator,
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ids = torch.zeros_like(learn, dtype=torch.int64)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": learn.long(),
        "advantages": ADVANTAGES,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": learn.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


ADVANTAGES = torch.tensor([1.5, -0.7, -0.3], dtype=torch.float64)


def ours(
    loss: PolicyLoss, mean: Any, logprobs: Tensor, old: Tensor, reference: Tensor, learn: Tensor, beta: float
) -> Any:
    log_ratio = (logprobs - old).where(learn, 0)
    losses, _ = loss.of(logprobs, log_ratio, ADVANTAGES.unsqueeze(1), learn)
    if beta:
        losses = losses + beta * kl_penalties(logprobs, old, reference, learn, "token")
    spec = RlhfSpec(mean_over=mean, max_completion_tokens=LONGEST)
    weights = token_weights(spec, [Completion([0] * n, [0.0] * n, True) for n in LENGTHS]).double()
    return (losses * weights.unsqueeze(1))[learn].sum() / learn.sum()


def distance(one: Any, other: Any, logprobs: Tensor) -> float:
    """The largest difference of two losses and their gradients."""
    found = [torch.autograd.grad(loss, logprobs)[0] for loss in (one, other)]
    return max(abs(float((one - other).detach())), float((found[0] - found[1]).abs().max()))


def distillation() -> float:
    """The gradient in logits of our loss, in expectation over what could be drawn, and of TRL's reverse KL."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    torch.manual_seed(0)
    logits = torch.randn(1, 4, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 4, 7, dtype=torch.float64)
    exact = GKDTrainer.generalized_jsd_loss(logits, teacher, beta=1, reduction="sum")
    student = logits.log_softmax(-1)
    told = student.detach()
    learn, expected = torch.ones(1, 4, dtype=torch.bool), torch.zeros((), dtype=torch.float64)
    for token in range(7):  # at each place by itself: those before it are held fixed
        gap = (teacher.log_softmax(-1) - told)[..., token]
        advantages = Distillation().of_tokens(Drawn(torch.zeros(1), 1, learn, teacher=gap)).advantages
        losses, _ = Clipped().of(student[..., token], student[..., token] - told[..., token], advantages, learn)
        expected = expected + (losses * told[..., token].exp()).sum()
    found = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (exact, expected)]
    return float((found[0] - found[1]).abs().max())


def distances() -> Iterator[tuple[str, float, float]]:
    """Each algorithm with a KL coefficient, and the largest difference of losses and gradients."""
    torch.manual_seed(0)
    old = -2 - torch.rand(3, 6, dtype=torch.float64)
    logprobs = (old + torch.tensor(RATIOS, dtype=torch.float64).log()).requires_grad_()
    reference = old + 0.3 * torch.randn(3, 6, dtype=torch.float64)
    learn = torch.arange(6) < torch.tensor(LENGTHS).unsqueeze(1)
    for name, (settings, loss, mean) in LOSSES.items():
        for beta in (0.0,) if name == "GSPO" else (0.0, 0.1):  # TRL weighs GSPO's KL by the ratios of whole answers
            given = (logprobs, old, reference, learn, beta)
            yield name, beta, distance(theirs(settings, *given), ours(loss, mean, *given), logprobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trl", help="the folder that TRL was installed into")
    sys.path.append(parser.parse_args().trl)
    import trl

    print(f"largest difference of losses and gradients, ours and TRL {trl.__version__}'s")
    for name, beta, found in distances():
        print(f"{name:<14} KL coefficient {beta}: {found:.1e}")
    print(f"{'distillation':<14} gradient of the reverse KL: {distillation():.1e}")


if __name__ == "__main__":
    main()
