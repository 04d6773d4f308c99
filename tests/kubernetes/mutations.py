"""Random changes of manifests: values of other types and bounds, names that cannot be, fields gone, added, null."""

from __future__ import annotations

import copy
import random
from typing import Any

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 70000, 2**31, 2**40, 2.5, "", " ", "x", "-x", "X", "x_y", "a/b", "a/b/c", "a..b", "é",
    "100%", "101%", "Ingress", "TCP", "tcp", "true", "10.0.0.0/8", "10.0.0.0", "1Gi", "-1Gi", "x" * 64, "x" * 254,
    "x\n", [], [""], [None], ["x"], [{}], {}, {"x": "y"}, {"x": None}, {"x": 1}, {"a b": "c"}, [1], [{"x": "y"}],
]  # fmt: skip
# Fields of metadata that the server sets itself, and what says which kind it is: not what people write by hand.
KEPT = {("apiVersion",), ("kind",), ("metadata",), ("metadata", "namespace")}


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def mutated(body: dict[str, Any], choice: random.Random) -> tuple[dict[str, Any], str]:
    """A copy with one change, and what the change is."""
    body = copy.deepcopy(body)
    path = choice.choice([place for place in places(body) if place and place not in KEPT])
    *above, last = path
    here: Any = body
    for step in above:
        here = here[step]
    kind = choice.choices(("replace", "delete", "add", "key", "twice", "near"), (8, 2, 2, 1, 1, 2))[0]
    if kind == "replace":
        here[last] = copy.deepcopy(choice.choice(JUNK))
    elif kind == "delete":
        del here[last]
    elif kind == "add" and isinstance(here[last], dict):
        here[last][choice.choice(("surprise", "name", "x/y", "-"))] = copy.deepcopy(choice.choice(JUNK))
    elif kind == "add" and isinstance(here[last], list):
        here[last].append(copy.deepcopy(choice.choice(JUNK)))
    elif kind == "key" and isinstance(last, str):
        here[choice.choice((last + "s", last.upper(), last + "/x", ""))] = here.pop(last)
    elif kind == "twice" and isinstance(here, list):
        here.append(copy.deepcopy(here[int(last)]))
    elif kind == "near" and isinstance(here[last], str):
        here[last] = choice.choice((here[last].upper(), here[last] + "-", here[last] * 3, "." + here[last]))
    else:
        here[last] = copy.deepcopy(choice.choice(JUNK))
    return body, f"{kind} {'.'.join(map(str, path))}"
