"""Import strings, `package.module:name`: what names a stage, a recipe or a predictor without importing it."""

from __future__ import annotations

import functools
import importlib
from typing import Any


def import_string(place: str) -> Any:
    """What an import string names; behind the colon there may be dots (`module:Class.method`).

    Raises what importing raises: ImportError, AttributeError, or an error of the module's own. For the code of users,
    `usercode.load` tells them.
    """
    module, _, name = place.partition(":")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))
