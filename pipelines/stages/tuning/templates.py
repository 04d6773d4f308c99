"""Chat templates by name: how a conversation becomes one text. They travel with the tokenizer that they are set on.

`chatml` marks turns with special tokens, which a model must learn first; `alpaca` and `completion` add no token and
suit a small or a code model. Every answer ends with the tokenizer's eos, where generation stops.
"""

from __future__ import annotations

from typing import Any

from cluster.core.errors import SpecError

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Taori et al. 2023 without the preamble; who wants one gives a system message.
ALPACA = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '\n\n### Response:\n' + message['content'] + eos_token }}"
    "{% else %}"
    "{{ '' if loop.first else '\n\n' }}"
    "{{ ('### Instruction:\n' if message['role'] == 'user' else '') + message['content'] }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
# A function's head and its body: the answer goes on where the request ends, on a new line.
COMPLETION = (
    "{% for message in messages %}"
    "{{ message['content'] + (eos_token if message['role'] == 'assistant' else '\n') }}"
    "{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "alpaca": ALPACA, "completion": COMPLETION}


def prepare(tokenizer: Any, name: str) -> int:
    """Set the named template (none for "": the model's own) and make its end of turn the tokenizer's eos.

    Returns how many tokens were added, by which the model's embeddings must grow. Raises SpecError without a template.
    """
    if name == "chatml":
        tokenizer.chat_template = CHATML
        turns = {"eos_token": TURN_END, "extra_special_tokens": [TURN_START]}
        return int(tokenizer.add_special_tokens(turns, replace_extra_special_tokens=False))
    if name:
        if tokenizer.eos_token is None:
            raise SpecError(f"sft.template: {name} ends with the tokenizer's eos, and it has none", "Choose chatml.")
        tokenizer.chat_template = TEMPLATES[name]
        return 0
    if not tokenizer.chat_template:
        raise SpecError(
            "sft.template: the model has no chat template of its own", f"Choose one: {', '.join(TEMPLATES)}."
        )
    tokenizer.eos_token = _end_of_turn(tokenizer)
    return 0


def _end_of_turn(tokenizer: Any) -> str:
    """The token that the tokenizer's template writes after an answer: its eos, or else another special token."""
    user, answer = {"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}
    text = tokenizer.apply_chat_template([user, answer], tokenize=False)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    found = [token for token in tokenizer.tokenize(text.rpartition("answer")[2]) if token in special]
    if not found:
        raise SpecError(
            "sft.template: the model's own chat template ends an answer without a special token, where no reader stops",
            f"Choose one: {', '.join(TEMPLATES)}.",
        )
    return str(tokenizer.eos_token if tokenizer.eos_token in found else found[0])
