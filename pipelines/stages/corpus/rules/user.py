"""The user's own rule: a function named by its import string, called as `function(document, **options) -> reason`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from cluster.core.errors import InputError, TrunklineError
from cluster.core.identity import usercode
from cluster.core.specs.naming import Function
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Rule


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    found = usercode.load(name)
    if not callable(found):
        raise InputError(f"{name} is a value of type {type(found).__name__}, not a function", "Name a function.")
    function: Callable[..., Any] = found
    return function


class Python(Rule, frozen=True):
    """A function of the user's: `rule(document) -> reason`, empty to keep; it may change the document."""

    function: Function
    """Import string, such as `my_rules:no_poems`; the module travels with the submitted folder."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""

    def apply(self, document: Document) -> str:
        """The function's reason. Raises InputError, naming the document, where it fails or returns no string."""
        function = _function(self.function)
        try:
            reason = function(document, **self.options)
        except TrunklineError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.function} failed on {document.id}: {usercode.told(error)}",
                "Mend the function, or let it return a reason for such documents.",
            ) from error
        if not isinstance(reason, str):
            raise InputError(
                f"{self.function} returned {reason!r} for {document.id}, which is no reason",
                "A rule returns a string: why it rejects the document, or '' to keep it.",
            )
        return reason
