"""Which samples a step sees does not depend on how it is split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.build import build
from cluster.core.errors import SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import MixturePhase, MixtureSpec, PretrainSpec, ScalingSpec
from pipelines.stages.tokens.order import Order
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stream import open_stores, open_stream
from pipelines.stages.training.batches import plan_batches, pretrain_steps
from pipelines.stages.training.sources import TokenBatches, stack
from tests.training.tiny import make_tokens


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


SPEC = PretrainSpec(global_batch_size=8, seed=3)


def step_of(tokens: Artifact, number: int, **scaling: int) -> torch.Tensor:
    """What a step trains on, put together from ranks that know nothing but the artifact and the step."""
    plan = plan_batches(SPEC, ScalingSpec(**scaling), 100)  # type: ignore[arg-type]
    heldout, found = open_stores(tokens, "heldout"), []
    for rank in range(plan.num_workers):
        stream = open_stream(tokens, SPEC.seed, plan.num_positions)
        found += TokenBatches(stream, heldout, plan, SPEC, rank).share(number).micro_batches
    return torch.cat(found)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Two stores, the smaller of them from the middle of the run on."""
    store = Store(tmp_path_factory.mktemp("store"))
    spec = MixtureSpec(
        weights={"web": 2, "code": 1}, phases=(MixturePhase(weights={"web": 1.0}, until_fraction=0.5),), max_epochs=9
    )
    inputs = {"web": make_tokens(store, "web"), "code": make_tokens(store, "code", 100)}
    return build(spec, inputs, store=store, name="mixed")


def test_the_same_sequences_whatever_the_split(tokens: Artifact) -> None:
    store = TokenStore(tokens.local(), "train")
    one = step_of(tokens, 70, num_workers=1)  # in the second epoch
    samples = Order(store.num_sequences, SPEC.seed).samples(560, 568)
    assert torch.equal(one, stack(store, samples.tolist()))
    assert one.shape == (8, store.sequence_length + 1)
    assert torch.equal(one, step_of(tokens, 70, num_workers=4))
    assert torch.equal(one, step_of(tokens, 70, num_workers=2, micro_batch_size=1))
    assert not torch.equal(one, step_of(tokens, 71, num_workers=1))


@pytest.mark.heavy
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 14), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=5))
def test_a_run_that_stops_and_goes_on_with_other_workers_sees_the_same(
    mixture: Artifact, legs: list[tuple[int, int]]
) -> None:
    done, seen = 30, []
    for steps, workers in legs:
        seen += [step_of(mixture, done + step, num_workers=workers) for step in range(steps)]
        done += steps
    whole = open_stream(mixture, SPEC.seed, 800).read(8 * 30, 8 * done)
    assert torch.equal(torch.cat(seen), torch.from_numpy(whole))


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
