"""Rules that keep or reject a document: one struct a rule, told apart in YAML by its `rule`.

A new rule is a struct here, its line in `AnyRule`, and a function in `pipelines/stages/corpus/rules`; or, without
touching Trunkline, a function of one's own that `python` names. Rules that change the text are in `cleaners.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cluster.core.specs.naming import Function

Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


def snake(name: str) -> str:
    """`GopherQuality` as `gopher_quality`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag=snake):
    """Base of all rules, filters and cleaners alike."""


class Python(Rule, frozen=True):
    """A function of the user's: `rule(document) -> reason`, empty to keep; it may change the document."""

    function: Function
    """Import string, such as `my_rules:no_poems`; the module travels with the submitted folder."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""
