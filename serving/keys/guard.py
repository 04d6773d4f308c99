"""Keys and quotas around one application: who asks, what may be used, what was used.

A request is let through by its key as it is at that moment, so that one that is revoked counts no more from the next
request on. Where the database does not answer, nobody is served: without it no quota would hold.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cluster.core.specs.access import Access
from serving.asgi import (
    FEEDBACK_PATH,
    METRICS_PATH,
    ON_BEHALF,
    Application,
    Message,
    Receive,
    Scope,
    Send,
    path_of,
)
from serving.keys import webhook
from serving.keys.answered import Answer
from serving.keys.asked import bounds, is_ids
from serving.keys.database import Database, DatabaseFailed, database_at
from serving.keys.key import ANSWERS, METRICS, Key, parsed, redacted
from serving.keys.ledger import (
    BYTES_A_TOKEN,
    FIND,
    Entry,
    Exceeded,
    Prices,
    Used,
    log,
    no_key,
    prune,
    reserve_at_once,
    settle_at_once,
    soft_budget,
)
from serving.limits import Refused
from serving.watching.counted import count_tokens, note_key

Count = Callable[[dict[str, Any]], Awaitable[int | None]]
KNOWN_SECONDS = 1.0
KNOWN = 10_000
PRUNE_SECONDS = 3600.0
NAME_LETTERS = 200  # of what clients call their request and its model, in the log
NOBODY = Key(**dict.fromkeys(Key.__struct_fields__) | {"digest": "0" * 64})  # type: ignore[arg-type]
LOGGER = logging.getLogger(__name__)


class Guard:
    """The keys of an endpoint. `context_tokens` is the longest sequence of its model, 0 where it is not known."""

    def __init__(self, access: Access, database: str, endpoint: str, context_tokens: int) -> None:
        self.access, self.endpoint, self.context_tokens = access, endpoint, context_tokens
        self.prices = Prices(access.input_price, access.output_price)
        self.database: Database = database_at(database, durable=False)
        self._known: dict[str, tuple[float, Key]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the database. Raises DatabaseFailed."""
        await self.database.open()
        self._pruning = asyncio.create_task(self._prune())

    async def close(self) -> None:
        """Finish what is to be written."""
        self._pruning.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.database.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what ends whether or not its request does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _prune(self) -> None:
        while True:
            with suppress(DatabaseFailed):  # the next request tells
                await self.database.run(prune(time.time(), self.access.request_log_days))
            await asyncio.sleep(PRUNE_SECONDS)

    async def caller(self, scope: Scope) -> Key:
        """The key of whoever asks. Raises Refused for none, or one that does not count here."""
        if ON_BEHALF in scope:  # which no socket can have brought
            key = await self._find(scope[ON_BEHALF], fresh=False)
            if key is NOBODY:
                raise no_key("this API key is not known here")
        else:
            key = await self._shown(scope)
        note_key(scope, key.id)
        if why := key.ended(time.time()):
            raise no_key(f"this API key has {'been revoked' if why == 'revoked' else 'expired'}")
        if key.endpoints and self.endpoint not in key.endpoints:
            raise Refused(403, f"this API key is not for the endpoint {self.endpoint!r}", code="endpoint_not_allowed")
        wanted = METRICS if path_of(scope) == METRICS_PATH else ANSWERS
        if wanted not in key.scopes:
            told = f"this API key is not for {wanted}, only for {' and '.join(key.scopes)}"
            raise Refused(403, told, code="scope_not_allowed")
        return key

    async def _shown(self, scope: Scope) -> Key:
        """The key whose secret a request shows."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, text = given[0].decode("latin-1").partition(" ") if len(given) == 1 else ("", "", "")
        found = parsed(text.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise no_key("this endpoint asks for an API key: send one as `Authorization: Bearer KEY`")
        key_id, secret = found
        key = await self._find(key_id, fresh=scope["method"] != "POST")
        if not key.fits(secret):
            raise no_key("this API key is not known here")
        return key

    async def _find(self, key_id: str, fresh: bool) -> Key:
        """A key; unless it must be `fresh`, as it was up to a second ago: what reserves reads it once more."""
        read_at, key = self._known.get(key_id, (0.0, NOBODY))
        now = time.monotonic()
        if fresh or now - read_at > KNOWN_SECONDS:
            rows = await self._served(self.database.read(FIND, key_id))
            key = Key.of(rows[0]) if rows else NOBODY
            if len(self._known) >= KNOWN:
                self._known.clear()
            if rows:
                self._known[key_id] = (now, key)
        return key

    def entry(self, key: Key, path: str, request_id: str) -> Entry:
        """What is written down of a request before its body is read."""
        named = redacted(request_id)[:NAME_LETTERS]
        logged = self.access.request_log != "off"
        return Entry(secrets.token_hex(16), named, key.id, time.time(), self.endpoint, "", path, logged=logged)

    def measured(self, entry: Entry, asked: dict[str, Any], body: bytes) -> Entry:
        """The entry with what is asked for, and the most that it may use."""
        prompt, completion = bounds(entry.path, asked, len(body), self.context_tokens)
        keeps_body = self.access.request_log == "prompts" and entry.path != FEEDBACK_PATH
        return replace(
            entry,
            model=redacted(str(asked.get("model") or self.endpoint)[:NAME_LETTERS]),
            prompt_tokens=prompt,
            completion_tokens=completion,
            counted=is_ids(asked.get("prompt")) or is_ids(asked.get("input")),
            prices=self.prices,
            body=redacted(body.decode(errors="replace")) if keeps_body else None,
        )

    async def reserve(self, entry: Entry, key: Key, asked: dict[str, Any], count: Count) -> Entry:
        """Take what the request may use out of the key's quotas: by bounds, and where they would not fit by what
        `count` finds. Raises Refused."""
        if key.models and (asked.get("model") or self.endpoint) not in key.models:
            raise Refused(403, f"this API key is not for the model {entry.model!r}", "model", code="model_not_allowed")
        try:
            await self._served(reserve_at_once(self.database, entry))
        except Exceeded as refused:
            lacks = refused.missing_tokens
            if entry.counted or not 0 < lacks <= entry.prompt_tokens - entry.prompt_tokens // BYTES_A_TOKEN:
                raise  # a count would not help
            counted = await count(asked)
            if counted is None:
                raise
            entry = replace(entry, prompt_tokens=min(counted, entry.prompt_tokens), counted=True)
            await self._served(reserve_at_once(self.database, entry))
        return entry

    async def reserve_request(self, entry: Entry) -> None:
        """Take a request that no model answers out of a key's quotas. Raises Refused."""
        await self._served(reserve_at_once(self.database, entry))

    def refuse(self, entry: Entry, refused: Refused) -> None:
        """Write down what was not answered."""
        if entry.logged:
            used = Used(refused.status, 0, 0, time.time() - entry.asked_at)
            self._do(self._write(self.database.run(log(entry, used))))

    async def pass_on(
        self, app: Application, scope: Scope, receive: Receive, send: Send, entry: Entry, asked: dict[str, Any]
    ) -> None:
        """Let the application answer, and settle what was reserved: before the client has the end of the answer, or
        when the request ends otherwise."""
        answer = Answer(entry.path, asked)
        settling: asyncio.Task[None] | None = None

        def settle_once() -> asyncio.Task[None]:
            nonlocal settling
            settling = settling or self._do(self._settle(entry, _used(entry, answer)))
            return settling

        async def passed(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.begin(message)
            elif message["type"] == "http.response.body":
                more = bool(message.get("more_body"))
                body = answer.take(message.get("body", b""), more)
                if not more:
                    await asyncio.shield(settle_once())  # goes on where the request is cancelled
                elif not body:
                    return
                message = {**message, "body": body}
            await send(message)

        try:
            await app(scope, receive, passed)
        except Exception:
            answer.status = answer.status or 500
            raise
        finally:
            settle_once()

    async def _settle(self, entry: Entry, used: Used) -> None:
        count_tokens(entry.key_id, used.prompt_tokens, used.completion_tokens)
        await self._write(settle_at_once(self.database, entry, used))
        if not self.access.webhook or not used.cost_nano(entry):
            return
        if spending := await self._write(self.database.run(soft_budget(entry, self.access.soft_budget_fraction))):
            self._do(webhook.tell(self.access.webhook, self.endpoint, spending))

    async def _write(self, transaction: Coroutine[Any, Any, Any]) -> Any:
        """Wait for a transaction that no answer depends on. Where it fails, what was reserved stays used."""
        try:
            return await transaction
        except DatabaseFailed as error:
            LOGGER.error("a request is not written down: %s", error)

    async def _served(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except DatabaseFailed as error:
            LOGGER.error("no request is answered: %s", error)
            raise Refused(
                503, "the keys cannot be read just now", kind="server_error", headers={"Retry-After": "5"}
            ) from None


def _used(entry: Entry, answer: Answer) -> Used:
    """What an answer took. Where nothing tells, what was reserved, or of a stream a token for each event that came; of
    one that failed, nothing."""
    duration = time.time() - entry.asked_at
    if answer.status >= 400:
        return Used(answer.status, 0, 0, duration)
    status = answer.status if answer.ended else 499  # as nginx calls a client that left
    if tokens := answer.tokens():
        return Used(status, *tokens, duration)
    completion = min(answer.events or entry.completion_tokens, entry.completion_tokens)
    return Used(status, entry.prompt_tokens, completion, duration)
