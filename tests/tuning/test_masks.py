"""Loss masks, token by token, against cases written by hand: what is learned, and what is not."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from pipelines.stages.tuning.encoding import Message, encode
from pipelines.stages.tuning.templates import prepare
from tests.tuning.tokenizers import by_hand

SYSTEM: Message = {"role": "system", "content": "Be brief"}
ASK: Message = {"role": "user", "content": "ask"}
YES: Message = {"role": "assistant", "content": "  yes"}
ASK_MORE: Message = {"role": "user", "content": "ask more"}
NO: Message = {"role": "assistant", "content": "yes no"}

# Tokens between blanks, as a byte-level BPE writes them: Ġ is a blank, Ċ a line end. (tokens, learned)
Expected = list[tuple[str, bool]]

CASES: dict[str, tuple[str, list[Message], Expected]] = {
    "chatml, one turn": (
        "chatml",
        [ASK, YES],
        [
            ("<|im_start|> user Ċ ask <|im_end|> Ċ <|im_start|> assistant Ċ", False),
            ("Ġ Ġ yes <|im_end|>", True),
            ("Ċ", False),
        ],
    ),
    "chatml, two turns and a system message": (
        "chatml",
        [SYSTEM, ASK, YES, ASK_MORE, NO],
        [
            ("<|im_start|> system Ċ Be Ġbrief <|im_end|> Ċ", False),
            ("<|im_start|> user Ċ ask <|im_end|> Ċ <|im_start|> assistant Ċ", False),
            ("Ġ Ġ yes <|im_end|>", True),
            ("Ċ <|im_start|> user Ċ ask Ġmore <|im_end|> Ċ <|im_start|> assistant Ċ", False),
            ("yes Ġno <|im_end|>", True),
            ("Ċ", False),
        ],
    ),
    "alpaca, one turn": (
        "alpaca",
        [ASK, YES],
        [
            ("### ĠInstruction : Ċ ask Ċ Ċ ### ĠResponse : Ċ", False),
            ("Ġ Ġ yes <|endoftext|>", True),
        ],
    ),
    "alpaca, two turns and a system message": (
        "alpaca",
        [SYSTEM, ASK, YES, ASK_MORE, NO],
        [
            ("Be Ġbrief Ċ Ċ ### ĠInstruction : Ċ ask Ċ Ċ ### ĠResponse : Ċ", False),
            ("Ġ Ġ yes <|endoftext|>", True),
            ("Ċ Ċ ### ĠInstruction : Ċ ask Ġmore Ċ Ċ ### ĠResponse : Ċ", False),
            ("yes Ġno <|endoftext|>", True),
        ],
    ),
    "completion, one turn": (
        "completion",
        [ASK, YES],
        [("ask Ċ", False), ("Ġ Ġ yes <|endoftext|>", True)],
    ),
    "completion, two turns and a system message": (
        "completion",
        [SYSTEM, ASK, YES, ASK_MORE, NO],
        [
            ("Be Ġbrief Ċ ask Ċ", False),
            ("Ġ Ġ yes <|endoftext|>", True),
            ("ask Ġmore Ċ", False),
            ("yes Ġno <|endoftext|>", True),
        ],
    ),
}

SMOLLM2_CASES: dict[str, tuple[list[Message], Expected]] = {
    "one turn, the default system message": (
        [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "It is 4."}],
        [
            ("<|im_start|> system Ċ You Ġare Ġa Ġhelpful ĠAI Ġassistant Ġnamed ĠSm ol LM ,", False),
            ("Ġtrained Ġby ĠH ugging ĠFace <|im_end|> Ċ", False),
            ("<|im_start|> user Ċ What Ġis Ġ 2 + 2 ? <|im_end|> Ċ <|im_start|> ass istant Ċ", False),
            ("It Ġis Ġ 4 . <|im_end|>", True),
            ("Ċ", False),
        ],
    ),
    "two turns and a system message": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "    return x"},
            {"role": "user", "content": "Again"},
            {"role": "assistant", "content": "No."},
        ],
        [
            ("<|im_start|> system Ċ Be Ġbrief . <|im_end|> Ċ", False),
            ("<|im_start|> user Ċ Hi <|im_end|> Ċ <|im_start|> ass istant Ċ", False),
            ("ĠĠĠ Ġreturn Ġx <|im_end|>", True),
            ("Ċ <|im_start|> user Ċ Again <|im_end|> Ċ <|im_start|> ass istant Ċ", False),
            ("No . <|im_end|>", True),
            ("Ċ", False),
        ],
    ),
}


def check(tokenizer: PreTrainedTokenizerBase, messages: list[Message], expected: Expected) -> None:
    encoded = encode(tokenizer, messages)
    found = list(zip(tokenizer.convert_ids_to_tokens(encoded.tokens), encoded.learn, strict=True))
    assert found == [(token, learned) for tokens, learned in expected for token in tokens.split(" ")]


@pytest.mark.parametrize("case", CASES)
def test_mask(case: str) -> None:
    template, messages, expected = CASES[case]
    tokenizer = by_hand()
    prepare(tokenizer, template)
    check(tokenizer, messages, expected)


@pytest.mark.parametrize("case", SMOLLM2_CASES)
def test_mask_of_a_models_own_template(case: str, smollm2: PreTrainedTokenizerBase) -> None:
    messages, expected = SMOLLM2_CASES[case]
    prepare(smollm2, "")
    check(smollm2, messages, expected)
