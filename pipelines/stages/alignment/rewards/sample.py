"""What a reward function is given, and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol


class Drawn(Protocol):
    """What an engine has drawn: token ids, turn by turn, what was said to each turn but the last, and whether that came
    to an end by itself."""

    @property
    def finished(self) -> bool: ...

    @property
    def replies(self) -> list[dict[str, str]]: ...

    def turns(self) -> list[list[int]]: ...


@dataclass(frozen=True)
class Sample:
    """A conversation up to its request, and a sampled answer.

    `answer` is the answer's text without special tokens, `text` the same with them, `tokens` what was drawn, in the
    policy's ids. `finished`: the model ended it by itself. `reference` is the answer that the prompt's record gives;
    empty where it gives none. `fields` is what else that record says (`level`, `tests`), by name.
    """

    messages: list[dict[str, Any]]
    answer: str
    finished: bool
    text: str = ""
    tokens: tuple[int, ...] = ()
    reference: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(
        tokenizer: Any,
        messages: list[dict[str, Any]],
        completion: Drawn,
        reference: str = "",
        fields: dict[str, Any] | None = None,
    ) -> Sample:
        """What a completion says, by the policy's tokenizer. Of one of several turns the last is the answer, and the
        others, with what was said to them, are messages before it."""
        *before, last = completion.turns()
        for turn, reply in zip(before, completion.replies, strict=True):
            said = tokenizer.decode(turn, skip_special_tokens=True)
            messages = [*messages, {"role": "assistant", "content": said}, reply]
        answer, text = (tokenizer.decode(last, skip_special_tokens=skip) for skip in (True, False))
        drawn = tuple(token for turn in (*before, last) for token in turn)
        return Sample(messages, answer, completion.finished, text, drawn, reference, fields or {})

    @property
    def request(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def asked(self) -> str:
        """All that was said before the answer, as a text; of one message the request itself."""
        if len(self.messages) == 1:
            return self.request
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """`stop` where the model ended the answer, `length` where it was cut off, in OpenAI's words."""
        return "stop" if self.finished else "length"

    @property
    def told(self) -> str:
        """What an error calls it."""
        return f"the answer {self.answer[:60]!r} to {self.request[:60]!r}"


RewardFunction = Callable[[Sample], float]
