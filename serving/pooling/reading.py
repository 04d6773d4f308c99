"""From what was asked to token ids: texts, pairs of texts, and conversations whose last answer is scored.

A conversation becomes the ids that the reward model was trained on (cluster/core/encoding.py), and not those of a
template that is applied anew. Tokenizers change their settings while they cut: one thread uses them at a time.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from msgspec import Struct

from cluster.core.encoding import scored_tokens
from cluster.core.errors import TrunklineError
from serving.limits import Refused
from serving.pooling.asked import Message, Said, Text

ANSWER, REQUEST = "assistant", "user"


class Part(Struct):
    """A part of a message's content."""

    text: str
    type: Literal["text"] = "text"


class Called(Struct):
    """A function that was called; its arguments as JSON, or as what JSON says."""

    name: str
    arguments: str | dict[str, Any] = ""


class Call(Struct, omit_defaults=True):
    function: Called
    id: str = ""
    type: Literal["function"] = "function"


class Spoken(Struct, omit_defaults=True):
    """A message of the chat API. Other fields are none of a template's business."""

    role: str
    content: str | list[Part] | None = None
    reasoning_content: str = ""
    name: str = ""
    tool_call_id: str = ""
    tool_calls: list[Call] = []


@dataclass(frozen=True)
class Row:
    """A text as a model takes it; `types` tell the two texts of a pair apart, where it wants that."""

    ids: list[int]
    types: list[int] | None = None


class Reader:
    """The tokenizer of a model that takes at most `context_tokens` (0: any number)."""

    def __init__(self, tokenizer: Any, context_tokens: int) -> None:
        self.tokenizer, self.context_tokens = tokenizer, context_tokens
        self._lock = threading.Lock()

    @property
    def chats(self) -> bool:
        """Whether conversations can be shown to the model."""
        return bool(self.tokenizer.chat_template)

    def text(self, given: Text, truncate: int | None) -> Row:
        """A text with the tokens that stand around each, or the ids that are given. Raises Refused."""
        if isinstance(given, str):
            return self._encoded("input", truncate, given)
        rows = len(self.tokenizer)
        if not given or not all(0 <= each < rows for each in given):
            raise Refused(400, f"token ids are 0 to {rows - 1}, and at least one", "input")
        return self._fitting(Row(given[: self._most(truncate)] if truncate is not None else given), "input")

    def pair(self, query: Said, document: str, truncate: int | None, finished: bool) -> Row:
        """A query with a document; where the model was trained on conversations, a request with its answer."""
        if self.chats:
            said = [{"role": REQUEST, "content": query}] if isinstance(query, str) else query
            return self.conversation([*said, {"role": ANSWER, "content": document}], truncate, finished, "queries")
        if not isinstance(query, str):
            raise Refused(400, "this model has no chat template: give texts", "queries")
        if not finished:
            raise Refused(400, "this model knows no turns, which could be cut off", "continue_final_message")
        return self._encoded("documents", truncate, query, document)

    def conversation(self, messages: list[Message], truncate: int | None, finished: bool, field: str) -> Row:
        """A conversation that ends with an answer. Raises Refused."""
        if not self.chats:
            raise Refused(400, "this model has no chat template: give texts as `input`", field)
        spoken = [_message(each, field) for each in messages]
        if not spoken or spoken[-1]["role"] != ANSWER:
            raise Refused(400, "a conversation ends with the assistant's answer, which is what is read", field)
        try:
            with self._lock:
                ids = scored_tokens(self.tokenizer, spoken, finished)
        except TrunklineError as error:
            raise Refused(400, str(error), field) from None
        return self._fitting(Row(ids[-self._most(truncate) :] if truncate is not None else ids), field)

    def _encoded(self, field: str, truncate: int | None, *texts: str) -> Row:
        cut = {} if truncate is None else {"truncation": True, "max_length": self._most(truncate)}
        try:
            with self._lock:
                found = self.tokenizer(*texts, return_token_type_ids=len(texts) > 1, **cut)
        except Exception as error:  # of every kind, where nothing is left of a text that is cut
            raise Refused(400, f"it cannot be cut to {truncate} tokens: {error}", "truncate_prompt_tokens") from None
        if not found["input_ids"]:
            raise Refused(400, "a text is empty", field)
        return self._fitting(Row(found["input_ids"], found.get("token_type_ids")), field)

    def _most(self, truncate: int | None) -> int:
        """To how many tokens a text is cut."""
        if truncate == 0:
            raise Refused(400, "nothing would be left", "truncate_prompt_tokens")
        most = self.context_tokens or 1 << 30
        return most if truncate in (None, -1) else min(int(truncate or 0), most)

    def _fitting(self, row: Row, field: str) -> Row:
        if self.context_tokens and len(row.ids) > self.context_tokens:
            raise Refused(
                400,
                f"This model's maximum context length is {self.context_tokens} tokens, and a text has {len(row.ids)} "
                "(truncate_prompt_tokens=-1 cuts it)",
                field,
                code="context_length_exceeded",
            )
        return row


def _message(given: Message, field: str) -> Message:
    """A message of the chat API, whose content is a text or parts of one. Raises Refused."""
    try:
        message = msgspec.convert(given, Spoken)
    except msgspec.ValidationError as error:
        raise Refused(400, f"no message of a conversation: {error}", field) from None
    found = msgspec.to_builtins(message)
    content = message.content
    return found | {"content": content if isinstance(content, str) else "".join(part.text for part in content or ())}
