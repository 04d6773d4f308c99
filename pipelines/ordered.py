"""Ray Data as the data stages use it: one task an item, results in the order of the items, whoever finished first."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.data.exceptions import UserCodeException
from ray.exceptions import RayTaskError

from cluster.runtime import debugging


def ordered_map(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
    """Apply `function` to each item in parallel Ray Data tasks and yield the results in order.

    Streams. Iterate to the end: Ray goes on, with items not yet begun as well, after an early stop. A task whose worker
    dies is run again by Ray, so `function` must be safe to repeat. What it raises is raised here.
    """
    if not debugging():
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is raised here
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    # Items and results are opaque to Arrow: nested lists of mixed shape need no schema.
    rows = [{"item": pickle.dumps(item)} for item in items]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        lambda row: {"result": pickle.dumps(function(pickle.loads(row["item"])))},
        compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
    )
    try:
        for row in dataset.iter_rows():
            yield pickle.loads(row["result"])
    except (RayTaskError, UserCodeException) as error:
        raise _user_error(error) from error


def _user_error(error: BaseException) -> BaseException:
    """What the function itself raised, out of the layers that Ray wraps around it."""
    inner = getattr(error, "cause", None) or error.__cause__
    return error if inner is None else _user_error(inner)
