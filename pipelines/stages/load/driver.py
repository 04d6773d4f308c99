"""Sends what was planned: at its times, whatever the endpoint does (open loop), or by so many clients that wait for
their answers (closed loop); and watches the client itself, which must not be what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from pipelines.stages.load.client import Client, Sample
from pipelines.stages.load.workload import Planned

TICK_SECONDS = 0.02  # between two looks at whether this process keeps up


@dataclass
class Driven:
    """What became of all requests, and of the client: how late its loop ran (seconds), and its share of a core."""

    samples: list[Sample]
    loop_lags: list[float] = field(default_factory=list)
    cpu_share: float = 0.0


async def drive(
    base_url: str,
    key: str,
    warm: Sequence[Planned],
    measured: Sequence[Planned],
    *,
    concurrency: int,
    timeout_seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Driven:
    """Warm up, then send what is measured; an open loop where it has times."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        client = Client(session, base_url, timeout_seconds)
        await closed_loop(client, warm, concurrency)
        client.zero = time.perf_counter()
        cpu, lags = time.process_time(), list[float]()
        ticking = asyncio.create_task(_tick(lags))
        done = 0

        def ended() -> None:
            nonlocal done
            done += 1
            progress(done, len(measured))

        try:
            if any(planned.at_seconds is not None for planned in measured):
                samples = await open_loop(client, measured, ended)
            else:
                samples = await closed_loop(client, measured, concurrency, ended)
        finally:
            ticking.cancel()
        seconds = client.now()
        return Driven(samples, lags, (time.process_time() - cpu) / seconds if seconds else 0.0)


async def open_loop(client: Client, planned: Sequence[Planned], ended: Callable[[], None]) -> list[Sample]:
    """Each at its time. Where this process is late, its latency counts from when it should have been sent."""

    async def ask(each: Planned, at: float) -> Sample:
        sample = await client.ask(each, at)
        ended()
        return sample

    async with asyncio.TaskGroup() as group:
        tasks = []
        for each in planned:
            at = each.at_seconds or 0.0
            if (wait := at - client.now()) > 0:
                await asyncio.sleep(wait)
            tasks.append(group.create_task(ask(each, at)))
    return [task.result() for task in tasks]


async def closed_loop(
    client: Client, planned: Sequence[Planned], concurrency: int, ended: Callable[[], None] = lambda: None
) -> list[Sample]:
    """By clients that ask one after the other: the next should be sent as soon as the one before has ended."""
    found: dict[int, Sample] = {}
    waiting = iter(enumerate(planned))

    async def work() -> None:
        free_at = client.now()
        for number, each in waiting:
            found[number] = await client.ask(each, free_at)
            free_at = client.now()
            ended()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(planned))):
            group.create_task(work())
    return [found[number] for number in range(len(planned))]


async def _tick(lags: list[float]) -> None:
    """How much later than asked for the loop comes back: what any piece that arrived meanwhile waited, at most."""
    while True:
        due = time.perf_counter() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        lags.append(max(0.0, time.perf_counter() - due))
