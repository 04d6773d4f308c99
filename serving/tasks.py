"""What models do, and that an endpoint goes on doing it: whoever asks one that chats must not find one that scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.core.errors import InputError
from cluster.core.pooling import pooling_of
from cluster.core.storage.artifact import Artifact
from serving.named import Named
from serving.tool_parsers import chat_template

WRITES, SCORES, CONVERSES = "writes", "scores texts", "takes conversations"
REMEDY = "Serve it under a name of its own (`ctl serve up --name`, `ctl serve load`), or give --change-task."


def tasks(model: Artifact) -> tuple[str, ...]:
    """What a model does, each as a sentence about it.

    Raises InputError for vectors of a kind that is not known (cluster/core/pooling.py).
    """
    pooling = pooling_of(model)
    found = pooling.told if pooling else WRITES
    converses = (pooling is None or pooling.makes != "embedding") and chat_template(model)
    return (found, CONVERSES) if converses else (found,)


def check_tasks(whose: str, before: Sequence[str], model: str, after: Sequence[str], remedy: str = REMEDY) -> None:
    """Raise InputError where a model, given by its reference, does not do all that was done until now by what `whose`
    names."""
    if lost := [task for task in before if task not in after]:
        told = f"{whose} {' and '.join(lost)}, and {model} does not: it {' and '.join(after)}"
        raise InputError(told, remedy)


def check_named(endpoint: str, before: Iterable[Named], after: Iterable[Named]) -> None:
    """The same of the names that an endpoint's other models have before and after."""
    known = {named.name: named for named in before}
    for named in after:
        if named.name in known:
            whose = f"{named.name!r} of endpoint {endpoint!r}"
            check_tasks(whose, known[named.name].tasks, named.ref, named.tasks)
