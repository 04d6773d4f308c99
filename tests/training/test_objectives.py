"""Packed documents must cost exactly what the same documents cost alone."""

from __future__ import annotations

import pytest
import torch

from pipelines.stages.tokens.reader import PADDING
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.objectives.causal import CausalLM
from pipelines.stages.training.objectives.objective import documents

EOS = 0


def objective(model: str, overrides: dict[str, object]) -> CausalLM:
    config = configuration(model, overrides, vocab_size=50, sequence_length=32, eos_token_id=EOS)
    return CausalLM(build_model(config, seed=1).double(), EOS, "fp32").eval()


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("gpt2-1m", {"n_embd": 32, "n_layer": 2}),
        ("llama-1m", {"hidden_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 1}),
    ],
)
def test_packed_documents_do_not_see_each_other(model: str, overrides: dict[str, object]) -> None:
    causal = objective(model, overrides)
    first, second, third = (torch.randint(1, 50, (n,)) for n in (9, 4, 12))
    eos = torch.tensor([EOS])
    # As in the store: the sample begins within one document and ends within another.
    packed = torch.cat([first, eos, second, eos, third])
    alone = [torch.cat([first, eos]), torch.cat([eos, second, eos]), torch.cat([eos, third])]
    with torch.no_grad():
        together = float(causal(packed.unsqueeze(0)))
        separately = sum(float(causal(document.unsqueeze(0))) for document in alone)
    assert together == pytest.approx(separately, rel=1e-6)


def test_padding_costs_nothing() -> None:
    causal = objective("llama-1m", {"hidden_size": 32, "num_hidden_layers": 2})
    tokens = torch.tensor([[5, 6, EOS, 8, 9, EOS]])
    padded = torch.cat([tokens, torch.full((1, 4), PADDING)], dim=1)
    with torch.no_grad():
        assert float(causal(padded)) == pytest.approx(float(causal(tokens)), rel=1e-6)


def test_gradients_do_not_cross_documents() -> None:
    causal = objective("llama-1m", {"hidden_size": 32, "num_hidden_layers": 2})
    tokens = torch.tensor([[5, 6, 7, EOS, 8, 9, 10, 11]])
    embedding = causal.model.get_input_embeddings()
    seen: list[torch.Tensor] = []
    embedding.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[1])
    logits = causal.model(
        tokens[:, :-1],
        attention_mask=documents(tokens[:, :-1], EOS).mask,  # type: ignore[union-attr]
        position_ids=documents(tokens[:, :-1], EOS).positions,  # type: ignore[union-attr]
    ).logits
    logits[0, 5].sum().backward()
    assert seen[0].grad[0, :3].abs().sum() == 0  # type: ignore[index]
    assert seen[0].grad[0, 3:6].abs().sum() > 0  # type: ignore[index]


def test_positions_restart_with_each_document() -> None:
    found = documents(torch.tensor([[4, EOS, 5, 6, EOS, 7], [EOS, 1, 2, 3, 4, 5]]), EOS)
    assert found is not None
    assert found.positions.tolist() == [[0, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5]]
    assert found.mask.shape == (2, 1, 6, 6)
    assert found.mask[0, 0, 5].tolist() == [False, False, False, False, True, True]


def test_without_a_boundary_there_is_no_mask_to_pay_for() -> None:
    assert documents(torch.tensor([[EOS, 1, 2], [3, 4, 5]]), EOS) is None


def test_labels_are_not_changed_by_looking_for_boundaries() -> None:
    tokens = torch.tensor([[1, 2, EOS, 3]])
    documents(tokens[:, :-1], EOS)
    assert tokens.tolist() == [[1, 2, EOS, 3]]


def test_z_loss_and_label_smoothing_are_their_formulas() -> None:
    """Added in training only; the cross entropy is told without them."""
    config = configuration("gpt2-1m", {}, vocab_size=50, sequence_length=32, eos_token_id=EOS)
    tokens = torch.randint(1, 50, (3, 17), generator=torch.Generator().manual_seed(0))
    tokens[1, 9:] = -100
    objective = CausalLM(build_model(config, seed=1), EOS, "fp32", z_loss=0.01, label_smoothing=0.1)
    with torch.no_grad():
        logits = objective.model(tokens[:, :-1].clamp(min=0)).logits.double()
        labels, counts = tokens[:, 1:], tokens[:, 1:] >= 0
        logs = logits.log_softmax(-1)
        truth = -logs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)[counts].sum()
        smoothed = 0.9 * truth - 0.1 * logs.mean(-1)[counts].sum()
        z = 0.01 * logits.logsumexp(-1)[counts].square().sum()
        assert float(objective.train()(tokens)) == pytest.approx(float(smoothed + z), rel=1e-5)
        assert float(objective.pop_sums()[0]) == pytest.approx(float(truth), rel=1e-5)
        assert float(objective.eval()(tokens)) == pytest.approx(float(truth), rel=1e-5)
