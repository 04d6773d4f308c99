"""The user's own rule: a function named by its import string, called as `function(document, **options) -> reason`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cluster.core.errors import InputError, TrunklineError
from cluster.core.identity import usercode
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Python


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    found = usercode.load(name)
    if not callable(found):
        raise InputError(f"{name} is a value of type {type(found).__name__}, not a function", "Name a function.")
    function: Callable[..., Any] = found
    return function


def apply(document: Document, config: Python) -> str:
    """The function's reason, which must be a string. Raises InputError with the document where the function fails."""
    function = _function(config.function)
    try:
        reason = function(document, **config.options)
    except TrunklineError:
        raise
    except Exception as error:
        raise InputError(
            f"{config.function} failed on {document.id}: {usercode.told(error)}",
            "Mend the function, or let it return a reason for such documents.",
        ) from error
    if not isinstance(reason, str):
        raise InputError(
            f"{config.function} returned {reason!r} for {document.id}, which is no reason",
            "A rule returns a string: why it rejects the document, or '' to keep it.",
        )
    return reason
