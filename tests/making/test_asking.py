"""Asking an endpoint: what is asked again and what is not, limits, costs, and going on after a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from cluster.core.context import Context
from cluster.core.errors import JobError, NotReadyError, SpecError
from cluster.core.retry_after import retry_after
from cluster.core.signals import Terminated
from cluster.core.storage.location import Location
from cluster.core.storage.stopping import Stopped
from pipelines.specs import ChatEndpoint, ScalingSpec, SyntheticSpec
from pipelines.stages.generation import asking, limits
from pipelines.stages.generation.asking import ASKED_FILE, Answer, Asker, Request
from pipelines.stages.generation.limits import Pace
from tests.making.endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, Reply, Server, last, serving


def asker(
    server: Server, folder: Path, *, seed: int = 0, endpoint: ChatEndpoint | None = None, **scaling: Any
) -> Asker:
    where = Location(folder)
    ctx: Context[Any] = Context(SyntheticSpec(), {}, where, ScalingSpec(**scaling), "x", "f" * 64)
    return Asker(ctx, endpoint or server.endpoint(), seed)


def requests(number: int) -> list[Request]:
    return [Request(str(n), [{"role": "user", "content": f"question {n}"}]) for n in range(number)]


def echo(body: dict[str, Any], number: int) -> Reply:
    return Reply(f"to {last(body)}")


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ASKED_FILE).read_text().splitlines()]


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.02)


def test_answers_come_in_order_with_their_origin(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def pair(body: dict[str, Any], number: int) -> Reply:
        if last(body) in ("question 0", "question 1"):
            together.wait(60)
        return echo(body, number)

    with serving(pair) as server:
        found = asker(server, tmp_path, seed=3, endpoint=server.endpoint(temperature=0.5)).ask(requests(20))
    assert [answer.text for answer in found] == [f"to question {n}" for n in range(20)]
    assert 1 < server.most_at_once <= 8
    assert {(body["temperature"], body["max_tokens"]) for body in server.asked} == {(0.5, 20)}
    lines = {line["id"]: line for line in written(tmp_path)}
    assert len(lines) == 20
    for body in server.asked:
        line = lines[last(body).split()[1]]
        assert line["messages"] == body["messages"] and line["seed"] == body["seed"]
        assert (line["model"], line["text"]) == ("writer-2", f"to {last(body)}")
    assert len({line["seed"] for line in lines.values()}) == 20


def test_what_is_asked_is_the_spec_s(tmp_path: Path) -> None:
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    with serving(echo) as server:
        newer = server.endpoint(limit_field="max_completion_tokens", top_p=0.5, temperature=0.25, body=body)
        asker(server, tmp_path, endpoint=newer).ask(requests(1))
    (asked,) = server.asked
    assert asked.pop("messages") and asked.pop("seed") is not None
    assert asked == {"model": "writer", "max_completion_tokens": 20, "top_p": 0.5, "temperature": 0.25, **body}


def test_seeds_follow_from_the_spec_s(tmp_path: Path) -> None:
    with serving(echo) as server:
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            asker(server, tmp_path / name, seed=seed).ask(requests(3))
    seeds = [sorted(line["seed"] for line in written(tmp_path / name)) for name in "abc"]
    assert seeds[0] == seeds[1] != seeds[2]


TROUBLE = {
    "busy": Reply(status=429, body={"error": {"message": "slow down"}}, headers={"retry-after-ms": "20"}),
    "broken": Reply(status=500, body=b"oops"),
    "gateway": Reply(status=502, body=b"<html>Bad gateway</html>", headers={"Content-Type": "text/html"}),
    "hangs": Reply(hang_seconds=1.5),
    "cut": Reply(cut=True),
    "no JSON": Reply(body=b"{broken"),
    "page": Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    "no choices": Reply(body={"error": {"message": "upstream"}}),
    "not an object": Reply(body=[1]),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_passes_is_asked_again(trouble: str, tmp_path: Path) -> None:
    tried: Counter[str] = Counter()

    def behave(body: dict[str, Any], number: int) -> Reply:
        tried[last(body)] += 1
        return TROUBLE[trouble] if tried[last(body)] == 1 else echo(body, number)

    with serving(behave) as server:
        found = asker(server, tmp_path, request_timeout_seconds=0.5 if trouble == "hangs" else 30).ask(requests(3))
    assert [answer.text for answer in found] == [f"to question {n}" for n in range(3)]
    assert set(tried.values()) == {2}
    assert len(written(tmp_path)) == 3


@pytest.mark.heavy
def test_a_pause_is_kept_by_all(tmp_path: Path) -> None:
    """The first request's Retry-After holds back those that follow, too."""

    def behave(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=429, headers={"Retry-After": "1"}) if number == 1 else echo(body, number)

    with serving(behave) as server:
        asker(server, tmp_path, endpoint_requests=1).ask(requests(3))
    assert len(server.asked) == 4
    assert server.times[1] - server.times[0] >= 0.95


