"""One layout of records: how a record of it is known, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.stages.tuning.conversation import Conversation
from pipelines.stages.tuning.formats.record import Record


@dataclass(frozen=True)
class Layout:
    """`read` takes from a record what it understands, and gives its conversations (a tree has several).

    Raises BadRecord. `fits` looks at the record's fields, and alters nothing; it is asked about records that have one
    of `fields`.
    """

    name: str
    fields: tuple[str, ...]
    fits: Callable[[Record], bool]
    read: Callable[[Record], list[Conversation]]
