"""What a chat template understands, found by asking it: how it ends an answer, and what it leaves out or refuses.

A template is a program, and says of itself neither whether it shows a system message nor which token ends a turn. So
it renders short conversations of words that stand in no template, and the text is looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from cluster.core.errors import SpecError
from cluster.core.typed_text import Conversation, Messages, control

ASKED, SAID, ASKED_AGAIN, RULED = "qaskedq", "qsaidq", "qagainq", "qruledq"
THOUGHT, CALLED, GIVEN, RESULT, OFFERED = "qthoughtq", "qcalledq", "qgivenq", "qresultq", "qofferedq"
CALL_ID = "qcallidqq"  # nine letters and digits, as Mistral's templates ask
OPEN_THOUGHT = re.compile(r"<think>\s*\Z")  # a prompt that has begun a thought

USER = {"role": "user", "content": ASKED}
ANSWER = {"role": "assistant", "content": SAID}
AGAIN = {"role": "user", "content": ASKED_AGAIN}
SYSTEM = {"role": "system", "content": RULED}
THINKING = {**ANSWER, "reasoning_content": THOUGHT}
TOOL_RESULT = {"role": "tool", "name": CALLED, "tool_call_id": CALL_ID, "content": RESULT}
TOOL = {
    "type": "function",
    "function": {
        "name": CALLED,
        "description": OFFERED,
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}},
    },
}


@dataclass(frozen=True)
class End:
    """The token that ends an answer; `written` by the template itself, or else the marker of the role that is next."""

    token: str
    written: bool


@dataclass(frozen=True)
class Dialect:
    """What a chat template understands."""

    end: End
    end_of_call: End | None
    """Of an answer that calls tools; None where the template does not write calls."""
    arguments_as_text: bool
    """Whether it takes a call's arguments as JSON text only."""
    content_beside_calls: bool
    """Whether it writes a call only where the message has a content, if an empty one."""
    system: bool
    tools: bool
    results: bool
    thoughts: bool
    """Whether it writes `reasoning_content` of the last answer."""
    open_thought: str
    """What opens a thought in the prompt, of a template that does not write thoughts: `<think>` and a line end."""

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens at which generation stops."""
        found = [self.end.token, self.end_of_call.token if self.end_of_call else self.end.token]
        return tuple(dict.fromkeys(found))


_known: WeakKeyDictionary[Any, tuple[Any, Dialect]] = WeakKeyDictionary()


def dialect(tokenizer: Any) -> Dialect:
    """What a tokenizer's template understands. Raises SpecError for one that no answer can be learned by."""
    state = len(tokenizer), tokenizer.eos_token, str(tokenizer.chat_template)
    if tokenizer not in _known or _known[tokenizer][0] != state:
        _known[tokenizer] = state, _ask(tokenizer)
    return _known[tokenizer][1]


def of_template(tokenizer: Any) -> str:
    """The template's name in a message."""
    return f"the chat template of {tokenizer.name_or_path or 'this tokenizer'}"


def _ask(tokenizer: Any) -> Dialect:
    prompt, plain = _render(tokenizer, [USER], prompt=True), _render(tokenizer, [USER, ANSWER])
    if not isinstance(prompt, str) or not isinstance(plain, str):
        error = plain if isinstance(prompt, str) else prompt
        raise SpecError(f"sft.template: {of_template(tokenizer)} refuses a question and its answer: {error}")
    if SAID not in plain or ASKED not in prompt:
        raise SpecError(f"sft.template: {of_template(tokenizer)} does not write what is asked and what is answered")
    end = _end(tokenizer, plain)
    shows_tools = OFFERED in _text(_render(tokenizer, [USER], [TOOL], prompt=True))
    offered = [TOOL] if shows_tools else None
    opened = OPEN_THOUGHT.search(prompt)
    thinks = THOUGHT in _text(_render(tokenizer, [USER, THINKING]))
    calls = _calls(tokenizer, offered)
    return Dialect(
        end=end,
        end_of_call=_end_of_call(tokenizer, *calls, offered, end) if calls else None,
        arguments_as_text=calls is not None and isinstance(_function(calls[0])["arguments"], str),
        content_beside_calls=calls is not None and "content" in calls[0],
        system=_takes_system(tokenizer),
        tools=shows_tools,
        results=calls is not None and _takes_results(tokenizer, calls[0], offered),
        thoughts=thinks,
        open_thought=opened[0] if opened and not thinks else "",
    )


