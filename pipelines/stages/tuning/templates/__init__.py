"""Chat templates by name: how a conversation becomes one text. They travel with the tokenizer that they are set on.

Each is a file of this folder, in Jinja, written after the published models that it names (`docs/tuning.md` says which).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.core import dialect as probes
from cluster.core.dialect import dialect, of_template
from cluster.core.encoding import Refused, answer_texts
from cluster.core.errors import SpecError

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
PLAIN = "completion"  # of a model that has none, where it is asked and not tuned

# What a model's own template is given in front, where it lacks it. The line end behind a block is not rendered.
BEGIN = "{%- if bos_token is defined %}{{- bos_token }}{%- endif %}\n"
MERGE = (
    "{%- if messages|length > 1 and messages[0].role == 'system' and messages[1].role == 'user' %}"
    "{%- set messages = [{'role': 'user', 'content': messages[0].content + '\\n\\n' + messages[1].content}]"
    " + messages[2:] %}"
    "{%- endif %}\n"
)


@dataclass(frozen=True)
class Named:
    """The special tokens that a template writes, and the one of them that ends an answer ("": the tokenizer's eos)."""

    tokens: tuple[str, ...] = ()
    end: str = ""
    begins: tuple[str, ...] = ()
    """Tokens that stand before a conversation, where the tokenizer knows them."""

    @property
    def needed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.tokens, *([self.end] if self.end else ()))))


