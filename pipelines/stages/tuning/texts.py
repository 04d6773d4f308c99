"""What is looked for in every turn: control tokens of chat templates, blanks to fill in, broken characters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pipelines.stages.tuning.conversation import BadRecord, Message

Policy = Literal["keep", "strip", "reject"]

# Tokens that templates put around turns. In a text they are somebody else's template, or talk about it.
CONTROL = re.compile(
    r"<\|(?:im_(?:start|end|sep)|endof(?:text|turn)|eot(?:_id)?|end|eom_id|begin_of_text|(?:start|end)_header_id|"
    r"system|user|assistant|observation|Human|MOSS|Inner Thoughts|Commands|Results|endofprompt)\|>"
    r"|<eo[acehmrt]>|</s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:sop|bos|eos)>|\[gMASK\]"
    r"|<｜[^<>｜]{1,30}｜>"
)
BLANK = re.compile(r"\{\{\s*\w{1,30}\s*\}\}")
REPLACEMENT = "\ufffd"


class Texts:
    """Looks through the texts of conversations as a spec wants it."""

    def __init__(self, control_tokens: Policy, replace: Mapping[str, str]) -> None:
        self.policy, self.replace = control_tokens, dict(replace)

    def seen(self, messages: list[Message]) -> list[str]:
        """What there is to count, each once; texts are altered as the spec says. Raises BadRecord for a token that is
        refused."""
        notes: dict[str, None] = {}
        for number, message in enumerate(messages, 1):
            message["content"] = self._text(message["content"], number, notes)
            if "reasoning_content" in message:
                message["reasoning_content"] = self._text(message["reasoning_content"], number, notes)
        return list(notes)

    def _text(self, text: str, number: int, notes: dict[str, None]) -> str:
        for old, new in self.replace.items():
            text = text.replace(old, new)
        if "<" in text or "[" in text:
            found = CONTROL.findall(text)
            if found and self.policy == "reject":
                raise BadRecord(f"control token: {found[0]} in turn {number}")
            what = "taken out" if self.policy == "strip" else "kept as text"
            notes.update(dict.fromkeys(f"control token {token}, {what}" for token in found))
            if found and self.policy == "strip":
                text = CONTROL.sub("", text).strip()
        if "{{" in text:
            notes.update(dict.fromkeys(f"blank {blank}, not filled in" for blank in BLANK.findall(text)[:3]))
        if not text.isascii() and REPLACEMENT in text:
            notes["replacement character (U+FFFD) in a text"] = None
        return text
