"""Several conversations in a row: each is told what it is told alone, in every family and by both ways of keeping them
apart, and no bit of it depends on its neighbours."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig

from cluster.core.encoding import Encoded
from cluster.core.errors import SpecError
from cluster.core.storage.location import Location
from pipelines.specs import ScalingSpec
from pipelines.stages.training.models.models import build_model
from pipelines.stages.tuning.attention import APART, MASKED, NAME, check_packing, keep_apart
from pipelines.stages.tuning.recipe import AnswerLM
from pipelines.stages.tuning.sequences import Sequences

CAPACITY = 32
MASKING = ScalingSpec(sequence_parallel_size=2, num_workers=2)  # a layout that needs masks


def conversations(count: int = 9, seed: int = 0) -> list[Encoded]:
    """Of 3 to 20 tokens, some of which are learned."""
    rng = np.random.default_rng(seed)
    found = []
    for length in rng.integers(3, 21, count).tolist():
        learn = rng.random(length) < 0.5
        learn[-1] = True
        found.append(Encoded(rng.integers(1, 60, length).tolist(), learn.tolist()))
    return found


def objective(family: str, scaling: ScalingSpec | None = None, **fields: Any) -> AnswerLM:
    """A tiny model with grouped key/value heads where the family has them, and no dropout."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"intermediate_size": 48, "head_dim": 8, "max_position_embeddings": 64, "moe_intermediate_size": 16}
    dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "num_local_experts": 2, "num_experts": 2}
    few = {"num_experts_per_tok": 1, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "vocab_size": 60}
    dropout |= {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0, "hidden_dropout": 0.0}
    config = AutoConfig.for_model(family, **(sizes | more | dropout | few | fields))
    model = build_model(config, seed=1)
    if scaling:
        keep_apart(model, scaling)
    return AnswerLM(model, "fp32")


def told(lm: AnswerLM, sequences: Sequences, rows: list[int]) -> Tensor:
    """The logits of the learned tokens of some rows, (learned, vocabulary)."""
    found: list[Tensor] = []
    hook = lm.model.get_output_embeddings().register_forward_hook(lambda *layer: found.append(layer[-1].clone()))
    with torch.no_grad():
        lm.eval()(sequences.batch(rows))
    hook.remove()
    return found[0]


def losses(lm: AnswerLM, sequences: Sequences) -> tuple[float, dict[str, Tensor]]:
    """The summed loss of all rows, two at a time, and its gradients."""
    lm.zero_grad()
    summed = 0.0
    for first in range(0, len(sequences), 2):
        loss = lm(sequences.batch(list(range(first, min(first + 2, len(sequences))))))
        loss.backward()
        summed += loss.item()
    return summed, {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}


def has_experts(family: str) -> bool:
    return hasattr(AutoConfig.for_model(family), "num_experts_per_tok")


WAYS = [*((family, ScalingSpec()) for family in APART), *((family, MASKING) for family in (*MASKED, "llama", "gpt2"))]


@pytest.mark.parametrize(("family", "scaling"), WAYS, ids=lambda one: one if isinstance(one, str) else "")
def test_a_packed_conversation_is_told_what_it_is_told_alone(family: str, scaling: ScalingSpec) -> None:
    alone = Sequences.collect(conversations())
    packed = alone.packed(CAPACITY)
    assert len(packed) < len(alone) and packed.lengths.max() <= CAPACITY
    lm = objective(family, scaling)
    assert (lm.model.config._attn_implementation == NAME) == (scaling != MASKING and family in APART)
    expected, gradients = losses(objective(family), alone)
    found, packed_gradients = losses(lm, packed)
    assert found == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("family", "scaling"), WAYS, ids=lambda one: one if isinstance(one, str) else "")