def test_pauses_as_seconds_and_as_dates() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "250", "retry-after": "7"}) == 0.25
    assert 8 < retry_after({"retry-after": formatdate(time.time() + 10, usegmt=True)}) <= 10
    assert [retry_after({"retry-after": value}) for value in ("-3", "nan", "soon", "")] == [0, 0, 0, 0]
    assert retry_after({"retry-after": "inf"}) == 3600


def test_an_endpoint_that_is_gone_keeps_what_was_answered(tmp_path: Path) -> None:
    down = True

    def behave(body: dict[str, Any], number: int) -> Reply:
        return (
            Reply(status=503, body={"error": {"message": "no replica"}}) if down and number > 2 else echo(body, number)
        )

    with serving(behave) as server:
        with pytest.raises(JobError, match=r"503: no replica, 3 times.*2 answers are kept"):
            asker(server, tmp_path, endpoint_requests=1, request_attempts=3).ask(requests(5))
        down = False
        before = len(server.asked)
        found = asker(server, tmp_path).ask(requests(5))
    assert [answer.text for answer in found] == [f"to question {n}" for n in range(5)]
    assert sorted(map(last, server.asked[before:])) == [f"question {n}" for n in (2, 3, 4)]


def test_one_request_that_is_never_answered_is_its_own_end(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.01)
        return Reply(status=500) if last(body) == "question 1" else echo(body, number)

    with serving(behave) as server:
        found = asker(server, tmp_path, endpoint_requests=2, request_attempts=3).ask(requests(12))
    assert found[1].refused.startswith("unanswered: 500") and not found[1].text
    assert all(answer.text for answer in found[:1] + found[2:])


