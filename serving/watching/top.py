"""What endpoints do just now, read from their /metrics again and again: `ctl serve top`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import requests

from cluster.core.errors import NotReadyError
from serving.watching.scrape import Scrape, Since, read

ANSWER_SECONDS = 10.0
CERTIFICATE = "Name its certificate's file in REQUESTS_CA_BUNDLE and SSL_CERT_FILE."
FORGOTTEN_SECONDS = 60.0  # a replica that was not met for so long is gone
TTFT = "vllm:time_to_first_token_seconds"
TPOT = "vllm:request_time_per_output_token_seconds"
WHOLE = "vllm:e2e_request_latency_seconds"


class Figures(msgspec.Struct, kw_only=True):
    """One endpoint. Rates are those since the look before, None at the first; percentiles (seconds) are of that time,
    or at the first look since the replicas began. None is what nothing tells, such as vLLM's figures of an endpoint
    over transformers."""

    url: str
    artifacts: list[str]
    replicas: int
    running: float
    waiting: float | None
    requests_per_second: float | None
    tokens_per_second: float | None
    ttft_p50: float | None
    ttft_p95: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    tpot_p95: float | None
    tpot_p99: float | None
    latency_p95: float | None
    cache_hits: float | None
    """Share of prompt tokens found in the prefix cache."""
    kv_cache: float | None
    """Share of the KV cache in use, of the fullest replica."""
    busy_429: float
    """Requests refused with 429."""
    failed_5xx: float


class Watched:
    """One endpoint, by the address that clients use. `ask` fetches a text from a URL."""

    def __init__(self, url: str, ask: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        base = url.rstrip("/").removesuffix("/v1")
        self.url, self._ask, self._clock = f"{base}/metrics", ask, clock
        self._last: dict[str, Scrape] = {}

    def look(self) -> Figures:
        """Read the figures. A request goes to any replica: one more is sent than replicas are known."""
        times = len(self._last) + 1
        with ThreadPoolExecutor(times) as pool:
            texts = list(pool.map(self._ask, [self.url] * times))
        now = self._clock()
        try:
            found = {scrape.replica: scrape for scrape in (read(text, now) for text in texts)}
        except ValueError as error:
            raise NotReadyError(f"{self.url} answers with no metrics: {error}", "Is it an endpoint?") from None
        since = Since([(self._last.get(replica), scrape) for replica, scrape in found.items()])
        for replica, scrape in self._last.items():
            if replica not in found and now - scrape.at_seconds < FORGOTTEN_SECONDS:
                since.pairs.append((scrape, scrape))
                found[replica] = scrape
        self._last = found
        return figures(self.url.removesuffix("/metrics"), since)


def figures(url: str, since: Since) -> Figures:
    """What the scrapes of an endpoint tell."""
    vllm = since.known("vllm:num_requests_running")
    asked = since.grown("vllm:prefix_cache_queries_total")
    quantiles = {
        f"{name}_p{percent}": since.quantile(metric, percent / 100)
        for name, metric in (("ttft", TTFT), ("tpot", TPOT))
        for percent in (50, 95, 99)
    }
    answers = {"path": "/v1/*"}
    whole = (WHOLE, {}) if vllm else ("trunkline_request_seconds", answers)
    return Figures(
        url=url,
        artifacts=sorted({a for _, scrape in since.pairs for a in scrape.labels("trunkline_artifact", "artifact")}),
        replicas=len(since.pairs),
        running=since.now("vllm:num_requests_running" if vllm else "trunkline_requests_open"),
        waiting=since.now("vllm:num_requests_waiting") if vllm else None,
        requests_per_second=since.a_second("trunkline_requests_total", **answers),
        tokens_per_second=since.a_second("vllm:generation_tokens_total") if vllm else None,
        **quantiles,
        latency_p95=since.quantile(whole[0], 0.95, **whole[1]),
        cache_hits=since.grown("vllm:prefix_cache_hits_total") / asked if asked else None,
        kv_cache=max((s.total("vllm:kv_cache_usage_perc") for _, s in since.pairs), default=0.0) if vllm else None,
        busy_429=since.grown("trunkline_requests_total", status="429"),
        failed_5xx=since.grown("trunkline_requests_total", status="5*"),
    )


def ask(key: str) -> Callable[[str], str]:
    """What fetches a text with a key, if there is one. Raises NotReadyError where it does not come."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(url: str) -> str:
        try:  # each on a connection of its own, so that it may come to another replica
            reply = requests.get(url, headers=headers | {"Connection": "close"}, timeout=ANSWER_SECONDS)
        except requests.exceptions.SSLError as error:
            raise NotReadyError(f"{url}: {error}", CERTIFICATE) from None
        except requests.RequestException:
            raise NotReadyError(f"no endpoint answers at {url}", "Start one with `ctl serve up`.") from None
        if reply.status_code in (401, 403):
            remedy = "Make one: `ctl serve keys create NAME --scope metrics`; give it as --key-file or OPENAI_API_KEY."
            raise NotReadyError(f"{url} asks for a key of the scope metrics", remedy)
        if reply.status_code != 200:
            raise NotReadyError(f"{url} answers {reply.status_code}", "Is it an endpoint of `ctl serve up`?")
        return reply.text

    return get


# What is told of an endpoint, by its name.
ROWS: dict[str, Callable[[Figures], str]] = {
    "artifact": lambda found: ", ".join(found.artifacts) or "-",
    "replicas": lambda found: str(found.replicas),
    "requests running": lambda found: _number(found.running),
    "requests waiting": lambda found: _number(found.waiting),
    "requests a second": lambda found: _number(found.requests_per_second, 1),
    "tokens a second": lambda found: _number(found.tokens_per_second, 1),
    "TTFT p50 / p95 / p99, ms": lambda found: _three(found.ttft_p50, found.ttft_p95, found.ttft_p99),
    "TPOT p50 / p95 / p99, ms": lambda found: _three(found.tpot_p50, found.tpot_p95, found.tpot_p99),
    "whole answer p95, s": lambda found: _number(found.latency_p95, 2),
    "cache hits": lambda found: _share(found.cache_hits),
    "KV cache in use": lambda found: _share(found.kv_cache),
    "refused, 429": lambda found: _number(found.busy_429),
    "failed, 5xx": lambda found: _number(found.failed_5xx),
}


def headings(found: list[Figures]) -> list[str]:
    """Those of the table: a column for each endpoint."""
    return ["", *(each.url for each in found)]


def rows(found: list[Figures]) -> list[list[str]]:
    """The table's rows."""
    return [[name, *(told(each) for each in found)] for name, told in ROWS.items()]


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _three(*seconds: float | None) -> str:
    return "-" if None in seconds else " / ".join(_number(1000 * second) for second in seconds if second is not None)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def plain(found: list[Figures]) -> Any:
    return msgspec.to_builtins(found)
