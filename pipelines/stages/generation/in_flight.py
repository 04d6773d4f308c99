"""An engine whose weights change while it draws: requests of several callers, new weights between two of its steps.

One thread owns the engine. Between two steps, each of which draws one token of every running request, it does what
others ask for. New weights make what was computed of the texts so far invalid: running requests are computed again up
to the token that comes next, so that each token is drawn by one version of the weights, and by that one alone.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class Drawing:
    """A completion that grows: token ids, their log-probabilities (nats), and the version that drew each."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    finish_reason: str | None = None


def logprobs_of(drawn: Any) -> list[float]:
    """The log-probabilities (nats) of the tokens of an output of vLLM."""
    return [place[token].logprob for token, place in zip(drawn.token_ids, drawn.logprobs or [], strict=True)]


class Abandoned(Exception):
    """Whoever wanted the completions is gone."""


class InFlight:
    """The thread that owns an `LLM` of vLLM. `version()` tells which weights it holds, asked between steps only."""

    def __init__(self, llm: Any, version: Callable[[], int]) -> None:
        self._llm, self._version = llm, version
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._numbers = itertools.count()
        self._running: dict[str, Drawing] = {}
        self._batches: dict[int, tuple[list[str], list[Drawing], Future[list[Drawing]]]] = {}
        self._died: Exception | None = None
        seen = contextvars.copy_context()  # torch's settings, such as that nothing is compiled, are those of a thread
        threading.Thread(target=seen.run, args=(self._run,), name="engine", daemon=True).start()

    def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, done by the engine's thread between two steps. Raises what it raises."""
        done: Future[T] = Future()

        def answer() -> None:
            try:
                if self._died:
                    raise self._died
                done.set_result(work())
            except Exception as error:  # it is the caller's
                done.set_exception(error)

        self._asked.put(answer)
        return done.result()

    def generate(self, prompts: list[list[int]], parameters: list[Any], admit: Callable[[], None]) -> list[Drawing]:
        """A completion of each prompt. `admit` is called when they begin, and may raise. Raises Abandoned."""
        return self.call(lambda: self._add(prompts, parameters, admit)).result()

    def load(self, take: Callable[[], T], abandon: bool) -> T:
        """Change the weights by `take`; requests go on with the new ones, or are abandoned."""

        def work() -> T:
            if abandon:
                self._abandon()
            taken = take()
            if not self._llm.reset_prefix_cache(reset_running_requests=True):
                raise RuntimeError("vLLM keeps what it computed with other weights")
            return taken

        return self.call(work)

    def _add(self, prompts: list[list[int]], parameters: list[Any], admit: Callable[[], None]) -> Future[list[Drawing]]:
        from vllm.sampling_params import RequestOutputKind

        admit()
        batch, done, names = next(self._numbers), Future[list[Drawing]](), []
        drawings = [Drawing() for _ in prompts]
        for number, (prompt, asked) in enumerate(zip(prompts, parameters, strict=True)):
            asked.output_kind = RequestOutputKind.DELTA
            name = f"{batch}/{number}"
            names.append(self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, asked))
            self._running[name] = drawings[number]
        self._batches[batch] = names, drawings, done
        self._settle()
        return done

    def _run(self) -> None:
        while True:
            busy = self._died is None and self._llm.llm_engine.has_unfinished_requests()
            if (work := self._next(wait=not busy)) is not None:
                work()
                continue
            try:
                self._step()
            except Exception as error:  # whoever waits must hear of it, and whoever asks later
                self._died = error
                self._end(error)

    def _next(self, wait: bool) -> Callable[[], None] | None:
        try:
            return self._asked.get(block=wait)
        except Empty:
            return None

    def _step(self) -> None:
        version = self._version()
        for output in self._llm.llm_engine.step():
            drawing, new = self._running[output.request_id], output.outputs[0]
            drawing.tokens += new.token_ids
            drawing.logprobs += logprobs_of(new)
            drawing.versions += [version] * len(new.token_ids)
            if output.finished:
                drawing.finish_reason = new.finish_reason
                del self._running[output.request_id]
        self._settle()

    def _settle(self) -> None:
        for batch, (_, drawings, done) in list(self._batches.items()):
            if all(drawing.finish_reason for drawing in drawings):
                del self._batches[batch]
                done.set_result(drawings)

    def _end(self, error: Exception) -> None:
        for _, _, done in self._batches.values():
            done.set_exception(error)
        self._batches.clear()
        self._running.clear()

    def _abandon(self) -> None:
        names = [name for known, _, _ in self._batches.values() for name in known]
        self._llm.llm_engine.abort_request(names, internal=True)
        self._end(Abandoned("whoever asked for them is gone"))
