"""Filling blanks: greedy, from left to right, each token behind those that a training sample would show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from cluster.core.errors import InputError
from pipelines.stages.training.models.models import build_model, configuration, load_model
from pipelines.stages.training.objectives.filling import Filler
from pipelines.stages.training.objectives.infilling import BlankInfilling, infill
from tests.training.tiny import EOS, LENGTH, MARKERS, SMALL, VOCAB, tokenizer_json

pytestmark = pytest.mark.heavy

MASK, START, END = VOCAB, VOCAB + 3, VOCAB + 4


@pytest.fixture(scope="module", params=["learned", "rotary"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned by heart that 10 11 12 ... goes on counting, in blanks of any length."""
    folder = tmp_path_factory.mktemp("model")
    size = VOCAB + len(MARKERS)
    overrides = SMALL | {"position_embedding_type": request.param}
    config = configuration("glm-1m", overrides, vocab_size=size, sequence_length=LENGTH, eos_token_id=EOS)
    objective = BlankInfilling(build_model(config, seed=1), EOS, "fp32")
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(150):
        rows = []
        for _ in range(8):
            start = int(rng.integers(2, 5))
            spans = [(start, start + int(rng.integers(1, 4))), (9, 9 + int(rng.integers(1, 3)))]
            blanks = infill(np.arange(10, 22), spans, rng.permutation(2).tolist(), MASK, START, END)
            rows.append({name: torch.from_numpy(array) for name, array in vars(blanks).items()})
        batch = {
            name: torch.nn.utils.rnn.pad_sequence(
                [row[name] for row in rows], batch_first=True, padding_value=-100 if name == "labels" else 0
            )
            for name in rows[0]
        }
        batch["documents"] = torch.zeros_like(batch["inputs"])
        optimizer.zero_grad()
        objective(batch).div(100).backward()
        optimizer.step()
    objective.model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    return folder


def test_blanks_are_filled_as_learned_and_end_by_themselves(folder: Path) -> None:
    filler = Filler.open(folder)
    part_a = [10, 11, 12, MASK, 15, 16, 17, 18, MASK, 20, 21]
    assert filler.fill(part_a) == [[13, 14], [19]]
    assert filler.fill(part_a, lengths=[2, 1]) == [[13, 14], [19]]
    assert [len(blank) for blank in filler.fill(part_a, max_tokens=1)] == [1, 1]
    assert [len(blank) for blank in filler.fill(part_a, lengths=[4, 3])] == [4, 3]


def test_a_filled_blank_is_the_argmax_of_the_training_sample(folder: Path) -> None:
    """The first token of the second blank sees the first blank as a training sample shows it."""
    filler = Filler.open(folder)
    first, second = filler.fill([10, 11, 12, MASK, 15, MASK, 18], lengths=[2, 1])
    text = np.array([10, 11, 12, *first, 15, 16, 18])
    blanks = infill(text, [(3, 5), (6, 7)], [0, 1], MASK, START, END)
    seen: list[torch.Tensor] = []
    objective = BlankInfilling(load_model(folder).eval(), EOS, "fp32")
    objective.model.register_forward_hook(lambda module, arguments, output: seen.append(output.logits))
    batch = {name: torch.from_numpy(array).unsqueeze(0) for name, array in vars(blanks).items()}
    with torch.no_grad():
        objective(batch | {"documents": torch.zeros_like(batch["inputs"])})
    place = int(np.flatnonzero(blanks.inputs == START)[1])
    assert int(seen[0][0, place, 1:VOCAB].argmax()) + 1 == second[0]


def test_text_with_blanks_is_filled_with_text(folder: Path) -> None:
    (found,) = Filler.open(folder).fill_text("w10 w11 w12 [MASK] w14 w15 w16. w17", max_tokens=3)
    assert 1 <= len(found.split()) <= 3 and all(word.startswith("w") for word in found.split())


def test_a_text_beyond_the_positions_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match=f"{LENGTH + 1} tokens for a model of {LENGTH} positions"):
        Filler.open(folder).fill([*range(10, 10 + LENGTH), MASK])


def test_a_tokenizer_without_ends_of_blanks_is_told(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    plain = Tokenizer.from_file(str(folder / "tokenizer.json")).to_str().replace("<sop>", "w99")
    (tmp_path / "tokenizer.json").write_text(plain)
    with pytest.raises(InputError, match=r"has no <sop>"):
        Filler.open(tmp_path)
