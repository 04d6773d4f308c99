"""Figures of a load test, out of its samples: percentiles, throughput, goodput, and whether the client kept up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from pipelines.stages.load.client import Sample
from pipelines.stages.load.driver import Driven

LATE_SECONDS, LATE_FRACTION = 0.01, 0.1  # the client was late where its p99 is above both, the latter of median latency
BUSY_SHARE = 0.9  # of a core: an asynchronous client has no more


class Summary(msgspec.Struct, frozen=True):
    """A distribution in seconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    most: float


class ClientFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the client itself did."""

    lateness: Summary | None
    """From when a request should have been sent until it was."""
    loop_lag_p99: float
    """What a piece may have waited in this process, seconds."""
    cpu_share: float
    """Of one core."""
    bottleneck: str = ""
    """Why the client, and not the endpoint, may have been measured; or nothing."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies are of requests that were answered, in seconds from when they should have been sent."""

    requests: int
    answered: int
    failed: dict[str, int]
    """Of each status or other end, how many."""
    duration_seconds: float
    """From the first request's time to the last one's end."""
    requests_per_second: float
    output_tokens_per_second: float
    total_tokens_per_second: float
    prompt_tokens: int
    output_tokens: int
    ttft: Summary | None
    tpot: Summary | None
    itl: Summary | None
    """Between two pieces of an answer."""
    e2e: Summary | None
    slo: dict[str, float]
    good: int | None
    """Answered requests within every objective; None without one."""
    goodput_per_second: float | None
    artifacts: dict[str, int]
    """Answers by the artifact that gave them."""
    client: ClientFigures


def percentile(values: Sequence[float], percent: float) -> float:
    """Of sorted values, linear between the two nearest (numpy's default)."""
    place = (len(values) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def summary(values: Sequence[float]) -> Summary | None:
    """None of no values."""
    if not values:
        return None
    found = sorted(values)
    mean = math.fsum(found) / len(found)
    return Summary(len(found), mean, percentile(found, 50), percentile(found, 95), percentile(found, 99), found[-1])


def is_good(sample: Sample, slo: Mapping[str, float]) -> bool:
    """Whether an answer meets every objective. One of a single token has a TPOT of 0, as in `vllm bench serve`."""
    took = {"ttft": sample.ttft, "tpot": sample.tpot or 0.0, "e2e": sample.e2e}
    return not sample.failed and all((value := took[name]) is not None and value <= most for name, most in slo.items())


def figures(driven: Driven, slo: Mapping[str, float]) -> Figures:
    """Of at least one sample."""
    samples = driven.samples
    answered = [sample for sample in samples if not sample.failed]
    duration = max(sample.ended for sample in samples) - min(sample.intended for sample in samples)
    prompt, output = sum(s.prompt_tokens for s in answered), sum(s.output_tokens for s in answered)
    good = sum(is_good(sample, slo) for sample in samples) if slo else None
    e2e = summary([sample.e2e for sample in answered])
    return Figures(
        requests=len(samples),
        answered=len(answered),
        failed=dict(sorted(Counter(sample.failed for sample in samples if sample.failed).items())),
        duration_seconds=duration,
        requests_per_second=len(answered) / duration,
        output_tokens_per_second=output / duration,
        total_tokens_per_second=(prompt + output) / duration,
        prompt_tokens=prompt,
        output_tokens=output,
        ttft=summary([sample.ttft for sample in answered if sample.ttft is not None]),
        tpot=summary([sample.tpot for sample in answered if sample.tpot is not None]),
        itl=summary([gap for sample in answered for gap in sample.gaps]),
        e2e=e2e,
        slo=dict(slo),
        good=good,
        goodput_per_second=None if good is None else good / duration,
        artifacts=dict(Counter(sample.artifact for sample in answered if sample.artifact)),
        client=_client(driven, e2e),
    )


def _client(driven: Driven, e2e: Summary | None) -> ClientFigures:
    lateness = summary([sample.lateness for sample in driven.samples])
    lag = summary(driven.loop_lags)
    worst = max(lateness.p99 if lateness else 0.0, lag.p99 if lag else 0.0)
    reasons = []
    if driven.cpu_share > BUSY_SHARE:
        reasons.append(f"it used {driven.cpu_share:.0%} of a core")
    if worst > max(LATE_SECONDS, LATE_FRACTION * (e2e.p50 if e2e else 0.0)):
        reasons.append(f"it was {1000 * worst:.0f} ms late (p99)")
    return ClientFigures(
        lateness=lateness,
        loop_lag_p99=lag.p99 if lag else 0.0,
        cpu_share=driven.cpu_share,
        bottleneck=" and ".join(reasons),
    )
