"""The most tokens that a request may use, before anything counts them.

A text has at most as many tokens as bytes, and prompt and answer together fit into the model's context. What is
reserved by these bounds is settled to what was used; where it would not fit into a quota, the application counts.
"""

from __future__ import annotations

from typing import Any

import msgspec

from serving.admission import GENERATED, POOLED
from serving.limits import ANSWER_LENGTHS

QUERIES, DOCUMENTS = ("query", "queries", "text_1"), ("documents", "text_2")
TEMPLATE_TOKENS = 64  # that a chat template has around a message, at most, or so
COMPLETION_TOKENS = 16  # OpenAI's own, where a completion does not say


def bounds(path: str, asked: dict[str, Any], body_bytes: int, context_tokens: int) -> tuple[int, int]:
    """Tokens of the prompts and of the answers, at most. `context_tokens`: prompt and answer together; 0: unknown."""
    if path in POOLED:
        return _read(asked, body_bytes, context_tokens), 0
    if path not in GENERATED:
        return 0, 0
    prompts = _prompts(asked.get("prompt")) if path == "/v1/completions" else 1
    answers = prompts * max(_whole(asked.get("n")) or 1, _whole(asked.get("best_of")) or 1)
    messages = asked.get("messages") or asked.get("input")
    turns = len(messages) + 1 if isinstance(messages, list) else 2
    prompt = _ids(asked["prompt"]) if is_ids(asked.get("prompt")) else body_bytes + TEMPLATE_TOKENS * turns
    answer = _answer(path, asked, context_tokens)
    if context_tokens:
        prompt = min(prompt, prompts * context_tokens)
        answer = min(answer, context_tokens)
    return prompt, answers * answer


def _read(asked: dict[str, Any], body_bytes: int, context_tokens: int) -> int:
    """Tokens of the texts that are read, at most: a query is read once with each of its documents."""
    if is_ids(asked.get("input")):
        return _ids(asked["input"])
    documents = next((value for name in DOCUMENTS if (value := asked.get(name)) is not None), asked.get("input"))
    rows = len(documents) if isinstance(documents, list) else 1
    query = next((value for name in QUERIES if (value := asked.get(name)) is not None), asked.get("messages"))
    turns = len(query) + 1 if isinstance(query, list) else 2
    again = len(msgspec.json.encode(query)) if query is not None else 0
    most = body_bytes + rows * (again + TEMPLATE_TOKENS * turns)
    return min(most, rows * context_tokens) if context_tokens else most


def _prompts(prompt: Any) -> int:
    """How many prompts a completion has: a list of token ids is one."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return len(prompt)
    return 1


def is_ids(prompt: Any) -> bool:
    """Whether a prompt is given as token ids, or several prompts are."""
    parts = prompt if isinstance(prompt, list) else []
    return bool(parts) and all(isinstance(part, int) or (isinstance(part, list) and is_ids(part)) for part in parts)


def _ids(prompt: list[Any]) -> int:
    return sum(len(part) if isinstance(part, list) else 1 for part in prompt)


def _answer(path: str, asked: dict[str, Any], context_tokens: int) -> int:
    """The length of one answer; where it is not given, a completion has its usual one, another the whole context."""
    if given := max(_whole(asked.get(name)) for name in ANSWER_LENGTHS):
        return given
    if path == "/v1/completions" and "max_tokens" not in asked:
        return COMPLETION_TOKENS
    return context_tokens or COMPLETION_TOKENS


def _whole(value: Any) -> int:
    """A count; 0 for what is none, which the application will refuse."""
    whole = isinstance(value, (int, float)) and 0 < value < 1 << 40
    return int(value) if whole else 0
