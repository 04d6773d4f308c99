"""Lists of structs of which a spec takes one by its tag, such as the rules of a corpus.

A list is a module that imports them, a line each, and nothing else: so the line that imports a new one is all that it
takes to be known to specs, to overrides and to those who import `*` from the list.
"""

from __future__ import annotations

from typing import Any, Union


def listed(base: type, names: dict[str, Any]) -> tuple[Any, list[str]]:
    """The union of all that derives from `base` among a module's names (its `globals()`), and what they are called."""
    found = [cls for cls in names.values() if isinstance(cls, type) and issubclass(cls, base) and cls is not base]
    return Union[tuple(found)], [cls.__name__ for cls in found]  # noqa: UP007
