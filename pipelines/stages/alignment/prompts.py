"""The prompts of an RL run: requests as messages and as tokens, and what their records say is the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from cluster.core.storage.location import Location


@dataclass(frozen=True)
class Prompt:
    """A request as messages and as the token ids that generation is given; the record's own answer, or empty; and what
    else the record says.
    """

    id: str
    messages: list[dict[str, str]]
    tokens: list[int]
    reference: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def write_prompts(place: Location, split: str, prompts: list[Prompt]) -> None:
    place.write_bytes(f"{split}.json", json.dumps([vars(prompt) for prompt in prompts]).encode())


def read_prompts(place: Location, split: str) -> list[Prompt]:
    return [Prompt(**row) for row in json.loads(place.read_bytes(f"{split}.json"))]
