"""The routes of pooling around an application: scores, ranks, vectors, and the model's own numbers.

They are the same over vLLM and over transformers. A model that writes answers them with an error that says so; one that
pools does so at the routes of those that write. (vLLM's own routes of these names read a pair as one text, which a
reward model was not trained on.)
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import operator
import secrets
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from cluster.core.pooling import Pooling
from serving.admission import GENERATED, POOLED
from serving.asgi import Application, Receive, Scope, Send, error, path_of
from serving.limits import Refused
from serving.pooling.asked import Embeddings, Pooled, Rerank, Score, document, pairs, read, texts
from serving.pooling.pool import Pool
from serving.pooling.reading import Reader, Row

UNFIT = "unsupported_model"
LOGGER = logging.getLogger("ray.serve")
SAID = {"score": "/v1/score, /v1/rerank and /pooling", "labels": "/pooling",
        "embedding": "/v1/embeddings, /v1/score, /v1/rerank and /pooling"}  # fmt: skip


class Pooler:
    """A model that pools, as clients know it: `name`. `inputs` is the most texts of a request."""

    def __init__(self, name: str, pooling: Pooling, reader: Reader, pool: Pool, inputs: int) -> None:
        self.name, self.pooling, self.reader, self.pool, self.inputs = name, pooling, reader, pool, inputs
        self._answers: dict[type, Callable[[Any], Awaitable[dict[str, Any]]]] = {
            Embeddings: self._embeddings, Score: self._score, Rerank: self._rerank, Pooled: self._pooled,
        }  # fmt: skip

    async def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer of a route. Raises Refused."""
        asked = read(path, body)
        if asked.model not in ("", self.name):
            raise Refused(404, f"the model {asked.model[:64]!r} does not exist", "model", code="model_not_found")
        return await self._answers[type(asked)](asked)

    async def _embeddings(self, asked: Embeddings) -> dict[str, Any]:
        self._require("embedding")
        rows = await self._read_texts(texts(asked.input), asked.truncate_prompt_tokens)
        vectors = [normalized(vector) for vector in await self.pool(rows)]
        if asked.dimensions not in (None, len(vectors[0])):
            told = f"the vectors of this model have {len(vectors[0])} dimensions, and no others"
            raise Refused(400, told, "dimensions")
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        return {"object": "list", "data": data, "model": self.name, "usage": _usage(rows)}

    async def _pooled(self, asked: Pooled) -> dict[str, Any]:
        if (asked.input is None) == (asked.messages is None):
            raise Refused(400, "either `input` or `messages` is needed", "input")
        truncate, finished = asked.truncate_prompt_tokens, not asked.continue_final_message
        if asked.input is not None:
            rows = await self._read_texts(texts(asked.input), truncate)
        else:
            given = asked.messages or []
            rows = [await run_in_threadpool(self.reader.conversation, given, truncate, finished, "messages")]
        found = await self.pool(rows)
        if asked.use_activation:
            found = [self._activated(numbers) for numbers in found]
        data = [
            {"object": "pooling", "index": index, "data": _encoded(numbers, asked.encoding_format)}
            for index, numbers in enumerate(found)
        ]
        return self._listed("pool", data, rows)

    async def _score(self, asked: Score) -> dict[str, Any]:
        self._require("score", "embedding")
        finished = not asked.continue_final_message
        scores, rows = await self._scored(pairs(asked), asked.truncate_prompt_tokens, finished, asked.use_activation)
        data = [{"object": "score", "index": index, "score": score} for index, score in enumerate(scores)]
        return self._listed("score", data, rows)

    async def _rerank(self, asked: Rerank) -> dict[str, Any]:
        self._require("score", "embedding")
        documents = [document(each) for each in asked.documents]
        if not documents:
            raise Refused(400, "there are none", "documents")
        given = [(asked.query, text) for text in documents]
        scores, rows = await self._scored(given, asked.truncate_prompt_tokens, True, True)
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        results = [
            {"index": index, "relevance_score": scores[index]}
            | ({"document": {"text": documents[index]}} if asked.return_documents else {})
            for index in order[: asked.top_n or None]
        ]
        return {"id": _id("rerank"), "model": self.name, "usage": _usage(rows), "results": results}

    async def _scored(
        self, given: Sequence[tuple[Any, str]], truncate: int | None, finished: bool, activated: bool
    ) -> tuple[list[float], list[Row]]:
        """The score of each query with its document, and what was read for them."""
        self._check_number(len(given))
        if self.pooling.makes == "embedding":
            if any(not isinstance(query, str) for query, _ in given):
                raise Refused(400, "a model of vectors compares texts, and no conversations", "queries")
            both = list(dict.fromkeys(text for pair in given for text in pair))
            rows = await self._read_texts(both, truncate)
            vectors = {t: normalized(v) for t, v in zip(both, await self.pool(rows), strict=True)}
            return [dot(vectors[query], vectors[text]) for query, text in given], rows

        def pairs_read() -> list[Row]:
            return [self.reader.pair(query, text, truncate, finished) for query, text in given]

        rows = await run_in_threadpool(pairs_read)
        found = [numbers[0] for numbers in await self.pool(rows)]
        return [sigmoid(score) for score in found] if activated else found, rows

    async def _read_texts(self, given: Sequence[Any], truncate: int | None) -> list[Row]:
        self._check_number(len(given))
        return await run_in_threadpool(lambda: [self.reader.text(each, truncate) for each in given])

    def _check_number(self, number: int) -> None:
        if number > self.inputs:
            raise Refused(400, f"{number} texts, and {self.inputs} are allowed (endpoint.limits.inputs)", "input")

    def _require(self, *makes: str) -> None:
        if self.pooling.makes not in makes:
            raise Refused(400, self.refusal, "model", code=UNFIT)

    @property
    def refusal(self) -> str:
        """Why it does not answer what else is asked of it, and what it does."""
        return f"the model {self.name!r} {self.pooling.told}, and nothing else: ask {SAID[self.pooling.makes]}"

    def _activated(self, numbers: list[float]) -> list[float]:
        if self.pooling.makes == "embedding":
            return normalized(numbers)
        return softmax(numbers) if self.pooling.makes == "labels" else [sigmoid(each) for each in numbers]

    def _listed(self, kind: str, data: list[dict[str, Any]], rows: Sequence[Row]) -> dict[str, Any]:
        told = {"id": _id(kind), "object": "list", "created": int(time.time()), "model": self.name}
        return {**told, "data": data, "usage": _usage(rows)}


