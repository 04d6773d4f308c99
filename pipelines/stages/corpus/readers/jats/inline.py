"""What stands on the line before an element: markup of looks is passed through, what ends a line ends the search."""

from __future__ import annotations

from typing import Any

from pipelines.stages.corpus.readers.jats.meta import local

FORMATTING = frozenset(
    (
        *("italic", "bold", "sc", "roman", "sans-serif", "monospace", "underline", "overline", "strike", "sub", "sup"),
        *("styled-content", "named-content", "fixed-case"),
    )
)
INLINE = FORMATTING | frozenset(("ext-link", "uri", "email", "abbrev", "inline-formula"))
_ANCHORS = frozenset(("target", "milestone-start", "milestone-end"))  # show nothing
_STEPS = 16  # back at most: text that many elements cut up costs no more


def text_before(element: Any, length: int, inline: frozenset[str] = INLINE) -> str:
    """The last characters, about `length` of them, that stand before an element on its line."""
    text = ""
    for _ in range(_STEPS):
        if len(text) >= length:
            break
        before = element.getprevious()
        if before is not None:
            text = (before.tail or "") + text
            if local(before) not in inline and local(before) not in _ANCHORS:
                break
            text = "".join(before.itertext())[-length:] + text
            element = before
            continue
        element = element.getparent()
        if element is None:
            break
        text = (element.text or "") + text
        if local(element) not in inline:
            break
    return text
