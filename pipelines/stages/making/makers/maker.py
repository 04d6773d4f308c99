"""What every maker is: a struct of its fields and one method. What it works with: someone to ask, a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import msgspec
from msgspec import Meta

from cluster.core.specs.naming import kebab
from pipelines.stages.making.parsing import objects

if TYPE_CHECKING:
    from pipelines.stages.generation.asking import Answer, Request

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Language = Literal["english", "chinese"]


@dataclass(frozen=True)
class Made:
    """A request and its answer, as a model wrote them."""

    id: str
    request: str
    answer: str
    asked: Answer
    """The answer of the endpoint that it stood in."""
    topic: str = ""
    """What it is about: it is compared with others of its topic, and held out or trained with them; "" stands alone
    in the split, and is compared with all."""
    compared: str = ""
    """Text by which it is compared with others; empty: the request."""
    system: str = ""


class Collection(Protocol):
    """What was made so far."""

    def offer(self, made: Made) -> bool:
        """Keep it, or count why not. Returns whether it was kept."""

    def reject(self, id: str, reason: str) -> None:
        """Count what could not be made: a reason of a few words, and a detail after a colon."""

    def know(self, text: str, name: str) -> None:
        """Have nothing be kept that is like this text, which goes by a name."""

    def commonest(self) -> str:
        """The reasons why things were not kept, the most frequent first, in words."""


@dataclass(frozen=True)
class Means:
    """What a maker works with."""

    ask: Callable[[Sequence[Request]], list[Answer]]
    """An endpoint's answers, in order."""
    collection: Collection
    seed: int
    progress: Callable[[int, int], None]
    """Tell how many are kept, and how many are wanted."""
    notice: Callable[[str], None]
    """Tell people one sentence."""


def records(answer: Answer, collection: Collection) -> Iterator[tuple[str, dict[str, Any]]]:
    """The JSON objects of an answer, each with its id; what of the answer is none is counted."""
    if answer.refused:
        collection.reject(answer.id, f"refused: {answer.refused}")
        return
    found, broken = objects(answer.text)
    if broken or not found:
        collection.reject(f"{answer.id}/end", "cut off" if answer.cut else "unparseable: no JSON object")
    for number, record in enumerate(found):
        yield f"{answer.id}/{number}", record


class Maker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="maker", tag=kebab):
    """Base of all makers. In YAML `maker` tells them apart."""

    counts: ClassVar[bool] = False
    """Whether it tells its own progress, in what it keeps; else the answers are counted."""

    def make(self, means: Means) -> None:
        """Ask, and offer what comes of it. The same seed and the same answers make the same, in the same order.

        Raises InputError for a file that cannot be used, before anything is asked.
        """
        raise NotImplementedError

    def check(self, where: str) -> None:
        """Raise SpecError where fields contradict each other or are missing; `where` names the maker's field."""