def test_no_bit_of_a_neighbour_depends_on_a_conversation(family: str, scaling: ScalingSpec) -> None:
    given = [Encoded([*range(10 * i + 1, 10 * i + 9)], [False] * 3 + [True] * 5) for i in range(4)]
    changed = [*given[:1], Encoded([59 - token for token in given[1].tokens], given[1].learn), *given[2:]]
    lm = objective(family, scaling)
    before, after = (told(lm, Sequences.collect(one).packed(CAPACITY), [0]) for one in (given, changed))
    assert before.shape == (20, 60)
    # An expert multiplies the tokens of all conversations that chose it at once, and how many rows there are decides,
    # on some CPUs, the order in which a kernel adds: the last bits of a neighbour, by nothing that it was told.
    same = torch.isclose(before, after, rtol=1e-5, atol=1e-6) if has_experts(family) else before == after
    same = same.all(dim=1).reshape(4, 5).all(dim=1)
    assert same.tolist() == [True, False, True, True]


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_a_sliding_window_slides_within_a_conversation(family: str) -> None:
    window = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    alone = Sequences.collect(conversations())
    expected, _ = losses(objective(family, **window), alone)
    found, _ = losses(objective(family, ScalingSpec(), **window), alone.packed(CAPACITY))
    unbounded, _ = losses(objective(family), alone)
    assert found == pytest.approx(expected, rel=1e-6)
    assert abs(unbounded - expected) > 1e-4 * expected


def test_padding_does_not_enter(family: str = "llama") -> None:
    """Rows of different lengths in a batch, the shorter one padded, are those that they are apart."""
    sequences = Sequences.collect([Encoded([*range(1, n)], [True] * (n - 1)) for n in (30, 12, 9)]).packed(CAPACITY)
    assert sequences.lengths.tolist() == [29, 19]
    lm = objective(family, ScalingSpec())
    both = told(lm, sequences, [0, 1])
    torch.testing.assert_close(both, torch.cat([told(lm, sequences, [0]), told(lm, sequences, [1])]))


@pytest.mark.heavy
def test_it_compiles_as_one_graph() -> None:
    """With masks: lengths would have it compiled anew for each batch. What is learned of a batch breaks no graph."""
    compiling = ScalingSpec(compile=True)
    packed = Sequences.collect(conversations()).packed(CAPACITY)
    lm = objective("llama", compiling)
    expected, _ = losses(lm, packed)
    lm.model.compile(backend="eager", fullgraph=True)
    found, _ = losses(lm, packed)
    assert found == pytest.approx(expected, rel=1e-6)


def test_families_of_which_nothing_is_known_are_refused() -> None:
    with pytest.raises(SpecError, match=r"sft.packing: nothing shows that the family 'mamba'.*Set it to false"):
        check_packing(AutoConfig.for_model("mamba"))


@given(st.lists(st.integers(2, 16), min_size=1, max_size=60))
def test_packing_keeps_every_conversation_whole_and_once(lengths: list[int]) -> None:
    numbers = iter(range(10_000))
    given = [Encoded([next(numbers) for _ in range(n)], [False, *([True] * (n - 1))]) for n in lengths]
    packed = Sequences.collect(given).packed(16)
    assert packed.lengths.max() <= 16 and packed.lengths.sum() == sum(lengths)
    found = []
    for row in range(len(packed)):
        batch = packed.batch([row])
        tokens, learn = batch["tokens"][0].tolist(), [False, *batch["learn"][0].tolist()]
        starts = [*batch["starts"][0].nonzero().flatten().tolist(), len(tokens)]
        found += [Encoded(tokens[a:b], learn[a:b]) for a, b in itertools.pairwise(starts)]
    assert sorted(found, key=lambda one: one.tokens) == given
    # Two rows that are together no fuller than one would be one.
    assert sum(sorted(packed.lengths.tolist())[:2]) > 16 or len(packed) == 1
    assert sorted(packed.conversation_lengths.tolist()) == sorted(lengths)


def test_packed_rows_are_read_as_they_were_written(tmp_path: Any) -> None:
    packed = Sequences.collect(conversations()).packed(CAPACITY)
    packed.save(Location(tmp_path), "rows.npz")
    again = Sequences.load(Location(tmp_path), "rows.npz")
    rows = list(range(len(packed)))
    for name, tensor in packed.batch(rows).items():
        assert torch.equal(again.batch(rows)[name], tensor)
    assert (again.conversation_lengths == packed.conversation_lengths).all()


def test_the_share_of_padding_is_that_of_the_batches() -> None:
    sequences = Sequences.collect([Encoded([1] * n, [True] * n) for n in (10, 10, 4, 4)])
    assert sequences.padding_share(0, 1) == 0.0
    assert sequences.padding_share(0, 4) == pytest.approx(1 - 28 / 40, abs=1e-4)
