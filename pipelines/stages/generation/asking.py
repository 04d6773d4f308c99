"""Answers of an endpoint that speaks OpenAI's API, each asked for once: the file of answers outlives a killed run.

Requests go out many at once, within `scaling`'s limits. One that the endpoint is too busy for, fails at, does not
answer, or answers with what is no completion, is asked again, later each time; Retry-After is obeyed by all. One that
it refuses for what it says is that request's own end. Every answer stands in asked.jsonl with its prompt, the model's
name, its seed and its tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.core.context import Context
from cluster.core.errors import JobError, NotReadyError, TrunklineError
from cluster.core.specs.spec import canonical
from cluster.core.storage import lines
from cluster.core.storage.lines import LineFile
from pipelines.stages.corpus.documents import keyed_hash
from pipelines.stages.generation import background
from pipelines.stages.generation.endpoint import ChatEndpoint
from pipelines.stages.generation.limits import Budget, Pace
from pipelines.stages.generation.replies import Again, Reply, Stop, Unfit, no_connection, read_reply, sorted_out

ASKED_FILE = "asked.jsonl"
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0  # between attempts, where the endpoint does not say
TOLD_SECONDS = 10.0  # an endpoint's wish for a pause as long as this is told
REFUSALS = 8  # so many and not one answer: it is the endpoint or the spec, not the requests
FIRST_ATTEMPTS = 3  # to reach an endpoint that has never answered
BYTES_PER_TOKEN = 4  # about, of what is sent, for `tokens_per_minute`; there are never more tokens than bytes
TEMPLATE_TOKENS = 64  # that a chat template has around a message, at most, or so
MILLION = 1_000_000


@dataclass(frozen=True)
class Request:
    """What is asked: messages of `role` and `content`. `id` tells apart requests that say the same."""

    id: str
    messages: list[dict[str, str]]


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of a request; a line of asked.jsonl."""

    key: str
    """Digest of the request: its id, its messages, the endpoint, the model and how it was to answer."""
    id: str
    messages: list[dict[str, str]] = []
    seed: int
    model: str = ""
    """Name that the endpoint gave the model that answered."""
    text: str = ""
    cut: bool = False
    """Whether it ended for its length."""
    refused: str = ""
    """Why there is no text."""
    input_tokens: int = 0
    output_tokens: int = 0


