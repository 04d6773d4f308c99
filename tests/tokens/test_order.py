"""The order of samples: a permutation of every epoch, wherever one starts reading and however far away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.tokens.order import Order, WindowedOrder

sizes, seeds = st.integers(1, 3000), st.integers(0, 2**63)


@given(sizes, seeds, st.integers(0, 5))
def test_every_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    found = Order(n, seed).samples(epoch * n, (epoch + 1) * n)
    assert np.array_equal(np.sort(found), np.arange(n))


@given(sizes, seeds, st.data())
def test_any_cut_gives_the_same_sequence(n: int, seed: int, data: st.DataObject) -> None:
    order = Order(n, seed)
    stop = data.draw(st.integers(0, 3 * n))
    cut = data.draw(st.integers(0, stop))
    whole = order.samples(0, stop)
    assert np.array_equal(np.concatenate([order.samples(0, cut), order.samples(cut, stop)]), whole)
    if stop:
        assert order.sample(stop - 1) == whole[-1]


def test_epochs_and_seeds_differ_and_the_order_is_fixed_for_ever() -> None:
    order = Order(1000, 7)
    first, second = order.samples(0, 1000), order.samples(1000, 2000)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(1000, 8).samples(0, 1000))
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.1
    assert Order(10, 0).samples(0, 20).tolist() == Order(10, 0).samples(0, 20).tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 10**12, 2**62 - 1])
def test_far_positions_cost_nothing(n: int) -> None:
    order = Order(n, 3)
    position = 10**12
    found = order.samples(position, position + 4)
    assert ((found >= 0) & (found < n)).all()
    assert found.nbytes == 32


def test_bounds() -> None:
    for n in (0, -1, 2**62):
        with pytest.raises(ValueError, match="num_samples"):
            Order(n, 0)


shards = st.lists(st.integers(0, 60), max_size=12)


@given(shards, st.integers(1, 5), seeds)
def test_windows_are_permuted_each_in_itself(shard_sizes: list[int], per_window: int, seed: int) -> None:
    order = WindowedOrder(shard_sizes, per_window, seed, complete=True)
    assert order.num_known == sum(shard_sizes)
    found = order.samples(0, order.num_known)
    first = 0
    for number in range(0, len(shard_sizes), per_window):
        size = sum(shard_sizes[number : number + per_window])
        assert np.array_equal(np.sort(found[first : first + size]), np.arange(first, first + size))
        first += size


@given(shards, shards, st.integers(1, 5), seeds, st.data())
def test_shards_that_come_later_change_nothing_before(
    early: list[int], late: list[int], per_window: int, seed: int, data: st.DataObject
) -> None:
    before, after = WindowedOrder(early, per_window, seed), WindowedOrder(early + late, per_window, seed)
    known = before.num_known
    assert known == sum(early[: len(early) // per_window * per_window])
    assert np.array_equal(before.samples(0, known), after.samples(0, known))
    cut = data.draw(st.integers(0, known))
    assert np.array_equal(np.append(before.samples(0, cut), before.samples(cut, known)), before.samples(0, known))
    if cut < known:
        assert before.sample(cut) == before.samples(0, known)[cut]


def test_windows_are_shuffled_differently_and_what_is_not_known_is_told() -> None:
    order = WindowedOrder([500, 500, 500, 500, 7], 2, 3)
    assert not np.array_equal(order.samples(0, 1000), order.samples(1000, 2000) - 1000)
    assert abs(np.corrcoef(order.samples(0, 1000), np.arange(1000))[0, 1]) < 0.1
    with pytest.raises(ValueError, match="only those below 2000 are known"):
        order.samples(1990, 2001)
    assert WindowedOrder([500, 500, 500, 500, 7], 2, 3, complete=True).num_known == 2007
    for sizes_, per_window in (([-1], 1), ([1], 0)):
        with pytest.raises(ValueError, match="impossible"):
            WindowedOrder(sizes_, per_window, 0)
