"""Reservations against a plain account of them, and what the parts around them say of one request."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import SpecError
from cluster.core.specs.access import Access
from serving.keys.answered import Answer, with_usage
from serving.keys.asked import bounds
from serving.keys.database import database_at
from serving.keys.ledger import (
    Entry,
    Prices,
    Used,
    prune,
    reserve,
    reserve_at_once,
    settle,
    settle_at_once,
)
from serving.limits import Refused
from tests.serving.keys.small_app import make_key

START = 1_800_014_430.0
MINUTE, DAY = 60, 86_400
QUOTAS = {"requests_per_minute": 3, "requests_per_day": 9, "tokens_per_minute": 50, "tokens_per_day": 120}
NAMES = itertools.count()
EVENTS = st.tuples(
    st.sampled_from(["ask", "ask", "end"]), st.integers(0, 90), st.integers(0, 30), st.integers(0, 30), st.floats(0, 1)
)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.heavy)])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for many examples."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("ledger") / "keys.sqlite")
    made: str = request.getfixturevalue("postgres").make("ledger")
    return made


@given(st.lists(EVENTS, max_size=25), st.sampled_from([140_000, 10**9]))
def test_no_order_of_requests_overruns_a_quota(kept: str, events: list[Any], budget_nano: int) -> None:
    """What is reserved and used in each window and of the budget, kept in dictionaries, decides as the database does:
    the transactions of SQLite, and the functions of PostgreSQL."""
    key_id, _ = make_key(kept, f"key {next(NAMES)}", quotas=QUOTAS, budget_nano=budget_nano)
    prices = Prices(1.0, 2.0)  # 1,000 billionths for a token of a prompt, 2,000 for one of an answer

    async def work() -> None:
        opened = database_at(kept, durable=False)
        await opened.open()
        requests: Counter[Any] = Counter()
        tokens: Counter[Any] = Counter()
        running: list[Entry] = []
        now, spent, money = START, 0, 0
        for number, (kind, seconds, prompt, completion, share) in enumerate(events):
            now += seconds
            if kind == "end":
                if running:
                    entry = running.pop(0)
                    used = Used(200, round(entry.prompt_tokens * share), round(entry.completion_tokens * share), 0.1)
                    await settle_at_once(opened, entry, used)
                    money += used.cost_nano(entry) - entry.cost_nano
                    back = entry.prompt_tokens + entry.completion_tokens - used.prompt_tokens - used.completion_tokens
                    tokens[MINUTE, entry.minute_at] -= back
                    tokens[DAY, entry.day_at] -= back
                    spent += used.prompt_tokens + used.completion_tokens
                continue
            name = f"{key_id} {number}"
            entry = Entry(name, "r", key_id, now, "chat", "m", "/", prompt, completion, prices=prices)
            windows = ((MINUTE, entry.minute_at, "minute"), (DAY, entry.day_at, "day"))
            fits = all(
                requests[period, at] + 1 <= QUOTAS[f"requests_per_{unit}"]
                and tokens[period, at] + prompt + completion <= QUOTAS[f"tokens_per_{unit}"]
                for period, at, unit in windows
            )
            fits = fits and money + entry.cost_nano <= budget_nano
            try:
                await reserve_at_once(opened, entry)
            except Refused as refused:
                assert not fits and refused.status == 429
                continue
            assert fits
            running.append(entry)
            money += entry.cost_nano
            for period, at, _ in windows:
                requests[period, at] += 1
                tokens[period, at] += prompt + completion
        rows = await opened.read("SELECT * FROM windows WHERE key_id = $1", key_id)
        assert {(r["period_seconds"], r["started_at"]): (r["requests"], r["tokens"]) for r in rows} == {
            window: (count, tokens[window]) for window, count in requests.items()
        }
        (metered,) = await opened.read(
            "SELECT COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS n FROM meter WHERE key_id = $1", key_id
        )
        assert metered["n"] == spent
        await opened.close()

    asyncio.run(work())


@pytest.mark.heavy
def test_a_request_is_two_ways_to_a_server(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has what it used, as after the transactions that take nine."""
    database = postgres.make("two_ways")
    key_id, _ = make_key(database, quotas=QUOTAS)

    async def work() -> None:
        opened = database_at(database, durable=False)
        await opened.open()
        with monkeypatch.context() as patch:
            patch.setattr(opened, "run", None)
            first, second = (
                Entry(name, "r", key_id, START, "chat", "m", "/", 10, 20, body="x", prices=Prices(1.0, 2.0))
                for name in ("first", "second")
            )
            await reserve_at_once(opened, first)
            await settle_at_once(opened, first, Used(200, 4, 5, 0.5))
        await opened.run(reserve(second))
        await opened.run(settle(second, Used(200, 4, 5, 0.5)))
        one, other = (dict(row) for row in await opened.read("SELECT * FROM requests ORDER BY id"))
        assert one | {"id": "second"} == other and (one["cost_nano"], one["status"]) == (14_000, 200)
        (windows, metered) = [
            [dict(row) for row in await opened.read(f"SELECT * FROM {table}")] for table in ("windows", "meter")
        ]
        assert [(row["requests"], row["tokens"], row["cost_nano"]) for row in windows] == [(2, 18, 28_000)] * 2
        assert [(row["requests"], row["prompt_tokens"], row["cost_nano"]) for row in metered] == [(2, 8, 28_000)]
        await opened.close()

    asyncio.run(work())