_IM = Named((TURN_START,), TURN_END)
_HEADERS = Named(("<|start_header_id|>", "<|end_header_id|>"), "<|eot_id|>")
_DEEPSEEK = (
    "<｜User｜>",
    "<｜Assistant｜>",
    *(f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")),
    *(f"<｜tool▁{name}｜>" for name in ("outputs▁begin", "outputs▁end", "output▁begin", "output▁end")),
)
_INST = tuple(f"[{sign}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for sign in ("", "/"))
_GLM = ("<|system|>", "<|assistant|>", "<|observation|>")
_GMASK = ("[gMASK]", "<sop>", "sop")

NAMED = {
    "chatml": _IM,
    "alpaca": Named(),
    "completion": Named(),
    "llama2": Named(),
    "llama3": _HEADERS,
    "llama3.1": _HEADERS,
    "mistral": Named((*_INST, "[TOOL_CALLS]")),
    "gemma": Named(("<start_of_turn>",), "<end_of_turn>"),
    "qwen2.5": _IM,
    "qwen3": _IM,
    "glm4": Named(_GLM, "<|user|>", _GMASK),
    "chatglm2": Named(begins=_GMASK),
    "chatglm3": Named(_GLM, "<|user|>", _GMASK),
    "deepseek": Named(_DEEPSEEK),
    "deepseek-r1": Named(_DEEPSEEK),
    "phi3": Named(("<|system|>", "<|user|>", "<|assistant|>"), "<|end|>"),
    "phi4": Named((TURN_START, "<|im_sep|>"), TURN_END),
    "vicuna": Named(),
    "moss": Named(("<eoh>", "<eot>", "<eoc>", "<eor>"), "<eom>"),
}
TEMPLATES = {name: (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8") for name in NAMED}
CHATML = TEMPLATES["chatml"]


def prepare(tokenizer: Any, name: str) -> int:
    """Set the named template (none for "": the model's own) and make its end of turn the tokenizer's eos.

    A conversation begins with a BOS where the tokenizer begins a text with one; a system message that the model's own
    template refuses, drops or moves stands before the first request. Returns how many tokens were added, by which the
    model's embeddings must grow. Raises SpecError for a template that answers cannot be learned by.
    """
    added = _set(tokenizer, name) if name else 0
    if not name:
        _require_own(tokenizer)
    if _begins(tokenizer) and not _own_begin(tokenizer):
        _put_in_front(tokenizer, BEGIN)
    _finish(tokenizer)
    return added


def as_served(tokenizer: Any) -> None:
    """Take the template with which the model is served, or `completion` for a model that has none."""
    if not tokenizer.chat_template:
        _set(tokenizer, PLAIN)
    _finish(tokenizer)


def missing(tokenizer: Any, name: str) -> list[str]:
    """The special tokens of a named template that the tokenizer does not have."""
    return [token for token in (NAMED[name].needed if name else ()) if token not in _added(tokenizer)]


def _added(tokenizer: Any) -> set[str]:
    """The texts that a tokenizer takes for one token each, wherever they stand."""
    return {token.content for token in tokenizer.added_tokens_decoder.values()}


def _finish(tokenizer: Any) -> None:
    if not dialect(tokenizer).system:
        own = tokenizer.chat_template
        _put_in_front(tokenizer, MERGE)
        if not dialect(tokenizer).system:  # nor does it take a longer request: such records are refused
            tokenizer.chat_template = own
    end, eos = dialect(tokenizer).end.token, tokenizer.eos_token
    if eos not in (None, end) and "eos_token" in str(tokenizer.chat_template):  # where it writes one, it goes on to
        _put_in_front(tokenizer, f"{{%- set eos_token = {json.dumps(eos)} %}}\n")
    tokenizer.eos_token = end
    check(tokenizer)


def check(tokenizer: Any) -> None:
    """Raise SpecError unless of a short conversation exactly the answers are learned."""
    learned = _learned(tokenizer)
    for word in (probes.ASKED, probes.ASKED_AGAIN, probes.RULED):
        if any(word in text for text in learned):
            whose = "the system's" if word == probes.RULED else "the user's"
            raise SpecError(
                f"sft.template: {of_template(tokenizer)} would have {whose} words learned as an answer", _choose()
            )
    if any(text.count(probes.SAID) != 1 for text in learned):
        raise SpecError(f"sft.template: {of_template(tokenizer)} does not write every answer once", _choose())


def _learned(tokenizer: Any) -> list[str]:
    """The answers of a short conversation, of one turn for a template that takes no more."""
    first = [probes.SYSTEM] if dialect(tokenizer).system else []
    one = [*first, probes.USER, probes.ANSWER]
    try:
        return answer_texts(tokenizer, [*one, probes.AGAIN, probes.ANSWER])
    except Refused as error:
        try:
            return answer_texts(tokenizer, one)
        except Refused:
            raise SpecError(f"sft.template: {of_template(tokenizer)} {error.reason}", _choose()) from None


def _set(tokenizer: Any, name: str) -> int:
    known = NAMED[name]
    absent = missing(tokenizer, name)
    if not known.end and tokenizer.eos_token is None:
        raise SpecError(
            f"sft.template: {name} ends with the tokenizer's eos, and it has none",
            "Choose one that brings its own, such as chatml.",
        )
    tokenizer.chat_template = "".join(token for token in known.begins if token in _added(tokenizer)) + TEMPLATES[name]
    new: dict[str, Any] = {"eos_token": known.end} if known.end else {}
    if others := [token for token in absent if token != known.end]:
        new["extra_special_tokens"] = others
    return int(tokenizer.add_special_tokens(new, replace_extra_special_tokens=False)) if new else 0


def _require_own(tokenizer: Any) -> None:
    if not tokenizer.chat_template:
        raise SpecError("sft.template: the model has no chat template of its own", _choose())


def _begins(tokenizer: Any) -> bool:
    """Whether the tokenizer begins a text with a BOS, as it did when the model was trained."""
    return tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _own_begin(tokenizer: Any) -> bool:
    try:
        text = str(tokenizer.apply_chat_template([probes.USER], add_generation_prompt=True, tokenize=False))
    except Exception:  # `dialect` says what is wrong
        return True
    return text.startswith(tokenizer.bos_token)


def _put_in_front(tokenizer: Any, block: str) -> None:
    own = tokenizer.chat_template
    tokenizer.chat_template = {n: block + t for n, t in own.items()} if isinstance(own, dict) else block + own


def _choose() -> str:
    return f"Choose one: {', '.join(TEMPLATES)}."
