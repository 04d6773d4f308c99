"""`ctl serve top`: percentiles out of histograms, rates between two looks, and the command as it is typed."""

from __future__ import annotations

import bisect
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pexpect
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cluster.core.errors import NotReadyError
from serving.watching import dashboard
from serving.watching.scrape import quantile
from serving.watching.top import Watched
from tests.cli.command import CTL, ctl
from tests.conftest import ROOT
from tests.serving.running import running

BOUNDS = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, math.inf]


def cumulative(values: list[float]) -> list[tuple[float, float]]:
    return [(bound, float(sum(value <= bound for value in values))) for bound in BOUNDS]


@given(st.lists(st.floats(0.001, 4.9), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_in_the_bucket_that_the_true_one_is_in(values: list[float], share: float) -> None:
    true = float(np.quantile(values, share, method="inverted_cdf"))
    place = bisect.bisect_left(BOUNDS, true)
    found = quantile(cumulative(values), share)
    assert found is not None and ([0.0, *BOUNDS][place] <= found <= BOUNDS[place] or math.isclose(found, BOUNDS[place]))


def test_quantiles_at_the_edges() -> None:
    assert quantile([], 0.5) is None
    assert quantile(cumulative([]), 0.5) is None
    assert quantile(cumulative([0.03] * 4), 0.5) == pytest.approx(0.03)  # the middle of its bucket
    assert quantile(cumulative([100.0]), 0.5) == 5.0  # beyond the last bound: that


def exposition(replica: str, ended: int, tokens: int, slow: int, refused: int = 0) -> str:
    chat = f'path="/v1/chat/completions",key="none",replica="{replica}"'
    of = f'replica="{replica}"'
    return f"""# TYPE trunkline_requests_total counter
trunkline_requests_total{{{chat},status="200"}} {ended}
trunkline_requests_total{{{chat},status="429"}} {refused}
trunkline_requests_total{{path="/metrics",key="none",status="200",{of}}} 1000
# TYPE trunkline_artifact gauge
trunkline_artifact{{artifact="sft/mine-0123456789ab",{of}}} 1
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{of}}} 3
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{of}}} 2
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{of}}} {tokens}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{le="0.1",{of}}} {ended}
vllm:time_to_first_token_seconds_bucket{{le="0.5",{of}}} {ended + slow}
vllm:time_to_first_token_seconds_bucket{{le="+Inf",{of}}} {ended + slow}
"""


def test_rates_are_those_since_the_look_before_over_all_replicas() -> None:
    of_b = exposition("b", 9, 250, 0)
    looks = iter(
        [
            [exposition("a", 10, 100, 0)],
            [exposition("a", 20, 300, 0, 4), exposition("b", 5, 50, 0)],
            [exposition("a", 20, 300, 8, 4), of_b, of_b],
        ]
    )
    times = iter([0.0, 2.0, 4.0])
    answers: list[str] = []
    watched = Watched("http://x:1/v1", lambda url: answers.pop(), clock=lambda: next(times))

    def look() -> Any:
        answers.extend(next(looks))
        return watched.look()

    first = look()
    assert first.requests_per_second is None and first.replicas == 1
    assert first.ttft_p50 == pytest.approx(0.05)
    second = look()
    assert second.replicas == 2 and second.running == 6 and second.waiting == 4
    assert second.requests_per_second == 7  # ten ended, four were refused, in two seconds; b is new
    assert second.tokens_per_second == 100 and second.busy_429 == 4
    third = look()
    assert third.requests_per_second == 2 and third.tokens_per_second == 100 and third.busy_429 == 0
    assert third.ttft_p95 is not None and 0.1 < third.ttft_p95 <= 0.5
    assert third.artifacts == ["sft/mine-0123456789ab"]


def test_a_counter_that_fell_began_anew() -> None:
    texts = [exposition("a", 4, 40, 0), exposition("a", 4, 40, 0), exposition("a", 100, 1000, 0)]
    times = iter([0.0, 1.0])
    watched = Watched("http://x:1", lambda url: texts.pop(), clock=lambda: next(times))
    watched.look()
    assert watched.look().tokens_per_second == 40


@pytest.mark.heavy
def test_the_command_as_it_is_typed(tmp_path: Path) -> None:
    keys: list[str] = []

    async def metrics(request: Request) -> Response:
        keys.append(request.headers.get("authorization", ""))
        if keys[-1] != "Bearer right":
            return PlainTextResponse("no", 401)
        return PlainTextResponse(exposition("a", 10, 100, 0))

    (tmp_path / "key").write_text("right\n")
    with running(Starlette(routes=[Route("/metrics", metrics)])) as url:
        asked = ctl("serve", "top", f"{url}/v1", "--once", "--json", "--key-file", tmp_path / "key")
        assert asked.returncode == 0, asked.stderr
        (found,) = json.loads(asked.stdout)
        assert found["running"] == 3 and found["artifacts"] == ["sft/mine-0123456789ab"]
        table = ctl("serve", "top", url, "--once", OPENAI_API_KEY="right").stdout
        assert "TTFT p50 / p95 / p99, ms" in table and "50 / 95 / 99" in table
        screen = pexpect.spawn(
            str(CTL), ["serve", "top", url], encoding="utf-8", env={**os.environ, "OPENAI_API_KEY": "right"}
        )
        screen.expect("TTFT p50", timeout=240)
        screen.sendintr()
        screen.expect(pexpect.EOF, timeout=120)
        screen.close()
        assert screen.exitstatus == 0
        refused = ctl("serve", "top", url, "--once")
        assert refused.returncode == 4 and "asks for a key" in refused.stderr
    gone = ctl("serve", "top", url, "--once")
    assert gone.returncode == 4 and "no endpoint answers" in gone.stderr


def test_what_is_no_exposition_is_refused() -> None:
    with pytest.raises(NotReadyError, match="no metrics"):
        Watched("http://x:1", lambda url: "<html>").look()


def test_the_dashboard_in_the_repository_is_what_the_code_writes() -> None:
    written = (ROOT / "infra" / "grafana" / "endpoints.json").read_text()
    assert written == dashboard.text(), "run `ctl infra dashboard --out infra/grafana/endpoints.json`"
    found = json.loads(written)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in found["panels"]]
    assert len(set(places)) == len(dashboard.PANELS) == len({p["id"] for p in found["panels"]})
    assert all(
        target["expr"].count("(") == target["expr"].count(")") for p in found["panels"] for target in p["targets"]
    )
