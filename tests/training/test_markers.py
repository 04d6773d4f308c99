"""The tokens of objectives are found under the names that models were published with."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models

from cluster.core.errors import InputError
from pipelines.stages.training.objectives.markers import markers_of

WORDS = ["<|endoftext|>", "one", "two.", "three", "four!", "这。", "\n", "(five.)", "six,"]


def tokenizer(*special: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate((*WORDS, *special))}))
    made.add_special_tokens(["<|endoftext|>", *special])
    return made


@pytest.mark.parametrize(
    ("special", "needed"),
    [
        (("[MASK]", "<|startofpiece|>", "<|endofpiece|>", "[sMASK]"), ["mask", "start", "end", "sentence_mask"]),  # GLM
        (("[MASK]", "<sop>", "<eop>", "[gMASK]"), ["mask", "start", "end", "document_mask"]),  # ChatGLM
        (("<mask>",), ["mask"]),  # RoBERTa
        (("[CLS]", "[MASK]"), ["mask"]),  # BERT
    ],
)
def test_published_names(special: tuple[str, ...], needed: list[str]) -> None:
    made = tokenizer(*special)
    found = markers_of(made, needed, 100, "it")
    names = [name for name in special if name != "[CLS]"]
    assert [found.roles[role] for role in needed] == [made.token_to_id(name) for name in names]
    assert found.ordinary.tolist() == list(range(1, len(WORDS)))  # neither the end of text nor any special one


def test_what_is_missing_or_beyond_the_tokens_is_told() -> None:
    with pytest.raises(InputError, match=r"it has no <sop>, <eop> among.*special_tokens: \['<sop>', '<eop>'"):
        markers_of(tokenizer("[MASK]"), ["mask", "start", "end"], 100, "it")
    with pytest.raises(InputError, match=r"no \[MASK\] among its first 9 tokens"):
        markers_of(tokenizer("[MASK]"), ["mask"], len(WORDS), "it")


def test_sentences_end_with_a_mark_or_a_line() -> None:
    ends = markers_of(tokenizer("[MASK]"), ["mask"], 12, "it").sentence_ends
    assert [word for word, end in zip(WORDS, ends, strict=False) if end] == ["two.", "four!", "这。", "\n", "(five.)"]
    assert ends.shape == (12,)
