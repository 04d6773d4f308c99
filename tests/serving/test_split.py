"""A share of an endpoint's requests that another version answers: how much, who, and what is kept of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError, UsageError
from cluster.core.specs.endpoint import Limits
from serving.admission import Admission
from serving.asgi import Message
from serving.figures import Figures, holds, quantile, with_metrics
from serving.gateway import Gateway
from serving.sharing import Sharing
from serving.split import Share, Split, part
from tests.serving.keys.small_app import REF, Small, asking

CANARY_REF = "model/tiny-ffffffffffff"


class Kept:
    """What is told of answers and pairs."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.pairs: list[dict[str, str]] = []
        self.told = asyncio.Event()

    async def note(self, application: str, answers: list[Any], pairs: list[dict[str, str]]) -> None:
        assert application == "chat.canary"
        self.answers += answers
        self.pairs += pairs
        self.told.set()


class Two:
    """An endpoint and its canary in this process, with what is between them when they are two."""

    def __init__(self, weight: float, *, shadow: bool = False) -> None:
        self.stable, self.canary, self.kept = Small(), Small(), Kept()
        other = Sharing()
        other._passed = Gateway(self.canary.app, CANARY_REF, Limits(), None, Admission(2, 0))

        def open_ask(application: str) -> Any:
            return other.pass_on

        self.split = Split(self.stable.app, open_ask, self.kept.note)
        self.split.set_share(Share(application="chat.canary", weight=weight, shadow=shadow))
        self.app = Gateway(self.split, REF, Limits())


async def ask(client: httpx.AsyncClient, **asked: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=asked)


def said(text: str, turns: int = 1) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}, *({"role": "assistant", "content": "x"} for _ in range(turns - 1))]


@pytest.mark.heavy
@pytest.mark.timeout(60)
def test_a_share_is_answered_by_the_canary_and_conversations_stay() -> None:
    async def run() -> None:
        two = Two(0.25)
        async with asking(two.app) as client:
            first = [(await ask(client, messages=said(str(n)))).headers["trunkline-artifact"] for n in range(400)]
            later = [(await ask(client, messages=said(str(n), 2))).headers for n in range(400)]
        assert 60 < first.count(CANARY_REF) < 140 and first.count(CANARY_REF) + first.count(REF) == 400
        assert all(len(headers.get_list("trunkline-artifact")) == 1 for headers in later)
        assert len(two.canary.seen) + len(two.stable.seen) == 800
        await two.kept.told.wait()

    asyncio.run(run())


@given(st.text(), st.text(min_size=1), st.integers(2, 5))
def test_where_a_request_lies_does_not_depend_on_what_follows(text: str, user: str, turns: int) -> None:
    messages = [{"role": "system", "content": "s"}, *said(text)]
    longer = [*messages, *said("more", turns)]
    bodies = [json.dumps({"messages": m}).encode() for m in (messages, longer)]
    assert part(bodies[0]) == part(bodies[1]) and 0 <= part(bodies[0]) < 1
    by_user = [json.dumps({"messages": said(t), "user": user}).encode() for t in (text, text + "!")]
    assert part(by_user[0]) == part(by_user[1])


@pytest.mark.timeout(60)
def test_a_stream_passes_piece_by_piece_and_ends_where_its_client_goes() -> None:
    async def run() -> None:
        two = Two(1.0)
        two.canary.go.clear()
        pieces: asyncio.Queue[Message] = asyncio.Queue()
        body = json.dumps({"prompt": "a", "stream": True}).encode()
        given = asyncio.Event()

        async def receive() -> Message:
            if given.is_set():
                await asyncio.Event().wait()
            given.set()
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "query_string": b""}
        task = asyncio.create_task(two.app(scope, receive, pieces.put))
        start = await pieces.get()
        assert (b"trunkline-artifact", CANARY_REF.encode()) in start["headers"]
        assert b"one" in (await pieces.get())["body"]  # while the rest waits
        task.cancel()
        await two.canary.left.wait()
        assert not two.stable.seen

    asyncio.run(run())


@pytest.mark.heavy
@pytest.mark.timeout(60)
def test_a_shadow_is_asked_the_same_and_its_answer_is_kept() -> None:
    async def run() -> None:
        two = Two(1.0, shadow=True)
        async with asking(two.app) as client:
            reply = await ask(client, messages=said("a"), words=2)
            assert reply.headers["trunkline-artifact"] == REF
            await two.kept.told.wait()
        (pair,) = two.kept.pairs
        assert json.loads(pair["asked"])["messages"] == said("a")
        assert pair["stable"] == reply.text == pair["shadow"]
        assert sorted(which for which, *_ in two.kept.answers) == ["canary", "stable"]
        two.canary.app.routes.clear()  # it has no answer: nobody notices
        async with asking(two.app) as client:
            assert (await ask(client, messages=said("a"))).status_code == 200

    asyncio.run(run())


@pytest.mark.heavy
@pytest.mark.timeout(60)
def test_what_fails_counts_and_who_leaves_does_not() -> None:
    async def run() -> None:
        two = Two(0.0)
        async with asking(two.app) as client:
            await ask(client, messages=said("a"), fail=503)
            await ask(client, messages=said("a"), fail=400)
            await ask(client, messages=said("a"))
            await two.kept.told.wait()
        assert [failed for _, _, _, failed in two.kept.answers] == [True, False, False]

    asyncio.run(run())


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.sampled_from([50, 95]))
def test_a_quantile_is_one_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = quantile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < max(1, len(values) * percent / 100)


def test_conditions() -> None:
    figures = Figures()
    for n in range(1, 101):
        figures.add(n / 100, n / 10, failed=n > 98)
    told = figures.told()
    assert told["requests"] == 100 and told["failed_fraction"] == pytest.approx(0.02)
    assert (told["p50_ttft_seconds"], told["p95_ttft_seconds"], told["p95_seconds"]) == (0.49, 0.94, 9.4)
    assert holds("p95_ttft_seconds <= 0.94 and failed_fraction < 0.05", told)[0]
    held, why = holds("p95_ttft_seconds <= p50_ttft_seconds and requests >= 100", told)
    assert not held and "p95_ttft_seconds is 0.94, not <= 0.49" in why and "requests is 100, >= 100" in why
    with pytest.raises(UsageError, match="is no condition"):
        holds("p95_ttft_seconds", told)
    with pytest.raises(InputError, match="no figure 'p95_tttf_seconds'"):
        holds("p95_tttf_seconds <= 1", told)
    both = with_metrics(told, {"heldout_reward": 0.7, "requests": 3, "how": "x", "ok": True}, {"heldout_reward": 0.6})
    assert both["requests"] == told["requests"] and {"how", "ok"}.isdisjoint(both)
    assert holds("heldout_reward > stable_heldout_reward", both)[0]
    with pytest.raises(InputError, match="the canary has answered nothing yet"):
        holds("p95_seconds <= 1", Figures().told())
    assert Figures().told() == {"requests": 0.0}
