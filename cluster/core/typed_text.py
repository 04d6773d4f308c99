"""What people typed, kept apart from what a chat template writes: no text of a conversation becomes a control token.

A tokenizer takes `<|im_end|>` in a rendered conversation for the token, whoever wrote it. So a mark, which is no
character, is put into every control token that a text spells, behind its first character; templates carry it along.
Where the rendered text is cut at the marks, the parts spell no control token but the template's own. This is the one
encoder of training and of chats: a conversation that spells no control token has the ids that transformers and vLLM
give it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

Messages = list[dict[str, Any]]

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters: of no text that is meant to be read
BEFORE = ("\n", ".", "a", "1")  # texts that a piece may stand behind while it is encoded


@dataclass(frozen=True)
class Control:
    """The control tokens of a tokenizer with its chat template, and where a text spells one.

    `typed` is for what people, tools and systems say, `said` for the assistant's words, in which markup of content
    (`<think>` and `</think>`) is the token.
    """

    tokens: frozenset[str]
    typed: re.Pattern[str] | None
    said: re.Pattern[str] | None
    strips: bool  # whether one of the tokenizer's own tokens eats the blanks beside it


_known: WeakKeyDictionary[Any, tuple[Any, Control]] = WeakKeyDictionary()


def control(tokenizer: Any) -> Control:
    """The special tokens of a tokenizer of transformers, and the added tokens that its chat template writes."""
    state = len(tokenizer), tokenizer.eos_token, str(tokenizer.chat_template)
    if tokenizer not in _known or _known[tokenizer][0] != state:
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)
        named = set(getattr(tokenizer, "chat_control_tokens", None) or ())
        signs = {token.content for token in added if token.content.strip() and not token.content.strip().isalnum()}
        source = state[2] + _sample(tokenizer)
        written = {token for token in signs | named if token in named or token in source} - special
        markup = {token for token in written if _closing(token) in written or token in map(_closing, written)}
        strips = any(token.lstrip or token.rstrip for token in added)
        found = Control(
            frozenset(special | written), spelled(special | written), spelled(special | written - markup), strips
        )
        _known[tokenizer] = state, found
    return _known[tokenizer][1]


def _sample(tokenizer: Any) -> str:
    """What the chat template writes around roles: it may put its tokens together out of their names."""
    texts = []
    for others in ((), ("system",), ("tool",), ("observation",)):
        talk = [{"role": role, "content": ""} for role in (*others, "user", "assistant", "user")]
        try:
            texts.append(str(tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)))
        except Exception:  # a role that it does not take: it writes nothing for it
            continue
    return "\n".join(texts)


def _closing(token: str) -> str:
    return token.replace("<", "</", 1)


def spelled(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Where a text spells one of these tokens and can be cut behind its first character; None where none can be."""
    longer = sorted({re.escape(token) for token in tokens if len(token) > 1}, key=lambda each: (-len(each), each))
    return re.compile(rf"(?=(?:{'|'.join(longer)}))") if longer else None


class Conversation:
    """A conversation, and the tools that were offered, as a tokenizer's chat template renders them.

    Tokenizers are those of transformers; messages have their form (role, content, tool_calls, ...). Rendering raises
    what a template raises: jinja2.TemplateError, or an error of Python's for a value that it does not expect.
    """

    def __init__(self, tokenizer: Any, messages: Messages, tools: list[Any] | None = None) -> None:
        self.tokenizer = tokenizer
        known = control(tokenizer)
        values: list[tuple[Any, re.Pattern[str] | None]] = [
            (m, known.said if m["role"] == "assistant" else known.typed) for m in messages
        ]
        values.append((tools, known.typed))
        self.mark = _mark(values)
        self.messages, self.tools = messages, tools
        if self.mark:
            *self.messages, self.tools = [_marked(value, pattern, self.mark) for value, pattern in values]

    def text(self, until: int | None = None, prompt: bool = False) -> str:
        """The first `until` messages, and with `prompt` what begins the assistant's next turn."""
        found = str(
            self.tokenizer.apply_chat_template(
                self.messages[:until], tools=self.tools, add_generation_prompt=prompt, tokenize=False
            )
        )
        # Some templates write JSON in ASCII.
        return found.replace(json.dumps(self.mark)[1:-1], self.mark) if self.mark else found

    def with_message(self, index: int, **changes: str) -> Conversation:
        """The conversation with a message changed by texts that spell no control token."""
        changed = copy.copy(self)
        changed.messages = [m | changes if i == index else m for i, m in enumerate(self.messages)]
        return changed

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text, encoded as a whole but for the control tokens that somebody typed."""
        first, *others = self._parts(text)
        return [*_ids(self.tokenizer, first), *(id for part in others for id in _following(self.tokenizer, part))]

    def following(self, text: str) -> list[int]:
        """Token ids of a piece of rendered text that stands behind other text."""
        return [id for part in self._parts(text) for id in _following(self.tokenizer, part)]

    def _parts(self, text: str) -> list[str]:
        return text.split(self.mark) if self.mark else [text]


def prompt_ids(tokenizer: Any, messages: Messages, tools: list[Any] | None = None) -> list[int]:
    """What generation is given for the assistant's next turn."""
    conversation = Conversation(tokenizer, messages, tools)
    return conversation.ids(conversation.text(prompt=True))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _following(tokenizer: Any, text: str) -> list[int]:
    """Ids of what stands behind other text: no blank is put before it, as tokenizers of the SentencePiece family do
    before a text's first word, and it makes no token with what it is tried behind."""
    for before in (*BEFORE, tokenizer.eos_token or ""):
        lead, whole = _ids(tokenizer, before), _ids(tokenizer, before + text)
        if whole[: len(lead)] == lead:
            return whole[len(lead) :]
    return _ids(tokenizer, text)


def _cut(text: str, tokens: re.Pattern[str] | None) -> list[str]:
    """The text in parts none of which holds one of the tokens; they join to the text."""
    if tokens is None:
        return [text]
    ends = [found.start() + 1 for found in tokens.finditer(text)]
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def _mark(values: list[tuple[Any, re.Pattern[str] | None]]) -> str:
    """A mark that none of the values holds; "" where none of them spells a token."""
    texts = [(text, pattern) for value, pattern in values for text in _texts(value)]
    if not any(pattern and pattern.search(text) for text, pattern in texts):
        return ""
    pairs = (one + other for one in MARKS for other in MARKS if one != other)
    return next(mark for mark in (*MARKS, *pairs) if not any(mark in text for text, _ in texts))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for name, each in value.items() for part in (name, each) for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for each in value for text in _texts(each))


def _marked(value: Any, tokens: re.Pattern[str] | None, mark: str) -> Any:
    """The value with a mark within every token that a text in it spells, at any depth."""
    if isinstance(value, str):
        return mark.join(_cut(value, tokens))
    if isinstance(value, dict):
        return {_marked(name, tokens, mark): _marked(each, tokens, mark) for name, each in value.items()}
    if isinstance(value, list):
        return [_marked(each, tokens, mark) for each in value]
    return value
