"""Every order in which the file operations of several actors can follow one another, each order played once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from cluster.core.errors import InputError
from cluster.core.storage.location import Location

_here = threading.local()


def _await_turn() -> None:
    """Before an operation: an actor waits until it is let."""
    if actor := getattr(_here, "actor", None):
        actor.wait()


class Files(Location):
    """A folder in memory whose operations are atomic, as S3's are."""

    def __init__(self) -> None:
        super().__init__("/in/memory")
        self.files: dict[str, bytes] = {}

    def names(self, name: str = "") -> list[str]:
        _await_turn()
        return sorted(self.files)

    def read_bytes(self, name: str) -> bytes:
        _await_turn()
        if name not in self.files:
            raise InputError(f"{name}: no such file")
        return self.files[name]

    def write_bytes(self, name: str, data: bytes) -> None:
        _await_turn()
        self.files[name] = data

    def create(self, name: str, data: bytes) -> bool:
        _await_turn()
        return self.files.setdefault(name, data) is data

    def remove(self, name: str = "") -> None:
        _await_turn()
        self.files.pop(name, None)


class _Actor:
    """Work in a thread that goes on by one operation each time it is let."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False
        self.error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()
        self._stands.acquire()

    def _run(self) -> None:
        _here.actor = self
        try:
            self._work()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._stands.release()

    def wait(self) -> None:
        self._stands.release()
        self._go.acquire()

    def step(self) -> None:
        self._go.release()
        self._stands.acquire()


def orders(actors: Callable[[], list[Callable[[], None]]]) -> Iterator[list[int]]:
    """Play the actors, made anew each time, in every order of their operations; yields each order after its play."""
    todo: list[list[int]] = [[]]
    while todo:
        prefix = todo.pop()
        running = [_Actor(work) for work in actors()]
        order: list[int] = []
        while ready := [number for number, actor in enumerate(running) if not actor.ended]:
            if len(order) >= len(prefix):
                todo += [[*order, other] for other in ready[1:]]
            order.append(prefix[len(order)] if len(order) < len(prefix) else ready[0])
            running[order[-1]].step()
        for actor in running:
            if actor.error:
                raise actor.error
        yield order
