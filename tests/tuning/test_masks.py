"""Loss masks, token by token, against cases written by hand: what is learned, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from cluster.core.dialect import dialect
from cluster.core.encoding import Encoded, Message, Refused, encode, examples
from pipelines.stages.tuning.templates import TEMPLATES, prepare
from tests.tuning.tokenizers import by_hand, with_tokens

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
            ("<|im_start|> user Ċ ask <|im_end|> Ċ <|im_start|> assistant ĊĠ Ġ yes <|im_end|>", False),
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
            # As a server writes the first answer, a border with a blank behind it is one token: that answer is an
            # example of its own (above).
            ("Be Ġbrief Ċ Ċ ### ĠInstruction : Ċ ask Ċ Ċ ### ĠResponse : ĊĠ Ġ yes <|endoftext|>", False),
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
            ("Be Ġbrief Ċ ask ĊĠ Ġ yes <|endoftext|>", False),
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
            # A server writes the line end and the blanks behind it as one token: that answer is an example of its own.
            ("<|im_start|> user Ċ Hi <|im_end|> Ċ <|im_start|> ass istant ĊĠĠĠ Ġreturn Ġx <|im_end|>", False),
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


@pytest.mark.heavy
@pytest.mark.parametrize("case", SMOLLM2_CASES)
def test_mask_of_a_models_own_template(case: str, smollm2: PreTrainedTokenizerBase) -> None:
    messages, expected = SMOLLM2_CASES[case]
    prepare(smollm2, "")
    check(smollm2, messages, expected)


# By template, a conversation of two turns with a system message: what is learned stands in ⟦brackets⟧, an example on a
# line. ⏎ is a line end.
TWO_TURNS = {
    "chatml": [
        "<|im_start|>system⏎Be brief<|im_end|>⏎<|im_start|>user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        "⟦yes<|im_end|>⟧⏎<|im_start|>user⏎more<|im_end|>⏎<|im_start|>assistant⏎⟦no<|im_end|>⟧⏎"
    ],
    "alpaca": [
        "Be brief⏎⏎### Instruction:⏎ask⏎⏎### Response:⏎⟦yes<eos>⟧⏎⏎### Instruction:⏎more⏎⏎### Response:⏎⟦no<eos>⟧"
    ],
    "completion": ["Be brief⏎ask⏎⟦yes<eos>⟧more⏎⟦no<eos>⟧"],
    "llama2": ["<bos>[INST] <<SYS>>⏎Be brief⏎<</SYS>>⏎⏎ask [/INST]⟦ yes <eos>⟧<bos>[INST] more [/INST]⟦ no <eos>⟧"],
    "llama3": [
        "<bos><|start_header_id|>system<|end_header_id|>⏎⏎Be brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>⏎⏎ask<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦yes<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>⏎⏎more<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦no<|eot_id|>⟧"
    ],
    "llama3.1": [
        "<bos><|start_header_id|>system<|end_header_id|>⏎⏎Cutting Knowledge Date: December 2023⏎"
        "Today Date: 26 Jul 2024⏎⏎Be brief<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>⏎⏎ask<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦yes<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>⏎⏎more<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦no<|eot_id|>⟧"
    ],
    "mistral": ["<bos>[INST] Be brief⏎⏎ask[/INST]⟦ yes<eos>⟧[INST] more[/INST]⟦ no<eos>⟧"],
    "gemma": [
        "<bos><start_of_turn>user⏎Be brief⏎⏎ask<end_of_turn>⏎<start_of_turn>model⏎⟦yes<end_of_turn>⟧⏎"
        "<start_of_turn>user⏎more<end_of_turn>⏎<start_of_turn>model⏎⟦no<end_of_turn>⟧⏎"
    ],
    "qwen2.5": [
        "<|im_start|>system⏎Be brief<|im_end|>⏎<|im_start|>user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        "⟦yes<|im_end|>⟧⏎<|im_start|>user⏎more<|im_end|>⏎<|im_start|>assistant⏎⟦no<|im_end|>⟧⏎"
    ],
    "qwen3": [
        "<|im_start|>system⏎Be brief<|im_end|>⏎<|im_start|>user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        "⟦<think>⏎⏎</think>⏎⏎yes<|im_end|>⟧⏎",
        "<|im_start|>system⏎Be brief<|im_end|>⏎<|im_start|>user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        "yes<|im_end|>⏎<|im_start|>user⏎more<|im_end|>⏎<|im_start|>assistant⏎"
        "⟦<think>⏎⏎</think>⏎⏎no<|im_end|>⟧⏎",
    ],
    "glm4": ["[gMASK]<sop><|system|>⏎Be brief<|user|>⏎ask<|assistant|>⟦⏎yes<|user|>⟧⏎more<|assistant|>⟦⏎no<|user|>⟧"],
    "chatglm2": [
        "[gMASK]<sop>Be brief⏎⏎[Round 1]⏎⏎问：ask⏎⏎答：⟦yes<eos>⟧",
        "[gMASK]<sop>Be brief⏎⏎[Round 1]⏎⏎问：ask⏎⏎答：yes⏎⏎[Round 2]⏎⏎问：more⏎⏎答：⟦no<eos>⟧",
    ],
    "chatglm3": [
        "[gMASK]<sop><|system|>⏎ Be brief<|user|>⏎ ask<|assistant|>⟦⏎ yes<|user|>⟧⏎ more<|assistant|>⟦⏎ no<|user|>⟧"
    ],
    "deepseek": ["<bos>Be brief<｜User｜>ask<｜Assistant｜>⟦yes<eos>⟧<｜User｜>more<｜Assistant｜>⟦no<eos>⟧"],
    "deepseek-r1": [
        "<bos>Be brief<｜User｜>ask<｜Assistant｜><think>⏎⟦⏎</think>⏎⏎yes<eos>⟧",
        "<bos>Be brief<｜User｜>ask<｜Assistant｜>yes<eos><｜User｜>more<｜Assistant｜><think>⏎⟦⏎</think>⏎⏎no<eos>⟧",
    ],
    "phi3": [
        "<|system|>⏎Be brief<|end|>⏎<|user|>⏎ask<|end|>⏎<|assistant|>⏎⟦yes<|end|>⟧⏎"
        "<|user|>⏎more<|end|>⏎<|assistant|>⏎⟦no<|end|>⟧⏎"
    ],
    "phi4": [
        "<|im_start|>system<|im_sep|>Be brief<|im_end|><|im_start|>user<|im_sep|>ask<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦yes<|im_end|>⟧<|im_start|>user<|im_sep|>more<|im_end|>"
        "<|im_start|>assistant<|im_sep|>⟦no<|im_end|>⟧"
    ],
    "vicuna": ["Be brief USER: ask ASSISTANT:⟦ yes<eos>⟧USER: more ASSISTANT:⟦ no<eos>⟧"],
    "moss": ["Be brief⏎<|Human|>: ask<eoh>⏎<|MOSS|>:⟦ yes<eom>⟧⏎<|Human|>: more<eoh>⏎<|MOSS|>:⟦ no<eom>⟧⏎"],
}

# A call, its result and the answer. Behind the offer of the tools, whose wording a template has from its model.
CALLED = {
    "chatml": [
        "user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        '⟦<tool_call>⏎{"name": "weather", "arguments": {"city": "Ulm"}}⏎</tool_call><|im_end|>⟧⏎'
        "<|im_start|>user⏎<tool_response>⏎sun⏎</tool_response><|im_end|>⏎"
        "<|im_start|>assistant⏎⟦yes<|im_end|>⟧⏎"
    ],
    "qwen2.5": [
        "user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        '⟦<tool_call>⏎{"name": "weather", "arguments": {"city": "Ulm"}}⏎</tool_call><|im_end|>⟧⏎'
        "<|im_start|>user⏎<tool_response>⏎sun⏎</tool_response><|im_end|>⏎"
        "<|im_start|>assistant⏎⟦yes<|im_end|>⟧⏎"
    ],
    "qwen3": [
        "user⏎ask<|im_end|>⏎<|im_start|>assistant⏎⟦<think>⏎⏎</think>⏎⏎"
        '<tool_call>⏎{"name": "weather", "arguments": {"city": "Ulm"}}⏎</tool_call><|im_end|>⟧⏎',
        "user⏎ask<|im_end|>⏎<|im_start|>assistant⏎"
        '<tool_call>⏎{"name": "weather", "arguments": {"city": "Ulm"}}⏎</tool_call><|im_end|>⏎'
        "<|im_start|>user⏎<tool_response>⏎sun⏎</tool_response><|im_end|>⏎"
        "<|im_start|>assistant⏎⟦<think>⏎⏎</think>⏎⏎yes<|im_end|>⟧⏎",
    ],
    "llama3.1": [
        "ask<|eot_id|><|start_header_id|>assistant<|end_header_id|>⏎⏎"
        '⟦{"name": "weather", "parameters": {"city": "Ulm"}}<|eot_id|>⟧'
        '<|start_header_id|>ipython<|end_header_id|>⏎⏎"sun"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>⏎⏎⟦yes<|eot_id|>⟧"
    ],
    "mistral": [
        "[INST] ask[/INST]"
        '⟦[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Ulm"}, "id": "a23456789"}]<eos>⟧'
        '[TOOL_RESULTS] {"content": sun, "call_id": "a23456789"}[/TOOL_RESULTS]⟦ yes<eos>⟧'
    ],
    "glm4": ['<|user|>⏎ask<|assistant|>⟦weather⏎{"city": "Ulm"}<|observation|>⟧⏎sun<|assistant|>⟦⏎yes<|user|>⟧'],
    "deepseek": [
        "<｜User｜>ask<｜Assistant｜>⟦<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather⏎"
        '```json⏎{"city": "Ulm"}⏎```<｜tool▁call▁end｜><｜tool▁calls▁end｜><eos>⟧'
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>sun<｜tool▁output▁end｜><｜tool▁outputs▁end｜>⟦yes<eos>⟧"
    ],
    "moss": [
        "<|Human|>: ask<eoh>⏎⟦<|Inner Thoughts|>: None<eot>⏎"
        '<|Commands|>: weather("Ulm")<eoc>⟧⏎<|Results|>:⏎sun<eor>⏎<|MOSS|>:⟦ yes<eom>⟧⏎'
    ],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}]


def tokenizer_for(name: str) -> Any:
    """One whose BOS and EOS can be told apart, with the tokens that stand before a conversation of GLM."""
    tokenizer = with_tokens(by_hand(), ["[gMASK]", "<sop>", "<bos>", "<eos>"])
    tokenizer.bos_token, tokenizer.eos_token = "<bos>", "<eos>"
    prepare(tokenizer, name)
    return tokenizer


def shown(tokenizer: Any, example: Encoded) -> str:
    text, edges = "", [*range(len(example.tokens)), len(example.tokens)]
    learn = [False, *example.learn, False]
    runs: list[int] = []
    for at in edges:
        if learn[at + 1] != learn[at] or at == len(example.tokens):
            text += tokenizer.decode(runs)
            text += ("⟦" if learn[at + 1] else "⟧") if learn[at + 1] != learn[at] else ""
            runs = []
        runs += example.tokens[at : at + 1]
    return text.replace("\n", "⏎")


@pytest.mark.parametrize("name", TEMPLATES)
def test_two_turns_and_a_system_message(name: str) -> None:
    tokenizer = tokenizer_for(name)
    talk = [SYSTEM, ASK, {**YES, "content": "yes"}, {**ASK, "content": "more"}, {**NO, "content": "no"}]
    assert [shown(tokenizer, each) for each in examples(tokenizer, talk)] == TWO_TURNS[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_is_learned_and_its_result_is_not(name: str) -> None:
    tokenizer = tokenizer_for(name)
    function = {"name": "weather", "arguments": {"city": "Ulm"}}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "a23456789", "function": function}],
    }
    result = {"role": "tool", "name": "weather", "tool_call_id": "a23456789", "content": "sun"}
    assert dialect(tokenizer).tools == (name in CALLED)
    talk = [ASK, call, result, {**YES, "content": "yes"}]
    if name not in CALLED:
        with pytest.raises(Refused, match="has no place for the tools that are offered"):
            examples(tokenizer, talk, TOOLS)
        with pytest.raises(Refused, match="has no place for the assistant's tool calls"):
            examples(tokenizer, talk)
        return
    found = [shown(tokenizer, each) for each in examples(tokenizer, talk, TOOLS)]
    assert [text[-len(end) :] for text, end in zip(found, CALLED[name], strict=True)] == CALLED[name]
    assert all(text.count("⟦") == end.count("⟦") for text, end in zip(found, CALLED[name], strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_thought_is_learned_with_its_answer_or_the_record_is_refused(name: str) -> None:
    tokenizer = tokenizer_for(name)
    talk = [
        ASK,
        {**YES, "content": "yes", "reasoning_content": "hm"},
        ASK,
        {**NO, "content": "no", "reasoning_content": "so"},
    ]
    inline = [ASK, {**YES, "content": "<think>\nhm\n</think>\n\nyes"}, ASK, {**NO, "content": "<think>so</think>no"}]
    if name not in ("qwen3", "deepseek-r1"):
        with pytest.raises(Refused, match=r"has no place for the assistant's thoughts|changes what it has said"):
            examples(tokenizer, talk)
        return
    found = [shown(tokenizer, each) for each in examples(tokenizer, talk)]
    assert found == [shown(tokenizer, each) for each in examples(tokenizer, inline)]
    open_thought = "<think>⏎⟦" if name == "deepseek-r1" else "⟦<think>⏎"
    end = tokenizer.eos_token
    assert [text.partition("⏎" * (name == "qwen3") + open_thought)[2].rstrip("⏎") for text in found] == [
        f"hm⏎</think>⏎⏎yes{end}⟧",
        f"so⏎</think>⏎⏎no{end}⟧",
    ]
    assert "hm" not in found[1]
