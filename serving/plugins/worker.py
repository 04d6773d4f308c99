"""The process that calls of plug-ins run in: a line of JSON for each call, and a line for what comes of it.

Run as `python -m serving.plugins.worker`. It may be killed at any moment, which is how a call ends that takes too long.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.tools.calls import called
from cluster.core.tools.program import Program
from cluster.core.tools.search import Search

MEMORY_BYTES = 4 << 30  # of addresses; programs of the sandbox have their own limit
PR_SET_PDEATHSIG = 1


class Order(msgspec.Struct):
    """A call, and what it may use."""

    call: dict[str, Any]
    tools: list[str]
    program: Program
    results: int
    index: str = ""


@cache
def opened(index: str) -> Search:
    return Search(Path(index))


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it must not outlive its replica
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a tool prints is an answer
    decoder = msgspec.json.Decoder(Order)
    for line in sys.stdin.buffer:
        order = decoder.decode(line)
        search = (lambda index=order.index: opened(index)) if order.index else None
        try:
            told = called(order.call, order.tools, order.program, search, order.results)
        except MemoryError:
            told = "error: out of memory"
        except Exception as error:  # of sympy, which may raise anything: the model is told
            told = f"error: {type(error).__name__}: {error}"
        answers.write(msgspec.json.encode(told) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