def _end(tokenizer: Any, plain: str) -> End:
    """What ends an answer: the eos, or else the first control token behind it, wherever in a conversation it stands."""
    last = _controls(tokenizer, plain.rpartition(SAID)[2])
    between = _controls(tokenizer, _between(_text(_render(tokenizer, [USER, ANSWER, AGAIN])), SAID, ASKED_AGAIN))
    always = _ends([token for token in last if token in between] or last)
    if always:
        return End(tokenizer.eos_token if tokenizer.eos_token in always else always[0], written=True)
    if between:
        return End(between[0], written=False)
    tail = plain.rpartition(SAID)[2]
    raise SpecError(
        f"sft.template: {of_template(tokenizer)} ends an answer without a special token, where no reader stops"
        + (f": {tail.strip()!r} is none of the tokenizer's" if tail.strip() else ""),
        "Choose a template by its name, such as chatml or alpaca.",
    )


def _ends(tokens: list[str]) -> list[str]:
    """Those that may end an answer: a tag that closes what it says, such as `</answer>`, only if there is no other."""
    return [token for token in tokens if not _closes(token)] or tokens


def _closes(token: str) -> bool:
    return token.startswith("</")


def _calls(tokenizer: Any, offered: list[Any] | None) -> tuple[dict[str, Any], str] | None:
    """An answer that calls a tool, in the form in which the template writes it, and its text; None where none is."""
    arguments = {"city": GIVEN}
    for given, content in (
        (arguments, {"content": ""}),
        (arguments, {}),
        (f'{{"city": "{GIVEN}"}}', {"content": ""}),
        (f'{{"city": "{GIVEN}"}}', {}),
    ):
        call = {"type": "function", "id": CALL_ID, "function": {"name": CALLED, "arguments": given}}
        message = {"role": "assistant", **content, "tool_calls": [call]}
        text = _text(_render(tokenizer, [USER, message], offered)).rpartition(ASKED)[2]
        if CALLED in text and GIVEN in text and "{'" not in text and '\\"' not in text:
            return message, text
    return None


def _end_of_call(tokenizer: Any, message: dict[str, Any], text: str, offered: list[Any] | None, end: End) -> End | None:
    """What ends an answer that calls a tool; None where nothing does."""
    written = _controls(tokenizer, text.rpartition(GIVEN)[2])
    if end.token in written:
        return end
    if ends := [token for token in written if not _closes(token)]:
        return End(ends[-1], written=True)
    answered = _text(_render(tokenizer, [USER, message, TOOL_RESULT], offered))
    between = [t for t in _controls(tokenizer, _between(answered, GIVEN, RESULT)) if not _closes(t)]
    return End(between[0], written=False) if between else None


def _takes_system(tokenizer: Any) -> bool:
    """Whether a system message is written, and stays where it was when the conversation goes on."""
    prompts = [
        (_text(_render(tokenizer, talk[:-1], prompt=True)), _text(_render(tokenizer, talk)))
        for talk in ([SYSTEM, USER, ANSWER], [SYSTEM, USER, ANSWER, AGAIN, ANSWER])
    ]
    return all(
        RULED in prompt and RULED in whole and whole.startswith(OPEN_THOUGHT.sub("", prompt))
        for prompt, whole in prompts
    )


def _takes_results(tokenizer: Any, message: dict[str, Any], offered: list[Any] | None) -> bool:
    text = _text(_render(tokenizer, [USER, message, TOOL_RESULT], offered, prompt=True))
    foreign = "<|tool|>" in text and "<|tool|>" not in control(tokenizer).tokens  # a role that the model does not know
    return RESULT in text and not foreign


def _render(tokenizer: Any, talk: Messages, tools: list[Any] | None = None, prompt: bool = False) -> str | Exception:
    try:
        return Conversation(tokenizer, talk, tools).text(prompt=prompt)
    except Exception as error:  # a template may raise anything for what it does not expect: that is the answer
        return error


def _text(rendered: str | Exception) -> str:
    return rendered if isinstance(rendered, str) else ""


def _between(text: str, begin: str, end: str) -> str:
    return text.rpartition(begin)[2].partition(end)[0]


def _controls(tokenizer: Any, text: str) -> list[str]:
    """The control tokens of a text, in their order, the longer where two begin at one place."""
    tokens = sorted(control(tokenizer).tokens, key=len, reverse=True)
    return re.findall("|".join(map(re.escape, tokens)), text) if tokens else []


def _function(message: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = message["tool_calls"][0]["function"]
    return found
