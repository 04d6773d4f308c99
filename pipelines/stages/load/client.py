"""One request, timed: when it should have been sent, when it was, and when each piece of its answer came.

Times are of `time.perf_counter`. A piece counts when its bytes are here: pieces that come together have the same time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import msgspec

from pipelines.stages.load.workload import Planned

ARTIFACT_HEADER = "trunkline-artifact"
NO_ANSWER, CUT, LATE = "no answer", "cut", "timeout"  # what may end a request beside a status
SHOWN_CHARS = 200


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0


class Delta(msgspec.Struct):
    role: str | None = None
    content: str | None = None
    tool_calls: Any = None


class Choice(msgspec.Struct):
    delta: Delta | None = None

    @property
    def is_piece(self) -> bool:
        """Whether it is part of an answer: a server may say whose turn it is before it has computed anything."""
        return self.delta is None or not self.delta.role or bool(self.delta.content or self.delta.tool_calls)


class Told(msgspec.Struct):
    """What is read of an answer, or of a piece of one."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


class Sample(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of a request. Times are seconds from the beginning of the test; latencies count from `intended`,
    when it should have been sent: a client that is late must not make the endpoint look fast."""

    intended: float
    sent: float
    ended: float
    """When its last piece was here, or it failed."""
    failed: str = ""
    """Empty, or a status such as `429`, `no answer`, `cut`, `timeout`."""
    said: str = ""
    first: float | None = None
    """When its first piece was here, of a stream."""
    gaps: list[float] = []
    """Between its pieces, in seconds."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    artifact: str = ""
    """Which artifact answered, as its header says."""

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.intended

    @property
    def e2e(self) -> float:
        return self.ended - self.intended

    @property
    def tpot(self) -> float | None:
        """Time per output token behind the first, as `vllm bench serve` takes it: (latency - TTFT) / (tokens - 1);
        None for fewer than two."""
        if self.first is None or self.output_tokens < 2:
            return None
        return (self.ended - self.first) / (self.output_tokens - 1)

    @property
    def lateness(self) -> float:
        """How long the client took to send it, seconds."""
        return self.sent - self.intended


DECODER = msgspec.json.Decoder(Told)


class Client:
    """Sends requests to one base URL. `zero` is the beginning of the test by `time.perf_counter`."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, timeout_seconds: float) -> None:
        self.session, self.base_url, self.timeout_seconds = session, base_url, timeout_seconds
        self.zero = time.perf_counter()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.zero

    async def ask(self, planned: Planned, intended: float) -> Sample:
        """Send a request and take its answer to the end. Whatever goes wrong is in the sample."""
        sample = Sample(intended=intended, sent=self.now(), ended=0.0)
        body = msgspec.json.encode(planned.body)
        try:
            async with asyncio.timeout(self.timeout_seconds):
                async with self.session.post(
                    f"{self.base_url}{planned.path}", data=body, headers={"Content-Type": "application/json"}
                ) as reply:
                    sample.artifact = reply.headers.get(ARTIFACT_HEADER, "")
                    if reply.status != 200:
                        sample.failed = str(reply.status)
                        sample.said = (await reply.text(errors="replace"))[:SHOWN_CHARS]
                    elif reply.content_type == "text/event-stream":
                        await self._stream(reply, sample)
                    else:
                        self._whole(await reply.read(), sample)
        except TimeoutError:
            sample.failed = LATE
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            sample.failed, sample.said = CUT, f"no completion: {error}"[:SHOWN_CHARS]
        except (aiohttp.ClientError, OSError) as error:
            begun = sample.first is not None
            sample.failed, sample.said = CUT if begun else NO_ANSWER, (str(error) or type(error).__name__)[:SHOWN_CHARS]
        if sample.failed or not sample.ended:
            sample.ended = self.now()
        return sample

    def _whole(self, body: bytes, sample: Sample) -> None:
        sample.ended = self.now()
        self._count(DECODER.decode(body), sample)

    async def _stream(self, reply: aiohttp.ClientResponse, sample: Sample) -> None:
        rest, ended = b"", False
        async for data in reply.content.iter_any():
            now = self.now()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if not event.startswith(b"data:"):
                    continue  # a comment that keeps the connection alive
                text = event[5:].strip()
                if text == b"[DONE]":
                    ended = True
                    continue
                told = DECODER.decode(text)
                if told.error is not None:
                    sample.failed, sample.said = CUT, str(told.error)[:SHOWN_CHARS]
                if any(choice.is_piece for choice in told.choices):
                    if sample.first is None:
                        sample.first = now
                    else:
                        sample.gaps.append(now - sample.ended)
                    sample.ended = now
                self._count(told, sample)
        if not ended and not sample.failed:
            sample.failed = CUT
        elif sample.first is None and not sample.failed:
            sample.failed, sample.said = CUT, "a stream without a piece"

    @staticmethod
    def _count(told: Told, sample: Sample) -> None:
        if told.usage:
            sample.prompt_tokens = told.usage.prompt_tokens
            sample.output_tokens = told.usage.completion_tokens or 0
