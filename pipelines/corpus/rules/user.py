"""The user's own rule: a function named by its import string, called as `function(document, **options) -> reason`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from cluster.errors import InputError
from cluster.specs.rules import Python
from pipelines.corpus.documents import Document


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    remedy = "`function` of the rule `python` is an import string such as `my_rules:no_poems`."
    if not module or not attribute:
        raise InputError(f"cannot import {name!r}: it names no function", remedy)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"cannot import {name!r}: {error}", remedy) from error
    function = getattr(found, attribute, None)
    if not callable(function):
        raise InputError(f"cannot import {name!r}: {module} has no function {attribute!r}", remedy)
    return function


def apply(document: Document, config: Python) -> str:
    """The function's reason. What it raises goes through; what it returns must be a string."""
    reason = _function(config.function)(document, **config.options)
    if not isinstance(reason, str):
        raise InputError(
            f"{config.function} returned {reason!r} for {document.id}, which is no reason",
            "A rule returns a string: why it rejects the document, or '' to keep it.",
        )
    return reason
