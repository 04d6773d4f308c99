"""A bounded queue: who comes in, who is told to come again, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving import admission as admission_module
from serving.admission import Admission, answers
from serving.gateway import gateway
from serving.keys.administration import Administration
from serving.limits import Refused
from tests.serving.keys.small_app import CONTEXT, REF, Small, asking, make_key

ASKED = {"prompt": "a b", "stream": True}


async def behind(small: Small, admission: Admission, access: Access | None = None) -> Any:
    return await gateway(small.app, "chat", REF, EndpointSpec(model="m", access=access or Access()), CONTEXT, admission)


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"prompt": "x"}, 1),
        ({"messages": [], "n": 4}, 4),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6),
        ({"prompt": ["a", "b"], "n": 1, "best_of": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),  # one prompt, as ids
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [], "n": None}, 1),
    ],
)
def test_a_request_counts_as_its_answers(asked: dict[str, Any], count: int) -> None:
    assert answers(asked) == count


async def burst(client: httpx.AsyncClient, count: int, **asked: Any) -> list[asyncio.Task[httpx.Response]]:
    """Requests at once, all of which have been answered or wait for the application."""
    tasks = [asyncio.create_task(client.post("/v1/completions", json={**ASKED, **asked})) for _ in range(count)]
    for _ in range(200):
        await asyncio.sleep(0)
    return tasks


@pytest.mark.timeout(60)
def test_of_a_burst_as_many_come_in_as_there_is_room_for() -> None:
    async def ask() -> None:
        small, admission = Small(), Admission(2, 3)
        small.go.clear()
        async with asking(await behind(small, admission)) as client:
            tasks = await burst(client, 12)
            refused = [task.result() for task in tasks if task.done()]
            assert len(refused) == 7 and admission.begun == 5
            for reply in refused:
                error = reply.json()["error"]
                assert (reply.status_code, error["type"]) == (429, "rate_limit_error")
                assert error["code"] == "endpoint_overloaded" and error["message"]
                assert int(reply.headers["retry-after"]) >= 1 and reply.headers["trunkline-artifact"] == REF
            assert (await client.get("/health")).status_code == 200  # whoever looks is let in
            small.go.set()
            replies = await asyncio.gather(*tasks)
            assert sum(reply.status_code == 200 for reply in replies) == 5
            assert admission.begun == 0
            assert (await client.post("/v1/completions", json=ASKED)).status_code == 200

    asyncio.run(ask())


@pytest.mark.timeout(60)
def test_a_request_of_many_answers_fills_the_queue_alone() -> None:
    """It comes in where there is room for one, else it never might."""

    async def ask() -> None:
        small, admission = Small(), Admission(2, 1)
        small.go.clear()
        async with asking(await behind(small, admission)) as client:
            (many,) = await burst(client, 1, n=8)
            (other,) = await burst(client, 1)
            assert not many.done() and other.result().status_code == 429
            small.go.set()
            assert (await many).status_code == 200 and admission.begun == 0

    asyncio.run(ask())


@pytest.mark.timeout(60)
def test_who_fails_or_leaves_gives_the_place_back() -> None:
    async def ask() -> None:
        small, admission = Small(), Admission(1, 0)
        async with asking(await behind(small, admission)) as client:
            assert (await client.post("/v1/completions", json={"prompt": "x", "crash": True})).status_code == 500
            small.go.clear()
            (left,) = await burst(client, 1)
            left.cancel()
            await asyncio.wait([left])
            assert small.left.is_set()
            assert admission.begun == 0
            small.go.set()
            assert (await client.post("/v1/completions", json=ASKED)).status_code == 200

    asyncio.run(ask())


@pytest.mark.timeout(60)
def test_a_client_that_is_slow_to_ask_holds_no_place() -> None:
    async def ask() -> None:
        small, admission = Small(), Admission(1, 0)
        begun, told = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            yield b'{"prompt": '
            begun.set()
            await told.wait()
            yield b'"x"}'

        async with asking(await behind(small, admission)) as client:
            waits = asyncio.create_task(client.post("/v1/completions", content=slow()))
            await begun.wait()
            assert (await client.post("/v1/completions", json=ASKED)).status_code == 200
            told.set()
            reply = await waits
            assert reply.status_code == 200, reply.text

    asyncio.run(ask())


@pytest.mark.timeout(60)
def test_what_is_refused_here_costs_a_key_nothing(tmp_path: Path) -> None:
    async def ask() -> None:
        database = str(tmp_path / "keys.sqlite")
        _, key = make_key(database, quotas={"requests_per_day": 1})
        small, admission = Small(), Admission(0, 0)
        access = Access(keys=True, database=database)
        async with asking(await behind(small, admission, access), key) as client:
            for _ in range(3):
                assert (await client.post("/v1/completions", json=ASKED)).status_code == 429
            assert (await client.post("/v1/completions", json=ASKED, headers={"Authorization": ""})).status_code == 401
            admission.running = 1
            assert (await client.post("/v1/completions", json=ASKED)).status_code == 200
        assert len(Administration(database).requests(10)) == 1

    asyncio.run(ask())


class Clock:
    """The time as admission sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(admission_module, "time", self)

    def monotonic(self) -> float:
        return self.now