def test_what_is_old_is_removed(database: str) -> None:
    key_id, _ = make_key(database, quotas={"requests_per_minute": 9})

    async def work() -> list[int]:
        opened = database_at(database)
        await opened.open()
        for name, at in (("old", START - 40 * DAY), ("new", START)):
            entry = Entry(name, "r", key_id, at, "chat", "m", "/")
            await opened.run(reserve(entry))
            await opened.run(settle(entry, Used(200, 1, 1, 0.1)))
        await opened.run(prune(START, 30))
        counts = []
        for table in ("requests", "windows", "meter"):
            counts.append(len(await opened.read(f"SELECT 1 FROM {table}")))
        await opened.close()
        return counts

    assert asyncio.run(work()) == [1, 3, 2]  # of windows two days, and one minute


@pytest.mark.parametrize(
    ("path", "asked", "most"),
    [
        ("/v1/completions", {"prompt": [1, 2, 3]}, (3, 16)),
        ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": None}, (3, 100)),
        ("/v1/completions", {"prompt": [[1, 2], [3]], "n": 3, "max_tokens": 7}, (3, 42)),
        ("/v1/completions", {"prompt": [1], "n": 2, "best_of": 5, "max_tokens": 7}, (1, 35)),
        ("/v1/completions", {"prompt": [1], "max_tokens": -7}, (1, 100)),
        ("/v1/completions", {"prompt": [1], "max_tokens": 10**30}, (1, 100)),
        ("/v1/completions", {"prompt": "x" * 50, "max_tokens": 7}, (100, 7)),
        ("/v1/chat/completions", {"messages": [{}]}, (100, 100)),
        ("/v1/chat/completions", {"messages": [{}], "max_tokens": 3, "max_completion_tokens": 9}, (100, 9)),
        ("/v1/responses", {"input": "x", "max_output_tokens": 5}, (100, 5)),
        ("/tokenize", {"prompt": "x"}, (0, 0)),
    ],
)
def test_the_most_that_a_request_may_use(path: str, asked: dict[str, Any], most: tuple[int, int]) -> None:
    assert bounds(path, asked, 150, 100) == most


def test_without_a_known_context_the_bytes_are_the_bound() -> None:
    assert bounds("/v1/chat/completions", {"messages": [{}]}, 150, 0) == (150 + 2 * 64, 16)


@given(st.lists(st.integers(1, 40), max_size=30), st.booleans())
def test_a_stream_may_come_in_any_pieces(cuts: list[int], asks: bool) -> None:
    """Also where an event or its usage is cut in two; what looks like usage in a text is text."""
    words = ['a "usage":{"x":1}', ',"usage":{"prompt_tokens":9}', "data: {", "é\n\n"]
    usage = {"prompt_tokens": 3, "total_tokens": 9}
    events = [
        {"choices": [{"index": n % 2, "text": word}], "usage": usage | {"completion_tokens": n // 2 + 1}}
        for n, word in enumerate(words)
    ]
    events.append({"choices": [], "usage": usage | {"completion_tokens": 4, "details": {"cached": 1}}})
    whole = "".join(f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events) + "data: [DONE]\n\n"
    left, pieces = whole.encode(), []
    for cut in cuts:
        pieces.append(left[:cut])
        left = left[cut:]
    answer = Answer("/v1/completions", {"n": 2, "stream_options": {"include_usage": asks}})
    answer.begin({"status": 200, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
    passed = b"".join(answer.take(piece, True) for piece in pieces) + answer.take(left, False)
    found = [json.loads(event[6:]) for event in passed.decode().split("\n\n") if event.startswith("data: {")]
    assert [event["choices"][0]["text"] for event in found if event["choices"]] == words
    assert all(("usage" in event) == (not event["choices"]) for event in found)
    assert len(found) == 4 + asks and passed.endswith(b"data: [DONE]\n\n")
    assert answer.tokens() == (3, 4) and answer.ended
    cut = Answer("/v1/completions", {"n": 2})
    cut.begin({"status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for event in events[:3]:
        cut.take(f"data: {json.dumps(event, separators=(',', ':'))}\n\n".encode(), True)
    assert cut.tokens() == (3, 3) and not cut.ended  # two of the one answer, one of the other


def test_a_stream_is_asked_for_its_usage_and_else_left_as_it_is() -> None:
    body = b'{"prompt": "\\ud83d\\ude00", "x": 1e400, "stream": true}\n '
    asked = json.loads(body)
    changed = json.loads(with_usage("/v1/completions", asked, body))
    assert changed == asked | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    assert with_usage("/v1/completions", asked, body).startswith(body.rstrip()[:-1])
    for path, other in (("/v1/completions", {}), ("/v1/responses", asked), ("/tokenize", asked)):
        assert with_usage(path, other, b"{}") == b"{}"
    assert with_usage("/v1/completions", asked | {"stream_options": "no"}, b"{}") == b"{}"  # the application refuses it


def test_costs_are_rounded_up_to_billionths() -> None:
    assert Prices(0.15, 0.6).cost_nano(1000, 1000) == 750_000
    assert Prices(0.0375, 0.0).cost_nano(1, 0) == 38
    assert Prices().cost_nano(10**6, 10**6) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"database": "mysql://h/x"}, "neither a file nor postgresql"),
        ({"database": "postgresql://a:b@h/x"}, "a password does not belong there"),
        ({"webhook": "ftp://h"}, "webhook"),
        ({"origins": ("https://a/b",)}, "no origin"),
        ({"tls_key": "x"}, "go together"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Access(**changes).check()
