"""Answers whose engine is lost go on at another replica's, which is given the prompt and the tokens that have come.

Between vLLM's client, which holds all that makes an answer of tokens (its text, stop texts, tools, usage), and its
engine's process go requests and tokens alone. They are noted here. When the engine is lost, others' tokens take the
place of its own: whatever route was asked goes on as it was, and no text is made tokens again.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec.structs import replace

from serving.answers import current_answer

LOGGER = logging.getLogger("ray.serve")
UNFINISHED = "the engine of this answer does not answer any more, and no other went on with it in time: ask again"
REFUSED_SECONDS = 0.2  # until another replica is asked where one has refused

# What computes for another: a request of vLLM's to its engine's outputs, none where it has no such engine itself.
Compute = Callable[[Any], AsyncIterator[Any]]


class Begun:
    """A request that the engine has, and the tokens that have come."""

    def __init__(self, request: Any) -> None:
        self.request, self.answer = request, current_answer()
        self.tokens: list[int] = []
        self.task: asyncio.Task[None] | None = None  # in which another engine computes it


class Handover:
    """What the client of an engine (vLLM's AsyncMPClient) and its engine tell each other.

    `moved` is called for every token, `lost` where the engine has died. `compute` has other replicas compute what this
    engine cannot any more; each next token may take `timeout_seconds`.
    """

    def __init__(
        self,
        core: Any,
        compute: Compute,
        timeout_seconds: float,
        moved: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._core, self._compute, self._timeout_seconds = core, compute, timeout_seconds
        self._moved, self._lost = moved, lost
        self._add, self._abort, self._get = core.add_request_async, core.abort_requests_async, core.get_output_async
        core.add_request_async, core.abort_requests_async = self._added, self._aborted
        core.get_output_async = self._outputs
        self._begun: dict[str, Begun] = {}
        self._guests: dict[str, asyncio.Queue[Any]] = {}
        self.gone = False  # the engine counts no more

    async def go_on(self) -> None:
        """Have other replicas compute what this engine had begun; return when they have. From now on nothing of this
        engine counts. An answer that none goes on with in time ends with an error."""
        self.gone = True
        # The outputs on their way are dropped, and computed again: what waits for them is woken, and waits elsewhere.
        earlier, self._core.outputs_queue = self._core.outputs_queue, asyncio.Queue()
        while not earlier.empty():
            earlier.get_nowait()
        earlier.put_nowait(_outputs_of())
        for guest in self._guests.values():
            guest.put_nowait(None)
        for begun in list(self._begun.values()):
            self._pass_on(begun)
        while tasks := [begun.task for begun in self._begun.values() if begun.task]:
            await asyncio.wait(tasks)

    async def compute(self, request: Any) -> AsyncIterator[Any]:
        """Compute for another replica: the outputs of its request, to the last one or to where this engine is lost."""
        if self.gone:
            return
        own = replace(request, request_id=f"{request.request_id}-{secrets.token_hex(4)}")
        queue = self._guests[own.request_id] = asyncio.Queue()
        finished = False
        try:
            await self._add(own)
            while not finished and (output := await queue.get()) is not None:
                finished = output.finished
                yield output
        finally:
            del self._guests[own.request_id]
            if not finished and not self.gone:
                await self._abort([own.request_id])

    async def _added(self, request: Any) -> None:
        begun = self._begun[request.request_id] = Begun(request)
        if self.gone:
            self._pass_on(begun)
            return
        try:
            await self._add(request)
        except BaseException:
            self._begun.pop(request.request_id, None)
            raise

    async def _aborted(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            begun = self._begun.pop(request_id, None)
            if begun is not None and begun.task is not None:
                begun.task.cancel()
        if not self.gone:
            await self._abort(request_ids)

    async def _outputs(self) -> Any:
        """The next outputs: of the engine, and when it is lost of others."""
        while True:
            try:
                outputs = await self._get()
            except Exception as error:
                if not self.gone:
                    self._lost(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0)
                continue
            self._moved()
            for output in outputs.outputs if not self.gone else ():
                if (guest := self._guests.get(output.request_id)) is not None:
                    guest.put_nowait(output)
                elif (begun := self._begun.get(output.request_id)) is not None:
                    begun.tokens += output.new_token_ids
                    if output.finished:
                        del self._begun[output.request_id]
            return outputs

    def _pass_on(self, begun: Begun) -> None:
        begun.task = asyncio.create_task(self._elsewhere(begun))

    async def _elsewhere(self, begun: Begun) -> None:
        """Have another replica compute the rest of one request, and take its tokens for the engine's."""
        request_id, loop = begun.request.request_id, asyncio.get_running_loop()
        try:
            request, known = continued(begun.request, begun.tokens)
            async with asyncio.timeout(self._timeout_seconds) as limit:
                while request_id in self._begun:
                    async for output in self._compute(request):
                        limit.reschedule(loop.time() + self._timeout_seconds)
                        new = output.new_token_ids
                        if known[: len(new)] != new[: len(known)]:
                            raise ValueError("another engine has given other tokens")
                        known, output.new_token_ids = known[len(new) :], new[len(known) :]
                        if new and not output.new_token_ids and not output.finished:
                            continue  # nothing that is not known
                        begun.tokens += output.new_token_ids
                        output.request_id, output.events = request_id, None  # its times are another clock's
                        self._core.outputs_queue.put_nowait(_outputs_of(output))
                        if output.finished:
                            self._begun.pop(request_id, None)
                            return
                    request, known = continued(begun.request, begun.tokens)
                    await asyncio.sleep(REFUSED_SECONDS)
        except Exception as error:
            LOGGER.warning("no other replica goes on with %s: %s: %s", request_id, type(error).__name__, error)
            if begun.answer:
                begun.answer.end(UNFINISHED)
            self._begun.pop(request_id, None)


def continued(request: Any, tokens: list[int]) -> tuple[Any, list[int]]:
    """The request for the rest of an answer, and which tokens come first that have come before.

    The tokens become the end of the prompt, which computes them at once. What depends on where an answer began
    (numbers drawn by a seed, a grammar, penalties) is computed again from there instead, and must come out the same.
    Raises ValueError for what neither can be done of.
    """
    if not tokens:
        return request, []
    params = copy.copy(request.sampling_params)
    params.prompt_logprobs = None  # which its client has
    if _depends_on_begin(params) or request.prompt_token_ids is None or request.prompt_embeds is not None:
        return replace(request, sampling_params=params), list(tokens)
    if request.mm_features:
        raise ValueError("its prompt is more than text")
    params.max_tokens -= len(tokens)
    params.min_tokens = max(0, params.min_tokens - len(tokens))
    return replace(request, prompt_token_ids=[*request.prompt_token_ids, *tokens], sampling_params=params), []


def _depends_on_begin(params: Any) -> bool:
    drawn = params.temperature > 0 and params.seed is not None
    return bool(
        drawn
        or params.presence_penalty
        or params.frequency_penalty
        or params.structured_outputs
        or params.bad_words
        or params.repetition_detection
        or params.thinking_token_budget is not None
    )


def _outputs_of(*outputs: Any) -> Any:
    from vllm.v1.engine import EngineCoreOutputs

    return EngineCoreOutputs(outputs=list(outputs))
