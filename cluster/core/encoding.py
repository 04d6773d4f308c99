"""Conversations as tokens, and which of them are learned: what the assistant must say, and the token that ends it.

Before an answer stands what generation is given there, id for id: the prompt as its template renders it, encoded as a
whole. The answer's ids continue it. One example goes on over several answers as long as the prompt of each begins with
the ids that are there already; where it does not (templates that cut thoughts from the history, or whose borders make a
token with what follows), the next answer begins an example of its own. What a message says is text
(cluster/core/typed_text.py): nobody ends a turn by typing so.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.core.dialect import OPEN_THOUGHT, THOUGHT, Dialect, End, dialect
from cluster.core.errors import InputError
from cluster.core.typed_text import Conversation, Messages, control

Message = dict[str, Any]
Tools = list[dict[str, Any]] | None

CLOSED_THOUGHT = "</think>"


class Refused(InputError):
    """A chat template cannot render this record: `reason` says why, alike for all records of the kind."""

    def __init__(self, reason: str, remedy: str = "Leave the record out, or choose another sft.template.") -> None:
        super().__init__(f"the chat template {reason}", remedy)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Refused, (self.reason, self.remedy)


@dataclass(frozen=True)
class Encoded:
    """An example as token ids; `learn[i]` says that `tokens[i]` is to be predicted."""

    tokens: list[int]
    learn: list[bool]


def examples(tokenizer: Any, messages: Messages, tools: Tools = None) -> list[Encoded]:
    """All that a conversation teaches, once each: one example, or several where its template rewrites what was said.

    A message of the assistant with `learn: false` is context only. Raises Refused for a conversation that the template
    cannot render as it is, SpecError for a template that no answer can be learned by.
    """
    return [each for each in _examples(tokenizer, messages, tools) if any(each.learn)]


def encode(tokenizer: Any, messages: Messages, tools: Tools = None) -> Encoded:
    """A conversation as one example; where its template rewrites what was said, its last answers alone are learned.

    Raises as `examples` does.
    """
    return list(_examples(tokenizer, messages, tools))[-1]


def scored_tokens(tokenizer: Any, messages: Messages, finished: bool = True) -> list[int]:
    """What a reward model reads of a conversation that ends with an answer; of one that is not `finished` what there
    is, without the end of its turn. Raises as `examples` does."""
    found = encode(tokenizer, messages)
    if finished:
        return found.tokens
    return found.tokens[: max(place for place, learned in enumerate(found.learn) if learned)]


def prompt_tokens(tokenizer: Any, messages: Messages, tools: Tools = None) -> list[int]:
    """What generation is given for the assistant's next turn. Raises as `examples` does."""
    talk = _Talk(tokenizer, messages, tools)
    talk.require_requests(talk.text(None, prompt=True))
    return talk.prompt(None)


def answer_texts(tokenizer: Any, messages: Messages) -> list[str]:
    """What of a conversation is learned, answer by answer, as its template writes it. Raises as `examples` does."""
    talk = _Talk(tokenizer, messages, None)
    return [talk.body(index) for index, message in enumerate(messages) if message["role"] == "assistant"]


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """The ids at which generation stops."""
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in dialect(tokenizer).ends]


def _examples(tokenizer: Any, messages: Messages, tools: Tools) -> Iterator[Encoded]:
    talk = _Talk(tokenizer, messages, tools)
    talk.require_requests(talk.text(None))
    tokens: list[int] = []
    learn: list[bool] = []
    behind: list[int] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = talk.prompt(index)
        if prompt[: len(tokens)] != tokens:
            yield _closed(tokens + behind, learn)
            tokens, learn = [], []
        answer, behind = talk.answer(index, prompt)
        learn += [False] * (len(prompt) - len(tokens)) + [message.get("learn", True)] * len(answer)
        tokens = prompt + answer
    whole = tokens + behind
    if not messages or messages[-1]["role"] != "assistant":  # what follows the last answer is context of none
        goes_on = talk.whole(None)
        whole = goes_on if goes_on[: len(tokens)] == tokens else whole
    yield _closed(whole, learn)


def _closed(tokens: list[int], learn: list[bool]) -> Encoded:
    return Encoded(tokens, learn + [False] * (len(tokens) - len(learn)))