class Asker:
    """Asks one endpoint for a stage. What an earlier attempt of the stage was answered is not asked again."""

    def __init__(self, ctx: Context[Any], endpoint: ChatEndpoint, seed: int) -> None:
        self._ctx, self._endpoint, self._seed = ctx, endpoint, seed
        self._key = api_key(endpoint)
        self._file = LineFile(ctx.output, ASKED_FILE)
        self._answers = {line["key"]: _bare(line) for line in lines.read(ctx.output, ASKED_FILE)}
        self._requests = Pace(ctx.scaling.requests_per_minute)
        self._tokens = Pace(ctx.scaling.tokens_per_minute)
        self._open_at = 0.0  # no request is sent before, by the loop's clock
        self._answered = 0  # since this process began
        self._refusals: list[Answer] = []  # that are not written: those before the first answer
        self._budget = Budget(0, 0)

    def ask(
        self, requests: Sequence[Request], progress: bool = True, timeout_seconds: float | None = None
    ) -> list[Answer]:
        """The answers, in order.

        Raises TimeoutError where they take longer than `timeout_seconds`, NotReadyError where nobody answers at the
        endpoint or it does not let us in, and JobError where it fails again and again, refuses everything, or would
        cost more than `scaling.max_cost`. What was answered is kept.
        """
        keys = [self._digest(request) for request in requests]
        todo = {key: r for key, r in zip(keys, requests, strict=True) if key not in self._answers}
        failed: ExceptionGroup[TrunklineError] | None = None
        try:
            if todo:
                background.run(asyncio.wait_for(self._ask_all(todo, len(requests), progress), timeout_seconds))
        except* TrunklineError as group:
            failed = group
        if failed:
            raise failed.exceptions[0]
        return [self._answers[key] for key in keys]

    def cost(self) -> float:
        """What all answers cost, earlier attempts of the stage included."""
        return sum(map(self._cost_of, self._answers.values()))

    def totals(self) -> dict[str, Any]:
        """Figures of all requests: how many, refused, tokens, cost."""
        answers = self._answers.values()
        return {
            "requests": len(answers),
            "refused": sum(bool(answer.refused) for answer in answers),
            "input_tokens": sum(answer.input_tokens for answer in answers),
            "output_tokens": sum(answer.output_tokens for answer in answers),
            "cost": round(self.cost(), 6),
        }

    async def _ask_all(self, todo: dict[str, Request], total: int, progress: bool) -> None:
        import openai

        scaling = self._ctx.scaling
        self._budget = Budget(scaling.max_cost, self.cost())
        waiting = iter(todo.items())
        done = total - len(todo)

        async def work() -> None:
            nonlocal done
            for key, request in waiting:  # shared by all workers
                await self._ask_one(client, key, request)
                done += 1
                if progress:
                    self._ctx.progress(done, total, "answers", **self.told())

        async with (
            openai.AsyncOpenAI(
                base_url=self._endpoint.url,
                api_key=self._key,
                max_retries=0,  # ours obey a Retry-After of any length, and count for the limits
                timeout=scaling.request_timeout_seconds,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(scaling.endpoint_requests, len(todo))):
                group.create_task(work())
        if self._refusals:  # there were not more
            raise self._all_refused()

    async def _ask_one(self, client: Any, key: str, request: Request) -> None:
        at_most = self._bound(request)
        if not await self._budget.hold(at_most):
            limit, spent = self._ctx.scaling.max_cost, self._budget.spent
            raise JobError(
                f"the next answer may cost {at_most:.4g}, and of scaling.max_cost ({limit:g}) {spent:.4g} is spent on "
                f"{len(self._answers)} answers",
                "They are kept: raise it and run the same command again.",
            )
        cost = 0.0
        try:
            answer = await self._until_answered(client, key, request)
            cost = self._cost_of(answer)
        finally:
            await self._budget.settle(at_most, cost)
        self._keep(answer)

    async def _until_answered(self, client: Any, key: str, request: Request) -> Answer:
        """Ask until there is an answer or a refusal."""
        scaling, before = self._ctx.scaling, self._answered
        about = sum(len(m["content"].encode()) for m in request.messages) // BYTES_PER_TOKEN
        about += self._endpoint.max_completion_tokens
        seed = keyed_hash(self._seed, "ask", key) >> 33  # 31 bits: what every server takes
        common: dict[str, Any] = {"key": key, "id": request.id, "messages": request.messages, "seed": seed}
        for attempt in range(1, scaling.request_attempts + 1):
            await self._requests.take(1)
            await self._tokens.take(about)
            await self._while_closed()
            try:
                reply = await self._send(client, request, seed)
            except Unfit as error:
                return Answer(**common, refused=self._safe(str(error)))
            except Stop as error:
                raise NotReadyError(f"{self._endpoint.url}: {self._safe(str(error))}", error.remedy) from None
            except Again as error:
                self._tokens.correct(-about)
                never = not self._answers and no_connection(error) and attempt >= FIRST_ATTEMPTS
                if attempt < scaling.request_attempts and not never:
                    await self._wait(error, key, attempt)
                    continue
                why = f"{self._safe(str(error))}, {attempt} times"
                if self._answered > before:  # others were answered meanwhile: it is this request
                    return Answer(**common, refused=f"unanswered: {why}")
                raise self._unreachable(why) from None
            self._tokens.correct(reply.tokens - about)
            return Answer(**common, **self._counted(request, reply))
        raise AssertionError("unreachable")

    async def _send(self, client: Any, request: Request, seed: int) -> Reply:
        """One attempt. Raises Again, Unfit or Stop."""
        endpoint, seconds = self._endpoint, self._ctx.scaling.request_timeout_seconds
        with sorted_out(seconds):
            async with asyncio.timeout(seconds):  # the client's own begins anew with every byte
                raw = await client.chat.completions.with_raw_response.create(
                    model=endpoint.model,
                    messages=request.messages,
                    temperature=endpoint.temperature,
                    top_p=endpoint.top_p,
                    seed=seed,
                    extra_body={endpoint.limit_field: endpoint.max_completion_tokens, **endpoint.body},
                )
        return read_reply(raw.http_response.content)

    async def _while_closed(self) -> None:
        clock = asyncio.get_running_loop().time
        while (seconds := self._open_at - clock()) > 0:
            await asyncio.sleep(seconds)

    async def _wait(self, error: Again, key: str, attempt: int) -> None:
        if error.retry_after:  # the endpoint is busy for everybody
            if error.retry_after >= TOLD_SECONDS:
                self._ctx.notice(f"{self._endpoint.url} asks for a pause of {error.retry_after:.0f} s")
            self._open_at = max(self._open_at, asyncio.get_running_loop().time() + error.retry_after)
            return
        jitter = 0.5 + (keyed_hash(self._seed, "wait", f"{key}/{attempt}") % 1000) / 2000
        await asyncio.sleep(jitter * min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1)))

    def _keep(self, answer: Answer) -> None:
        if answer.refused and not self._answered and not self._answers:
            self._refusals.append(answer)  # maybe all will be: then they are asked again when that is mended
            if len(self._refusals) >= REFUSALS:
                raise self._all_refused()
            return
        self._answered += not answer.refused
        for kept in (*self._refusals, answer):
            self._answers[kept.key] = msgspec.structs.replace(kept, messages=[])
            self._file.append(msgspec.to_builtins(kept))
        self._refusals = []
        self._file.flush()

    def _all_refused(self) -> TrunklineError:
        return JobError(
            f"{self._endpoint.url} refused the first {len(self._refusals)} requests: {self._refusals[-1].refused}",
            "Mend what it says in the spec's endpoint, or take another model.",
        )

    def _unreachable(self, why: str) -> TrunklineError:
        if self._answers:
            kept = f"{len(self._answers)} answers are kept: run the same command again when it answers."
            return JobError(f"{self._endpoint.url}: {why}", kept)
        return NotReadyError(f"{self._endpoint.url}: {why}", "Start one with `ctl serve up`, or correct the URL.")

    def _counted(self, request: Request, reply: Reply) -> dict[str, Any]:
        """What is kept of a reply. Where it counts no tokens its bytes are counted, which are more."""
        asked, written = reply.input_tokens, reply.output_tokens
        return {
            "model": reply.model or self._endpoint.model,
            "text": reply.text,
            "cut": reply.finish_reason == "length",
            "refused": self._safe(reply.refused),
            "input_tokens": self._input_bound(request) if asked is None else asked,
            "output_tokens": len(reply.text.encode()) if written is None else written,
        }

    def _digest(self, request: Request) -> str:
        asked = [request.id, request.messages, msgspec.to_builtins(self._endpoint)]
        return hashlib.sha256(canonical(asked).encode()).hexdigest()[:32]

    def _bound(self, request: Request) -> float:
        """The most that an answer may cost."""
        return self._price(self._input_bound(request), self._endpoint.max_completion_tokens)

    @staticmethod
    def _input_bound(request: Request) -> int:
        return sum(len(message["content"].encode()) + TEMPLATE_TOKENS for message in request.messages)

    def _cost_of(self, answer: Answer) -> float:
        return self._price(answer.input_tokens, answer.output_tokens)

    def _price(self, read: int, written: int) -> float:
        scaling = self._ctx.scaling
        return (
            read * scaling.price_per_million_input_tokens + written * scaling.price_per_million_output_tokens
        ) / MILLION

    def told(self) -> dict[str, Any]:
        """The figure worth a glance while it goes on: the cost, where there are prices."""
        priced = self._ctx.scaling.price_per_million_input_tokens + self._ctx.scaling.price_per_million_output_tokens
        return {"cost": round(self._budget.spent, 4)} if priced else {}

    def _safe(self, text: str) -> str:
        """A text without the key, which some servers quote."""
        return text.replace(self._key, "***") if self._endpoint.api_key_env else text


def api_key(endpoint: ChatEndpoint) -> str:
    """The key. Raises NotReadyError where the variable that should hold it is not set, and without `openai`."""
    if not importlib.util.find_spec("openai"):
        raise NotReadyError("asking an endpoint needs openai", "`pip install 'trunkline[serve]'`.")
    name = endpoint.api_key_env
    if not name:
        return "none"
    if not (key := os.environ.get(name, "").strip()):
        raise NotReadyError(f"endpoint.api_key_env: {name} is not set", f"`export {name}=...` where the run starts.")
    return key


def _bare(line: dict[str, Any]) -> Answer:
    return msgspec.convert({**line, "messages": []}, Answer)