def storm(
    admission: Admission, clock: Clock, arrivals: np.ndarray, service: Callable[[float], float]
) -> list[tuple[float, float]]:
    """Arrivals at an engine that computes `admission.running` answers at once, first come first served: of each that is
    accepted when it came, and how long it waited. `service`: seconds of an answer that begins then."""
    events = [(at, 0, number) for number, at in enumerate(arrivals)]
    heapq.heapify(events)
    places: dict[int, AbstractContextManager[None]] = {}
    waiting: deque[tuple[float, int]] = deque()
    waits: list[tuple[float, float]] = []
    free = admission.running
    while events:
        clock.now, ended, number = heapq.heappop(events)
        if ended:
            places.pop(number).__exit__(None, None, None)
            free += 1
        else:
            place = admission.place({})
            try:
                place.__enter__()
            except Refused:
                continue
            places[number] = place
            waiting.append((clock.now, number))
        if free and waiting:
            came, number = waiting.popleft()
            free -= 1
            waits.append((came, clock.now - came))
            heapq.heappush(events, (clock.now + service(clock.now), 1, number))
    assert admission.begun == 0
    return waits


@pytest.mark.parametrize("running", [1, 8, 40])
def test_nobody_waits_longer_than_is_promised(running: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At three times what the engine can do, whose answers take 0.4 s, after 60 s three times as long, and after 120 s
    a quarter of that. It is never idle; without the promise `queued` answers would wait for 10 s, and then for 30."""
    rng = np.random.default_rng(1)

    def service(now: float) -> float:
        return float(0.4 * rng.uniform(0.8, 1.2) * (1 if now < 1060 else 3 if now < 1120 else 0.75))

    capacity = running / 0.4
    arrivals = 1000 + np.cumsum(rng.exponential(1 / (3 * capacity), int(180 * 3 * capacity)))
    queued, most = round(10 * capacity), 2.0
    waits = storm(Admission(running, queued, most), Clock(monkeypatch), arrivals, service)
    settled = [wait for came, wait in waits if 1005 < came < 1058 or 1070 < came < 1118 or came > 1130]
    assert np.quantile(settled, 0.95) < 1.25 * most and np.quantile(settled, 0.5) > 0.6 * most
    assert max(wait for came, wait in waits if came > 1005) < 3.5 * most  # of those who were there when it slowed down
    first = sum(1005 < came < 1055 for came, _ in waits)
    assert first > 0.95 * 50 * capacity
    longest = max(wait for _, wait in storm(Admission(running, queued), Clock(monkeypatch), arrivals, service))
    assert longest > 9


def test_the_wait_that_is_told_follows_how_long_answers_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, admission = Clock(monkeypatch), Admission(8, 8)
    assert admission.retry_seconds() == 1
    for each, told in ((2.5, 10), (1e9, 60)):  # seconds between two that end; the half of 8 is gone after four times
        places = [admission.place({}) for _ in range(16)]
        for place in places:
            place.__enter__()
        with pytest.raises(Refused) as refused:
            admission.check()
        assert refused.value.headers and 1 <= int(refused.value.headers["Retry-After"]) <= 60
        for place in places:
            clock.now += each
            place.__exit__(None, None, None)
        assert admission.retry_seconds() == told
    assert Admission(8, 8, 1.0).wait_seconds() == 0  # of which nothing is known yet