def test_nobody_there(tmp_path: Path) -> None:
    with serving(echo) as server:
        pass
    with pytest.raises(NotReadyError, match=r"no connection .* 3 times.*ctl serve up"):
        asker(server, tmp_path).ask(requests(2))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=401, body={"error": {"message": "Incorrect API key provided: sk-secret"}}), "Incorrect API key"),
        (Reply(status=404, body={"error": {"message": "The model `writer` does not exist"}}), "does not exist"),
        (
            Reply(status=429, body={"error": {"message": "quota", "code": "insufficient_quota"}}),
            "account behind the key",
        ),
    ],
)
def test_what_no_waiting_mends(
    reply: Reply, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WRITERS_KEY", "sk-secret")
    with serving(lambda body, number: reply) as server, pytest.raises(NotReadyError, match=said) as raised:
        asker(server, tmp_path, endpoint_requests=1, endpoint=server.endpoint(api_key_env="WRITERS_KEY")).ask(
            requests(3)
        )
    assert len(server.asked) == 1 and server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in str(raised.value) + (tmp_path / ASKED_FILE).read_text() + "".join(capfd.readouterr())


def test_a_key_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WRITERS_KEY", raising=False)
    with serving(echo) as server, pytest.raises(NotReadyError, match="WRITERS_KEY is not set"):
        asker(server, tmp_path, endpoint=server.endpoint(api_key_env="WRITERS_KEY"))


def test_refusals_are_the_requests_own(tmp_path: Path) -> None:
    def behave(body: dict[str, Any], number: int) -> Reply:
        if last(body) == "question 0":
            return Reply(status=400, body={"error": {"message": "content policy"}})
        if last(body) == "question 1":
            return Reply(text=None, finish_reason="content_filter")
        return echo(body, number)

    with serving(behave) as server:
        first = asker(server, tmp_path)
        found = first.ask(requests(4))
        assert asker(server, tmp_path).ask(requests(4)) == [_without_prompt(answer) for answer in found]
    assert [answer.refused for answer in found] == ["400: content policy", "no text: content_filter", "", ""]
    assert len(server.asked) == 4
    assert first.totals() == {"requests": 4, "refused": 2, "input_tokens": 30, "output_tokens": 15, "cost": 0}


def _without_prompt(answer: Answer) -> Answer:
    assert answer.messages == []
    return answer


@pytest.mark.parametrize("number", [3, 50])
def test_nothing_but_refusals_is_no_matter_of_the_requests(number: int, tmp_path: Path) -> None:
    refuse = True

    def behave(body: dict[str, Any], number: int) -> Reply:
        return Reply(status=400, body={"error": {"message": "no chat template"}}) if refuse else echo(body, number)

    with serving(behave) as server:
        with pytest.raises(JobError, match=f"refused the first {min(number, 8)} requests: 400: no chat template"):
            asker(server, tmp_path).ask(requests(number))
        assert len(server.asked) < 20 and not written(tmp_path)
        refuse = False
        assert all(answer.text for answer in asker(server, tmp_path).ask(requests(number)))


def test_a_cap_on_the_cost_is_never_passed(tmp_path: Path) -> None:
    """A request is sent only while what it may cost at most is left. What it does cost is by the tokens told."""
    prices = {"price_per_million_input_tokens": 1000.0, "price_per_million_output_tokens": 2000.0}
    each = (PROMPT_TOKENS * 1000 + COMPLETION_TOKENS * 2000) / 1e6
    at_most = ((len("question 0") + asking.TEMPLATE_TOKENS) * 1000 + 20 * 2000) / 1e6
    cap = 10 * each
    with serving(echo) as server:
        with pytest.raises(JobError, match=r"scaling.max_cost \(0.2\).*raise it and run the same command again"):
            asker(server, tmp_path, max_cost=cap, **prices).ask(requests(30))
        done = len(written(tmp_path))
        assert done == len(server.asked) == int((cap - at_most) / each + 1e-9) + 1
        more = asker(server, tmp_path, max_cost=100.0, **prices)
        assert len(more.ask(requests(30))) == 30
        assert len(server.asked) == 30
        assert more.cost() == pytest.approx(30 * each)
    with pytest.raises(SpecError, match="without prices"):
        ScalingSpec(max_cost=1.0).check()


@pytest.mark.heavy
def test_rates_are_kept(tmp_path: Path) -> None:
    with serving(echo) as server:
        asker(server, tmp_path, requests_per_minute=1200).ask(requests(11))
    assert server.times[-1] - server.times[0] >= 10 * 60 / 1200 * 0.7  # as they arrive; without a limit at once
    with serving(echo) as server:  # 15 tokens are used by each
        asker(server, tmp_path / "tokens", tokens_per_minute=1800, endpoint_requests=1).ask(requests(3))
    assert server.times[-1] - server.times[0] >= 2 * 15 * 60 / 1800 * 0.95


def test_a_pace_counts_what_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 a second; 20 are taken, of which 5 are used; time stands still but where it waits."""
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(limits.asyncio, "sleep", sleep)

    async def take() -> list[float]:
        pace, begun = Pace(600), []
        for _ in range(3):
            await pace.take(20)
            begun.append(now - 100)
            pace.correct(5 - 20)
        return begun

    assert asyncio.run(take()) == pytest.approx([0, 0.5, 1.0])


@pytest.mark.parametrize("raised", [Terminated, Stopped])
def test_a_killed_run_asks_nothing_twice(
    raised: type[BaseException], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A signal, or the loss of the lease, comes while the fourth answer is waited for."""

    def stop(*_: Any) -> None:
        raise raised

    def behave(body: dict[str, Any], number: int) -> Reply:
        if number != 4:
            return echo(body, number)
        os.kill(os.getpid(), signal.SIGUSR1)
        return Reply(hang_seconds=2)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with serving(behave) as server:
            with pytest.raises(raised):
                asker(server, tmp_path, endpoint_requests=1).ask(requests(6))
            with (tmp_path / ASKED_FILE).open("a") as file:
                file.write('{"key": "cut off in wri')
            found = asker(server, tmp_path, endpoint_requests=1).ask(requests(6))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [answer.text for answer in found] == [f"to question {n}" for n in range(6)]
    assert Counter(map(last, server.asked)) == {**{f"question {n}": 1 for n in range(6)}, "question 3": 2}
    assert [line["id"] for line in written(tmp_path)] == [str(n) for n in range(6)]
    assert not caplog.records


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "localhost:8000"}, "is no address"),
        ({"url": "http://me:secret@host/v1"}, "no secret"),
        ({"model": ""}, r"synthetic.endpoint.model: is empty"),
        ({"body": {"stream": True}}, "stream is not yours"),
    ],
)
def test_bad_endpoints_are_told_before_anything(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        SyntheticSpec(endpoint=ChatEndpoint(**{"model": "x", **fields})).check()
