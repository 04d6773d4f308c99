"""Blank infilling as the paper's figure 2 draws it, spans as it describes them, and documents that share a sequence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.stages.training.objectives.infilling import infill, infill_sequence
from pipelines.stages.training.objectives.infilling_document import document_span
from pipelines.stages.training.objectives.infilling_sentence import sentence_spans
from pipelines.stages.training.objectives.infilling_short import short_spans
from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import NO_LABEL

EOS, M, S, E = 0, 5001, 5002, 5003


def test_the_figure_of_the_paper() -> None:
    """x1 ... x6 with the spans x3 and x5 x6 masked, the second generated first."""
    found = infill(np.arange(1, 7), [(2, 3), (4, 6)], [1, 0], M, S, E)
    assert found.inputs.tolist() == [1, 2, M, 4, M, S, 5, 6, S, 3]
    assert found.labels.tolist() == [NO_LABEL] * 5 + [5, 6, E, 3, E]
    assert (found.positions + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3]  # the paper counts from 1
    assert found.block_positions.tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]


def test_spans_that_touch_are_refused() -> None:
    with pytest.raises(ValueError, match="leave a token between"):
        infill(np.arange(6), [(0, 2), (2, 3)], [0, 1], M, S, E)


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.integers(0, 10**6))
def test_short_spans_mask_a_fraction(length: int, fraction: float, seed: int) -> None:
    spans = short_spans(length, fraction, np.random.default_rng(seed))
    assert all(0 <= start < stop <= length for start, stop in spans)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))
    masked, wanted = sum(stop - start for start, stop in spans), max(1, round(fraction * length))
    assert masked <= wanted
    if length >= 20 and fraction <= 0.4:  # of more, less is masked where it would leave no token between two blanks
        assert masked == wanted
    tokens = 1000 + np.arange(length)
    order = np.random.default_rng(seed).permutation(len(spans)).tolist()
    found = infill(tokens, spans, order, M, S, E)
    kept = [token for token in found.inputs[found.block_positions == 0].tolist() if token != M]
    hidden = [label for label in found.labels.tolist() if label not in (NO_LABEL, E)]
    assert sorted(kept + hidden) == tokens.tolist()  # nothing is lost or said twice


def test_lengths_are_poisson_and_places_uniform() -> None:
    rng = np.random.default_rng(0)
    spans = [span for _ in range(400) for span in short_spans(400, 0.15, rng)]
    sizes = np.array([stop - start for start, stop in spans])
    assert 2.7 < sizes.mean() < 3.2  # Poisson(3) without its zeros is 3.16; the last span of a text is cut
    starts = np.array([start for start, _ in spans]) / 400
    assert abs(np.histogram(starts, 10, (0, 1))[0] / len(spans) - 0.1).max() < 0.015


def test_a_document_is_generated_from_its_first_half_or_less() -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([stop - start for _ in range(2000) for start, stop in document_span(1000, rng)]) / 1000
    assert 0.5 <= sizes.min() < 0.51 and 0.99 < sizes.max() <= 1.0 and abs(sizes.mean() - 0.75) < 0.01


def test_sentences_are_whole() -> None:
    ends = np.array([7, 19, 30, 44, 60, 71, 85, 100])
    for seed in range(50):
        spans = sentence_spans(ends, 100, 0.15, np.random.default_rng(seed))
        assert spans and all(start in {0, *ends.tolist()} and stop in ends for start, stop in spans)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(spans))
        assert sum(stop - start for start, stop in spans) >= 15


def short(text: Tokens, rng: np.random.Generator) -> list[tuple[int, int]]:
    return short_spans(len(text), 0.15, rng)


def whole(text: Tokens, rng: np.random.Generator) -> list[tuple[int, int]]:
    return [(0, len(text))]


def drawn(sequence: list[int], draw=short, seed: int = 0) -> dict[str, Tokens]:  # type: ignore[no-untyped-def]
    return infill_sequence(np.array(sequence), EOS, draw, (M, S, E), np.random.default_rng(seed))


def test_each_document_of_a_sequence_has_blanks_of_its_own() -> None:
    """Hand-made: the end of one document, a whole one, an empty one, and the beginning of one."""
    found = drawn([7, 8, EOS, 9, EOS, EOS, 5, 6, 4, 3, 2, 1, 2, 3, 4, 5, 6], whole)
    lists = {name: array.tolist() for name, array in found.items()}
    assert lists["inputs"] == [M, S, 7, 8, EOS, M, S, 9, EOS, M, S, 5, 6, 4, 3, 2]
    none = NO_LABEL
    assert lists["labels"] == [none, 7, 8, E, none, none, 9, E, none, none, 5, 6, 4, 3, 2, none]  # the last one goes on
    assert lists["positions"] == [0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]
    assert lists["block_positions"] == [0, 1, 2, 3, 0, 0, 1, 2, 0, 0, 1, 2, 3, 4, 5, 6]
    assert lists["documents"] == [0] * 4 + [1] * 4 + [2] * 8


def test_behind_the_documents_nothing_is_asked() -> None:
    found = drawn([EOS, 4, 5, EOS, -100, -100, -100, -100, -100, -100, -100], whole)
    assert found["documents"].tolist() == [0] * 5 + [-1] * 5
    assert found["labels"].tolist() == [NO_LABEL, NO_LABEL, 4, 5, E, *[NO_LABEL] * 5]
    assert found["inputs"].tolist()[5:] == [EOS] * 5


@given(st.lists(st.integers(0, 30), min_size=3, max_size=200), st.integers(0, 10**6))
@example([1, 0, 1, 1, 1, 1, 0], 0)
def test_a_sequence_stays_in_its_length_and_loses_nothing_but_its_end(tokens: list[int], seed: int) -> None:
    found = drawn(tokens, short, seed)
    length = len(tokens) - 1
    assert {array.shape for array in found.values()} == {(length,)}
    text: list[int] = []
    for number in range(int(found["documents"].max()) + 1):
        inputs, labels, positions, blocks = (
            found[name][found["documents"] == number] for name in ("inputs", "labels", "positions", "block_positions")
        )
        part_a = blocks == 0
        assert (labels[part_a] == NO_LABEL).all()
        for place, token in enumerate(inputs[part_a].tolist()):
            inside = inputs[~part_a & (positions == place) & (blocks > 1)].tolist()
            text += inside if token == M else [token]
    kept = [token for token in tokens[:length] if token != EOS]
    told = [token for token in text if token != EOS]
    assert told == kept[: len(told)]
    # Two for each blank, of three tokens in the mean, and at least one blank a document.
    assert len(kept) - len(told) <= 2 * (1 + tokens[:length].count(EOS)) + 0.3 * length
