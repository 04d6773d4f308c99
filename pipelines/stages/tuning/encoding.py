"""Conversations as tokens, and which of them are learned: the assistant's words and the token that ends its turn.

Every template works whose text only grows: what it renders as a prompt must begin what it renders with the answer. The
text is cut where a prompt ends and the pieces are encoded apart, so that training sees the tokens that generation is
given, and no token spans prompt and answer. What a message says is text: a special token that it spells is its letters
(cluster/core/typed_text.py), so that nobody ends a turn by typing so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from cluster.core.errors import InputError
from cluster.core.typed_text import marked, special_tokens, token_ids

Message = dict[str, str]


@dataclass(frozen=True)
class Encoded:
    """A conversation as token ids; `learn[i]` says that `tokens[i]` is to be predicted."""

    tokens: list[int]
    learn: list[bool]


def encode(tokenizer: Any, messages: list[Message]) -> Encoded:
    """Encode a conversation. Raises InputError where the template does not lend itself to it."""
    tokens: list[int] = []
    learn: list[bool] = []
    messages, mark = marked(messages, special_tokens(tokenizer))
    for text, is_answer in _pieces(tokenizer, messages, add_generation_prompt=False):
        piece = _ids(tokenizer, text, mark, goes_on=bool(tokens))
        learned = _until_end_of_turn(tokenizer, piece) if is_answer else 0
        tokens += piece
        learn += [index < learned for index in range(len(piece))]
    return Encoded(tokens, learn)


def prompt_tokens(tokenizer: Any, messages: list[Message]) -> list[int]:
    """What generation is given for the assistant's next turn: `encode` of these messages and an answer begins so."""
    tokens: list[int] = []
    messages, mark = marked(messages, special_tokens(tokenizer))
    for text, _ in _pieces(tokenizer, messages, add_generation_prompt=True):
        tokens += _ids(tokenizer, text, mark, goes_on=bool(tokens))
    return tokens


def _pieces(tokenizer: Any, messages: list[Message], add_generation_prompt: bool) -> Iterator[tuple[str, bool]]:
    """The rendered text, cut before and after every answer; and whether the piece is an answer."""
    cuts = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            cuts += [(messages[:index], True, False), (messages[: index + 1], False, True)]
    cuts.append((messages, add_generation_prompt, False))
    done = ""
    for upto, prompt, is_answer in cuts:
        text = _render(tokenizer, upto, prompt)
        if not text.startswith(done):
            raise InputError(
                f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} changes what it has said "
                f"when message {len(upto)} follows: {done[-80:]!r} does not go on",
                "Choose sft.template: chatml, alpaca or completion.",
            )
        yield text[len(done) :], is_answer
        done = text


def _render(tokenizer: Any, messages: list[Message], add_generation_prompt: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
    except TemplateError as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} refuses a conversation: {error}",
            "Choose sft.template: chatml, alpaca or completion.",
        ) from None


def _ids(tokenizer: Any, text: str, mark: str, goes_on: bool) -> list[int]:
    """Token ids of a piece. What goes on stands behind a special token while it is encoded: tokenizers of the
    SentencePiece family put a space before a text's first word."""

    def encode(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False)["input_ids"])

    def follow(part: str) -> list[int]:
        return encode(tokenizer.eos_token + part)[1:] if tokenizer.eos_token else encode(part)

    return token_ids(follow if goes_on else encode, follow, text, mark)


def _until_end_of_turn(tokenizer: Any, answer: list[int]) -> int:
    """How many tokens of a rendered answer are learned: generation stops at the first end of turn."""
    if tokenizer.eos_token_id not in answer:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} ends an answer without the "
            f"tokenizer's eos, {tokenizer.eos_token!r}",
            "Prepare the tokenizer with pipelines.stages.tuning.templates.prepare.",
        )
    return answer.index(tokenizer.eos_token_id) + 1
