"""Which samples a step sees does not depend on how it is split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.errors import SpecError
from cluster.specs import PretrainSpec, ScalingSpec
from pipelines.tokens.reader import TokenStore
from pipelines.training.batches import TokenBatches, plan_batches, pretrain_steps


@given(
    workers=st.sampled_from([1, 2, 3, 4, 6, 12]),
    micro=st.sampled_from([None, 1]),
    step=st.integers(0, 10**6),
)
def test_ranks_share_out_the_positions_of_a_step(workers: int, micro: int | None, step: int) -> None:
    spec = PretrainSpec(global_batch_size=12, total_tokens=10**9)
    plan = plan_batches(spec, ScalingSpec(num_workers=workers, micro_batch_size=micro), pretrain_steps(spec, 16))
    found = [p for rank in range(workers) for p in range(*plan.positions(step, rank))]
    assert found == list(range(step * 12, (step + 1) * 12))


def test_the_same_sequences_whatever_the_split(tokens: Artifact) -> None:
    store, heldout = TokenStore(tokens.local(), "train"), TokenStore(tokens.local(), "heldout")
    spec = PretrainSpec(global_batch_size=8, seed=3)

    def step(number: int, **scaling: int) -> torch.Tensor:
        plan = plan_batches(spec, ScalingSpec(**scaling), 100)  # type: ignore[arg-type]
        ranks = [TokenBatches(store, heldout, plan, spec, rank) for rank in range(plan.num_workers)]
        return torch.cat([batch for rank in ranks for batch in rank.share(number).micro_batches])

    one = step(70, num_workers=1)  # in the second epoch
    assert one.shape == (8, store.sequence_length + 1)
    assert torch.equal(one, step(70, num_workers=4))
    assert torch.equal(one, step(70, num_workers=2, micro_batch_size=1))
    assert not torch.equal(one, step(71, num_workers=1))


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"num_workers": 3}, "3 workers"),
        ({"num_workers": 2, "micro_batch_size": 3}, "such as 2"),
        ({"num_workers": 2, "micro_batch_size": 9}, "such as 4"),
    ],
)
def test_batches_that_do_not_divide_are_told(scaling: dict[str, int], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        plan_batches(PretrainSpec(global_batch_size=8), ScalingSpec(**scaling), 16)  # type: ignore[arg-type]
