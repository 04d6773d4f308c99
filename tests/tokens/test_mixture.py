"""Mixtures: proportions in every prefix, continuity over phases, and the artifact that names stores without copying."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import Graph, read_changes
from cluster.core.lineage import lineage
from cluster.core.specs import spec as specs
from cluster.core.storage.gc import collect
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline
from pipelines.specs import MixturePhase, MixtureSpec, PretrainSpec
from pipelines.stages.tokens.mixing.mixture import (
    MAX_DEVIATION,
    MAX_PARTS,
    Curriculum,
    MixedOrder,
    Mixture,
    whole_weights,
)
from pipelines.stages.tokens.order import Order
from pipelines.stages.tokens.stream import open_stores, open_stream
from tests.training.tiny import LENGTH, make_tokens

weights_of = st.lists(st.integers(0, MAX_PARTS // 12), min_size=1, max_size=12).filter(any)
small_weights = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any)
far = st.integers(0, 2**62 - 1000)


def deviation(weights: Sequence[int], n: int) -> Fraction:
    counts = Mixture(weights).counts(n)
    assert sum(counts) == n
    total = sum(weights)
    return max(abs(count - Fraction(n * weight, total)) for count, weight in zip(counts, weights, strict=True))


@given(weights_of, far)
def test_every_prefix_holds_the_proportions(weights: list[int], n: int) -> None:
    assert deviation(weights, n) < MAX_DEVIATION


@pytest.mark.parametrize(
    "weights",
    [
        [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144],
        [2**i for i in range(12)],
        [1] * 12,
        [1] * 11 + [1000],
        [1, MAX_PARTS - 1],
        [7, 0, 3],
    ],
    ids=str,
)
def test_the_proportions_of_weights_that_make_the_worst_trees(weights: list[int]) -> None:
    assert max(deviation(weights, n) for n in range(600)) < MAX_DEVIATION
    assert deviation(weights, 1000 * sum(weights)) < MAX_DEVIATION


def test_three_to_one_by_hand() -> None:
    sources, indices = Mixture([3, 1]).places(0, 8)
    assert sources.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]
    assert indices.tolist() == [0, 0, 1, 2, 3, 1, 4, 5]


@given(weights_of, far, st.integers(0, 60))
def test_a_range_is_its_positions(weights: list[int], start: int, length: int) -> None:
    mixture = Mixture(weights)
    sources, indices = mixture.places(start, start + length)
    assert [mixture.place(p) for p in range(start, start + length)] == list(
        zip(sources.tolist(), indices.tolist(), strict=True)
    )
    before, after = mixture.counts(start), mixture.counts(start + length)
    for number, (first, end) in enumerate(zip(before, after, strict=True)):
        assert indices[sources == number].tolist() == list(range(first, end))
    assert all(weights[source] for source in sources.tolist())


def test_the_last_positions_do_not_overflow() -> None:
    mixture = Mixture([MAX_PARTS // 2 + 1, MAX_PARTS // 2 - 1])
    sources, indices = mixture.places(2**62 - 5, 2**62)
    assert [mixture.place(p) for p in range(2**62 - 5, 2**62)] == list(
        zip(sources.tolist(), indices.tolist(), strict=True)
    )


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ([0.7, 0.3], [7, 3]),
        ([0.1, 0.2], [1, 2]),
        ([14, 6.0], [7, 3]),
        ([1e-7, 1], [1, 10_000_000]),
        ([0, 0.5], [0, 1]),
        ([2**40, 2**40, 1], [2**29, 2**29, 1]),  # too fine: parts in 2**30, and at least one
    ],
)
def test_weights_become_whole_numbers(weights: list[float], whole: list[int]) -> None:
    assert whole_weights(weights) == whole


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=12).filter(any))
def test_whole_weights_keep_the_proportions(weights: list[float]) -> None:
    whole = whole_weights(weights)
    assert sum(whole) <= MAX_PARTS
    for weight, part in zip(weights, whole, strict=True):
        assert (part > 0) == (weight > 0)
        assert abs(part / sum(whole) - weight / sum(weights)) < 2**-26


def test_wrong_weights() -> None:
    for weights in ([], [0, 0], [-1, 2], [MAX_PARTS, 1]):
        with pytest.raises(ValueError, match="weights"):
            Mixture(weights)
    for ends, phases in (([5], [[1]]), ([5, 3], [[1], [1], [1]]), ([5], [[1], [1, 2]]), ([-1], [[1], [1]])):
        with pytest.raises(ValueError, match="phases"):
            Curriculum(ends, phases)
    with pytest.raises(ValueError, match="2 orders for 1"):
        MixedOrder([Order(1, 0), Order(1, 0)], Curriculum([], [[1]]))


@st.composite
def curricula(draw: st.DrawFn) -> Curriculum:
    sources = draw(st.integers(1, 5))
    phase = st.lists(st.integers(0, 20), min_size=sources, max_size=sources).filter(any)
    phases = draw(st.lists(phase, min_size=1, max_size=4))
    ends = sorted(draw(st.lists(st.integers(0, 120), min_size=len(phases) - 1, max_size=len(phases) - 1)))
    return Curriculum(ends, phases)


@given(curricula(), st.integers(0, 200), st.integers(0, 60))
def test_streams_go_on_over_the_ends_of_phases(curriculum: Curriculum, start: int, length: int) -> None:
    sources, indices = curriculum.places(0, start + length)
    for number in range(curriculum.num_sources):
        mine = indices[sources == number]
        assert mine.tolist() == list(range(len(mine)))
    assert curriculum.counts(start) == np.bincount(sources[:start], minlength=curriculum.num_sources).tolist()
    part = curriculum.places(start, start + length)
    assert np.array_equal(part[0], sources[start:])
    assert np.array_equal(part[1], indices[start:])
    assert [curriculum.place(p) for p in range(start, start + length)] == list(zip(*map(list, part), strict=True))
    assert sum(curriculum.shares(start + 1)) == pytest.approx(1)


def test_each_phase_has_its_own_weights() -> None:
    curriculum = Curriculum([10**12, 10**12 + 1000], [[1, 0, 0], [1, 1, 0], [0, 1, 3]])
    assert curriculum.counts(10**12) == [10**12, 0, 0]
    assert curriculum.counts(10**12 + 1000) == [10**12 + 500, 500, 0]
    assert curriculum.counts(10**12 + 1400) == [10**12 + 500, 600, 300]
    sources, _ = curriculum.places(10**12 - 50, 10**12 + 1050)
    assert set(sources[:50]) == {0} and set(sources[50:-50]) == {0, 1} and set(sources[-50:]) == {1, 2}
    assert Curriculum([50], [[1, 0], [1, 1]]).shares(100) == [0.75, 0.25]


@pytest.mark.heavy
@given(small_weights, st.integers(0, 2**32), st.data())
def test_every_source_goes_through_its_own_epochs(weights: list[int], seed: int, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=len(weights), max_size=len(weights)))
    order = MixedOrder([Order(size, seed + k) for k, size in enumerate(sizes)], Curriculum([], [weights]))
    stop = data.draw(st.integers(0, 300))
    cut = data.draw(st.integers(0, stop))
    sources, samples = order.samples(0, stop)
    for number, size in enumerate(sizes):
        mine = samples[sources == number]
        for first in range(0, len(mine) - size + 1, size):
            assert sorted(mine[first : first + size]) == list(range(size))
        assert order.epochs(stop)[number] == len(mine) / size
    tail = order.samples(cut, stop)
    assert np.array_equal(tail[0], sources[cut:]) and np.array_equal(tail[1], samples[cut:])
    assert [order.sample(p) for p in range(cut, min(cut + 5, stop))] == [
        (int(s), int(i)) for s, i in zip(sources[cut : cut + 5], samples[cut : cut + 5], strict=True)
    ]


# -- the artifact -------------------------------------------------------------------------------------------------


def mixed(store: Store, spec: MixtureSpec, **inputs: Any):  # type: ignore[no-untyped-def]
    inputs = inputs or {"web": make_tokens(store, "web"), "code": make_tokens(store, "code", 100)}
    return build(spec, inputs, store=store, name="mixed")


def test_a_mixture_names_its_sources_and_copies_nothing(store: Store) -> None:
    mixture = mixed(store, MixtureSpec(weights={"web": 0.7, "code": 0.3}))
    assert list(mixture.record.files) == ["index.json"]
    index = json.loads((mixture.local() / "index.json").read_text())
    assert index["phases"] == [{"weights": {"code": 3, "web": 7}}]
    assert index["sources"]["web"]["fingerprint"] == mixture.parent("web").fingerprint
    sizes = {name: open_stores(mixture, "train")[name].num_sequences for name in ("code", "web")}
    assert {name: entry["train_sequences"] for name, entry in index["sources"].items()} == sizes
    stream = open_stream(mixture, 0, 100)
    assert stream.order.curriculum.counts(100) == [30, 70]
    found = stream.read(3, 9)
    assert found.shape == (6, LENGTH + 1)
    for row, source, sample in zip(found, *stream.order.samples(3, 9), strict=True):
        assert np.array_equal(row, list(stream.stores.values())[source].sequence(sample))


def test_a_plain_store_is_read_in_the_order_that_it_always_had(store: Store) -> None:
    tokens = make_tokens(store)
    stream, plain = open_stream(tokens, 3, 10**6), open_stores(tokens, "train")["tokens"]
    for start in (0, plain.num_sequences - 2, 10**12):
        samples = Order(plain.num_sequences, 3).samples(start, start + 5)
        assert np.array_equal(stream.read(start, start + 5), [plain.sequence(sample) for sample in samples])


def test_a_store_is_appended_to(store: Store) -> None:
    mixture = mixed(store, MixtureSpec(), old=make_tokens(store, "web"), new=make_tokens(store, "code", 100))
    sizes = [entry.num_sequences for entry in open_stores(mixture, "train").values()]
    assert open_stream(mixture, 0, sum(sizes)).order.curriculum.counts(sum(sizes)) == sizes


def test_sources_of_one_size_are_shuffled_apart_and_whatever_stands_beside_them(store: Store) -> None:
    web = make_tokens(store, "web")
    two = open_stream(mixed(store, MixtureSpec(), a=web, b=web), 0, 10).order.orders
    three = open_stream(mixed(store, MixtureSpec(), a=web, aa=web, b=web), 0, 10).order.orders
    assert not np.array_equal(two[0].samples(0, 50), two[1].samples(0, 50))
    assert np.array_equal(two[1].samples(0, 50), three[2].samples(0, 50))


def test_a_curriculum_by_fractions_and_by_tokens(store: Store) -> None:
    phase = {"weights": {"web": 1.0}}
    late = {"web": 1.0, "code": 1.0}
    by_fraction = mixed(store, MixtureSpec(weights=late, phases=(MixturePhase(**phase, until_fraction=0.9),)))
    assert open_stream(by_fraction, 0, 400).order.curriculum.counts(400) == [20, 380]
    by_tokens = mixed(store, MixtureSpec(weights=late, phases=(MixturePhase(**phase, until_tokens=100 * LENGTH),)))
    assert open_stream(by_tokens, 0, 400).order.curriculum.counts(140) == [20, 120]


def test_too_many_epochs_are_refused_with_the_figures(store: Store) -> None:
    mixture = mixed(store, MixtureSpec(weights={"web": 1.0, "code": 1.0}))
    size = open_stores(mixture, "train")["code"].num_sequences
    assert open_stream(mixture, 0, 8 * size).epochs(8 * size)["epochs_code"] == 4.0
    with pytest.raises(SpecError, match=f"5.00 epochs of 'code' \\({5 * size:,} of {size:,} sequences\\), above 4"):
        open_stream(mixture, 0, 10 * size)
    allowed = mixed(store, MixtureSpec(weights={"web": 1.0, "code": 1.0}, max_epochs_of={"code": 5.5}))
    assert open_stream(allowed, 0, 10 * size)


def test_stores_that_cannot_be_mixed(store: Store) -> None:
    with pytest.raises(InputError, match="sequence_length: a 32, b 16"):
        mixed(store, MixtureSpec(), a=make_tokens(store, "web"), b=make_tokens(store, "code", 100, 16))
    with pytest.raises(InputError, match="'b' has not one whole sequence"):
        mixed(store, MixtureSpec(), a=make_tokens(store, "web"), b=make_tokens(store, "nothing", 0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weights": {"a": 0}}, "all weights are zero"),
        ({"weights": {"a": -1}}, ">= 0"),
        ({"phases": [{"weights": {"a": 1}}]}, "either until_tokens or until_fraction"),
        ({"phases": [{"weights": {}, "until_tokens": 5}]}, "phases.0.: all weights are zero"),
        ({"phases": [{"weights": {"a": 1}, "until_tokens": 5}] * 2}, "until_tokens must grow"),
        (
            {"phases": [{"weights": {"a": 1}, "until_tokens": 5}, {"weights": {"a": 1}, "until_fraction": 0.5}]},
            "no other unit",
        ),
    ],
)
def test_wrong_fields(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        specs.convert(fields, MixtureSpec, "mixture")


def test_a_pipeline_with_a_mixture(store: Store) -> None:
    web, code = make_tokens(store, "web"), make_tokens(store, "code", 100)

    def graph(*sets: str, **spec: Any) -> Graph:
        def function(step):  # type: ignore[no-untyped-def]
            mixture = step(MixtureSpec(**spec), web=web.record.ref, code=code.record.ref)
            return step(PretrainSpec(), tokens=mixture)

        return Pipeline(function).graph(store, read_changes(None, list(sets)))

    first = graph("mixture.weights.web=3", weights={"web": 1, "code": 1}).step("mixture")
    assert first.spec.weights == {"web": 3.0, "code": 1.0}
    more = graph(f"mixture.inputs.more={make_tokens(store, 'more').record.ref}").step("mixture")
    assert sorted(more.inputs) == ["code", "more", "web"]
    for sets, spec, words in (
        ((), {"weights": {"wbe": 1}}, "Did you mean 'web'"),
        ((), {"weights": {"web": 1}}, "'code' has none"),
        ((), {"max_epochs_of": {"cod": 1}}, "max_epochs_of"),
        ((f"mixture.inputs.a-b={web.record.ref}",), {}, "cannot be called 'a-b'"),
    ):
        with pytest.raises(SpecError, match=words):
            graph(*sets, **spec)

    built = build(first.spec, first.inputs, store=store, name="mixed")
    assert {node["ref"] for node in lineage(built)["parents"].values()} == {web.record.ref, code.record.ref}
    store.set_alias("kept", built)
    collect(store, 0, dry_run=False)
    assert {a.record.ref for a in store.list("tokens")} == {web.record.ref, code.record.ref}