class _Talk:
    """A conversation under a tokenizer's template."""

    def __init__(self, tokenizer: Any, messages: Messages, tools: Tools) -> None:
        self.tokenizer = tokenizer
        self.dialect = dialect(tokenizer)
        self.messages = [_spoken(self.dialect, message) for message in messages]
        _check(self.dialect, self.messages, tools)
        self.conversation = Conversation(tokenizer, self.messages, tools or None)
        self._texts: dict[tuple[int, bool], str] = {}
        self._ids: dict[str, list[int]] = {}

    def text(self, until: int | None, prompt: bool = False) -> str:
        """The first `until` messages as the template renders them."""
        key = (len(self.messages) if until is None else until, prompt)
        if key not in self._texts:
            try:
                self._texts[key] = self.conversation.text(*key)
            except Exception as error:  # whatever a template raises, it is this conversation that it does not take
                raise Refused(f"refuses it: {error}") from None
        return self._texts[key]

    def require_requests(self, text: str) -> None:
        """Raise Refused unless what was asked and ruled stands in a rendered text."""
        for message in self.conversation.messages:
            if message["role"] in ("system", "user") and message["content"].strip() not in text:
                raise Refused(f"leaves out or changes what the {message['role']} says")

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = self.conversation.ids(text)
        return self._ids[text]

    def prompt(self, index: int | None) -> list[int]:
        """The ids that generation is given for message `index` (None: for the next)."""
        return self.ids(self.text(index, prompt=True))

    def whole(self, until: int | None) -> list[int]:
        return self.ids(self.text(until))

    def answer(self, index: int, prompt: list[int]) -> tuple[list[int], list[int]]:
        """The ids of answer `index` behind those of its prompt, up to the token that ends it, and of what the template
        writes behind that."""
        end, said = self._end(index), self.text(index + 1)
        body, after = self._split(index)
        ending = int(self.tokenizer.convert_tokens_to_ids(end.token))
        stripped = control(self.tokenizer).strips and body != body.strip()
        if not stripped and said.startswith(self.text(index, prompt=True)):
            whole = self.ids(said)
            if whole[: len(prompt)] == prompt:  # no token spans prompt and answer
                rest = whole[len(prompt) :]
                at = rest.index(ending) if end.written else len(rest)
                return [*rest[:at], ending], rest[at + 1 :]
        behind = self.conversation.ids(end.token + after)[1:] if after else []
        return [*self.conversation.following(body), ending], behind

    def body(self, index: int) -> str:
        """What the assistant must say behind the prompt of message `index`, without the token that ends it."""
        return self._split(index)[0]

    def _split(self, index: int) -> tuple[str, str]:
        asked, said, end = self.text(index, prompt=True), self.text(index + 1), self._end(index)
        behind = said[len(asked) :] if said.startswith(asked) else self._behind_thought(index, asked, said)
        body, found, after = behind.partition(end.token)
        if end.written and not found:
            raise Refused(f"ends an answer without {end.token}")
        self._require_said(self.conversation.messages[index], body)
        return body, after

    def _require_said(self, message: Message, body: str) -> None:
        """Raise Refused unless an answer's words, thought and calls are all in its rendered text."""
        if message.get("content", "").strip() not in body:
            raise Refused("leaves out or changes what the assistant says")
        if message.get("reasoning_content", "").strip() not in body:
            raise Refused("leaves out or changes a thought of the assistant")
        names = Counter(call["function"]["name"] for call in message.get("tool_calls", ()))
        if any(body.count(name) < count for name, count in names.items()):
            raise Refused("leaves out a call of a tool")

    def _end(self, index: int) -> End:
        calls = self.dialect.end_of_call if self.messages[index].get("tool_calls") else None
        return calls or self.dialect.end

    def _behind_thought(self, index: int, asked: str, said: str) -> str:
        """The answer to a prompt that opens a thought, of a template that cuts thoughts, or that writes none in another
        way than it opens one: the thought is put back, if it is empty."""
        before = OPEN_THOUGHT.sub("", asked)
        if self.dialect.thoughts and before != asked and not self.messages[index].get("reasoning_content"):
            with_thought = self.conversation.with_message(index, reasoning_content=THOUGHT).text(index + 1)
            if with_thought.startswith(asked):
                return with_thought[len(asked) :].replace(THOUGHT, "", 1)
        if not self.dialect.open_thought or not said.startswith(before):
            raise Refused("changes what it has said before when the answer follows")
        thought = self.conversation.messages[index].get("reasoning_content", "").strip("\n")
        return f"{thought}\n{CLOSED_THOUGHT}\n\n{said[len(before) :]}"


def _spoken(known: Dialect, message: Message) -> Message:
    """A message in the form that the template takes: thoughts apart from what is said, calls as it reads them."""
    content = message.get("content") or ""
    found = {name: value for name, value in message.items() if name != "learn"} | {"content": content}
    if message["role"] != "assistant":
        return found
    if (known.thoughts or known.open_thought) and CLOSED_THOUGHT in content and not found.get("reasoning_content"):
        thought, _, content = content.rpartition(CLOSED_THOUGHT)
        thought = re.sub(r"\A\s*<think>", "", thought).strip("\n")
        found |= {"reasoning_content": thought, "content": content.lstrip("\n")}
    if calls := found.get("tool_calls"):
        if known.arguments_as_text:
            found["tool_calls"] = [_with_text(call) for call in calls]
        if not known.content_beside_calls and not content:
            found.pop("content", None)
    return found


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _check(known: Dialect, messages: Messages, tools: Tools) -> None:
    """Raise Refused where the template would leave something out in silence."""
    roles = {message["role"] for message in messages}
    if "system" in roles and not known.system:
        raise Refused("has no place for a system message")
    if tools and not known.tools:
        raise Refused("has no place for the tools that are offered")
    if any(message.get("tool_calls") for message in messages) and not known.end_of_call:
        raise Refused("has no place for the assistant's tool calls")
    if "tool" in roles and not known.results:
        raise Refused("has no place for the results of tools")
    thoughts = any(message.get("reasoning_content") for message in messages)
    if thoughts and not (known.thoughts or known.open_thought):
        raise Refused("has no place for the assistant's thoughts")
