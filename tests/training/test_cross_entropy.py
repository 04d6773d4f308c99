"""The loss and its gradient against the formula in double precision, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipelines.stages.training.objectives import cross_entropy as module
from pipelines.stages.training.objectives.cross_entropy import cross_entropy


def by_formula(logits: Tensor, labels: Tensor, z_loss: float, smoothing: float) -> tuple[Tensor, Tensor]:
    logs = logits[labels >= 0]
    log_z = logs.logsumexp(-1)
    truth = log_z - logs.gather(1, labels[labels >= 0].unsqueeze(1)).squeeze(1)
    loss = (1 - smoothing) * truth + smoothing * (log_z - logs.mean(-1)) + z_loss * log_z.square()
    return loss.sum(), truth.sum()


@given(
    rows=st.integers(1, 40),
    vocabulary=st.integers(2, 50),
    block_bytes=st.sampled_from([1, 500, 2**20]),
    z_loss=st.sampled_from([0.0, 0.01]),
    smoothing=st.sampled_from([0.0, 0.1]),
    scale=st.sampled_from([0.1, 3.0, 200.0]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradient_are_those_of_the_formula(
    rows: int, vocabulary: int, block_bytes: int, z_loss: float, smoothing: float, scale: float, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, vocabulary, generator=drawn) * scale
    labels = torch.randint(-1, vocabulary, (rows,), generator=drawn)
    ours, exact = weights.clone().requires_grad_(), weights.double().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CPU_BLOCK_BYTES", block_bytes)
        loss, entropy = cross_entropy(ours * 1, labels, z_loss, smoothing)  # a product: no leaf may be overwritten
        (loss / 7).backward()
    wanted, told = by_formula(exact, labels, z_loss, smoothing)
    (wanted / 7).backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-4)
    assert entropy.item() == pytest.approx(told.item(), rel=1e-5, abs=1e-4)
    assert exact.grad is not None
    torch.testing.assert_close(ours.grad, exact.grad.float(), rtol=1e-4, atol=1e-5)


def test_halves_are_summed_in_full_precision() -> None:
    """4,096 labels at a loss of about 5: bfloat16 could not even count them."""
    logits = torch.randn(4096, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(4096) % 100
    ours = logits.clone().requires_grad_()
    loss, _ = cross_entropy(ours * 1, labels)
    loss.backward()
    exact = logits.double().requires_grad_()
    wanted, _ = by_formula(exact, labels, 0.0, 0.0)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert ours.grad is not None
    assert exact.grad is not None
    assert ours.grad.dtype == torch.bfloat16
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=2**-7, atol=1e-4)


def test_without_a_gradient_the_logits_stay() -> None:
    logits = torch.randn(5, 7)
    before = logits.clone()
    cross_entropy(logits, torch.tensor([0, 1, -100, 3, 4]))
    assert torch.equal(logits, before)


def test_no_label_at_all_is_no_loss() -> None:
    logits = torch.randn(3, 7, requires_grad=True)
    loss, _ = cross_entropy(logits * 1, torch.full((3,), -100), 0.1, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_a_gradient_cannot_be_asked_for_twice() -> None:
    """It would be wrong the second time, as it takes the place of the logits."""
    loss, _ = cross_entropy(torch.randn(3, 7, requires_grad=True) * 1, torch.tensor([0, 1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()