def with_pooling(app: Application, name: str, pooler: Pooler | None) -> Application:
    """The application, which also answers the routes of pooling: by a pooler, and of a model that writes (none) with
    an error. A client that leaves has what it asked ended."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        if path not in (POOLED if pooler is None else (*POOLED, *GENERATED)):
            await app(scope, receive, send)
            return
        try:
            if pooler is None:
                told = f"the model {name!r} writes texts: scores are of a reward model, and vectors of an encoder"
                raise Refused(400, told, "model", code=UNFIT)
            if path not in POOLED:
                raise Refused(400, pooler.refusal, "model", code=UNFIT)
            body = (await receive()).get("body", b"")  # whole: the gateway has read it
            found = await _unless_left(pooler.answer(path, body), receive)
        except Refused as refused:
            await error(refused)(scope, receive, send)
            return
        except Exception:
            LOGGER.exception("%s was not answered", path)
            await error(Refused(500, "the model failed at this request", kind="server_error"))(scope, receive, send)
            return
        if found is not None:
            await JSONResponse(found)(scope, receive, send)

    return answered


async def _unless_left(answering: Any, receive: Receive) -> dict[str, Any] | None:
    """The answer; None where whoever asked leaves before it is there."""
    answer = asyncio.ensure_future(answering)
    left = asyncio.ensure_future(receive())
    try:
        await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        for task in (answer, left):
            task.cancel()


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def softmax(values: Sequence[float]) -> list[float]:
    shifted = [math.exp(value - max(values)) for value in values]
    return [each / sum(shifted) for each in shifted]


def dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(map(operator.mul, one, other))


def normalized(vector: Sequence[float]) -> list[float]:
    """The vector with length 1; one without a length stays."""
    length = math.sqrt(dot(vector, vector)) or 1.0
    return [each / length for each in vector]


def _encoded(numbers: list[float], how: str) -> list[float] | str:
    """As they are, or in base64 as float32, little-endian, which OpenAI's package asks for."""
    return numbers if how == "float" else base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _usage(rows: Sequence[Row]) -> dict[str, int]:
    tokens = sum(len(row.ids) for row in rows)
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def _id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"
