"""Ray Data as the data stages use it: results in the order of the items, whoever finished first."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from cluster.control.failures import Failure, explained
from cluster.control.runtime import debugging

MAX_CHUNK = 8
MAX_DEATHS = 3  # of the workers of one task, before that is an error

T = TypeVar("T")


def ordered_map(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]], workers: int
) -> Iterator[dict[str, Any]]:
    """Apply `function` to each item in parallel Ray Data tasks and yield the results in order.

    Streams. Iterate to the end: Ray goes on, with items not yet begun as well, after an early stop. A task whose worker
    dies is run again by Ray, so `function` must be safe to repeat. What it raises is raised here, as it was raised.
    """
    if not debugging():
        for name in ("ray.data", "ray.data._internal.progress"):  # Ray sets the level of the first one itself, later
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised here
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    # Items and results are opaque to Arrow: nested lists of mixed shape need no schema.
    rows = [{"items": pickle.dumps(chunk)} for chunk in chunks(items, workers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of `ray_remote_args_fn`, which the pinned Ray has
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            lambda row: {"results": pickle.dumps(_results(function, pickle.loads(row["items"])))},
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(rows))),
            # Ray's own number is none: an item that kills its worker would do so for ever.
            ray_remote_args_fn=lambda: {"max_retries": MAX_DEATHS},
        )
    try:
        for row in dataset.iter_rows():
            for result in pickle.loads(row["results"]):
                if isinstance(result, Failure):
                    raise result.error()
                yield result
    except RayError as error:
        raise explained(error, "a data worker") from error


def _results(
    function: Callable[[dict[str, Any]], dict[str, Any]], items: list[dict[str, Any]]
) -> list[dict[str, Any] | Failure]:
    """The results of a task; an error ends it, and is its last one."""
    results: list[dict[str, Any] | Failure] = []
    for item in items:
        try:
            results.append(function(item))
        except (Exception, SystemExit) as error:  # what exits would end the worker, and be tried again
            return [*results, Failure.of(error)]
    return results


def chunks(items: list[T], workers: int) -> Iterator[list[T]]:
    """What a task takes: ever fewer items, so that there are not many tasks and none is long at the end.

    Ray Data looks at its tasks ten times a second, and a worker is idle until it does. Guided self-scheduling
    (Polychronopoulos & Kuck 1987), by a quarter of each worker's share of what is left, and never so many that results
    are long in coming.
    """
    start = 0
    while start < len(items):
        size = min(MAX_CHUNK, max(1, (len(items) - start) // (4 * workers)))
        yield items[start : start + size]
        start += size
