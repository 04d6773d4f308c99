"""A bounded queue: who comes in, who is told to come again, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
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


def test_the_wait_that_is_told_follows_how_long_answers_take() -> None:
    admission = Admission(8, 8)
    assert admission.retry_seconds() == 1
    admission.mean_seconds = 40.0  # 16 answers in 40 s: the half of 8 is gone after 10
    assert admission.retry_seconds() == 10
    admission.mean_seconds = 1e9
    assert admission.retry_seconds() == 60
    admission.begun = 16
    with pytest.raises(Refused):
        admission.check()
