"""Growing batches: hand-computed sizes, and positions that tile the run for all workers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import SpecError
from cluster.core.specs.spec import override
from pipelines.specs import PretrainSpec, RlhfSpec, ScalingSpec
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import plan_batches, pretrain_steps

GROWING = PretrainSpec(global_batch_size=32, start_batch_size=8, batch_size_warmup_steps=6, total_tokens=300 * 16)


def test_a_batch_grows_linearly_in_multiples_of_the_first() -> None:
    sizes = BatchSizes.of(GROWING)
    assert [sizes.size(step) for step in range(8)] == [8, 8, 16, 16, 24, 24, 32, 32]
    assert [sizes.before(step) for step in range(9)] == [0, 8, 16, 32, 48, 72, 96, 128, 160]
    # 300 sequences: 96 while it grows and 204 after, 6 batches of 32 and a rest of 12.
    assert pretrain_steps(GROWING, 16) == 12
    assert sizes.steps_to_see(300) == 13
    assert sizes.steps_to_see(288) == 12


@st.composite
def growths(draw: st.DrawFn) -> BatchSizes:
    start = draw(st.integers(1, 20))
    return BatchSizes(start, start * draw(st.integers(1, 20)), draw(st.integers(0, 200)))


@given(growths(), st.integers(0, 300))
def test_sums_and_steps_are_those_of_counting(sizes: BatchSizes, steps: int) -> None:
    each = [sizes.size(step) for step in range(steps)]
    assert sizes.before(steps) == sum(each)
    assert each == sorted(each)
    assert all(size % sizes.start == 0 for size in each)
    assert sizes.steps(sum(each)) == steps == sizes.steps_to_see(sum(each))
    assert sizes.steps(sum(each) + sizes.size(steps) - 1) == steps
    assert sizes.steps_to_see(sum(each) + 1) == steps + 1


@given(
    growth=st.sampled_from([(12, 0), (12, 5), (24, 7), (60, 30)]),
    workers=st.sampled_from([1, 2, 3, 4, 6, 12]),
    steps=st.integers(1, 60),
)
def test_the_positions_of_all_steps_tile_the_run(growth: tuple[int, int], workers: int, steps: int) -> None:
    final, warmup = growth
    spec = PretrainSpec(
        global_batch_size=final, start_batch_size=12 if warmup else None, batch_size_warmup_steps=warmup
    )
    plan = plan_batches(spec, ScalingSpec(num_workers=workers, micro_batch_size=1), steps)
    parts = [plan.positions(step, rank) for step in range(steps) for rank in range(workers)]
    assert parts[0][0] == 0
    assert parts[-1][1] == plan.num_positions
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    assert [plan.batch(step)[0] for step in range(steps)] == [start for start, _ in parts[::workers]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"start_batch_size": 8}, "belong together"),
        ({"batch_size_warmup_steps": 8}, "belong together"),
        ({"start_batch_size": 5, "batch_size_warmup_steps": 8}, "5 does not divide the 32"),
    ],
)
def test_growth_that_is_not_whole_is_told(fields: dict[str, int], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        override(PretrainSpec(), fields, "pretrain")
    with pytest.raises(SpecError, match="does not grow"):
        override(RlhfSpec(), {"start_batch_size": 8, "batch_size_warmup_steps": 1}, "rlhf")


def test_the_first_batch_must_divide_among_workers_and_micro_batches() -> None:
    with pytest.raises(SpecError, match=r"pretrain\.start_batch_size: 8 sequences do not divide among 16 workers"):
        plan_batches(GROWING, ScalingSpec(num_workers=16), 1)
    with pytest.raises(SpecError, match="8 does not divide the 4 sequences"):
        plan_batches(GROWING, ScalingSpec(num_workers=2, micro_batch_size=8), 1)
    assert plan_batches(GROWING, ScalingSpec(num_workers=2), 1).micro_batch == 4
