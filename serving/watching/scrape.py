"""What /metrics says, read: sums of counters, and percentiles out of histograms as Prometheus takes them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

INFINITE = "+Inf"


@dataclass(frozen=True)
class Scrape:
    """The samples of one replica by their names, and when they were read (seconds, monotonic)."""

    at_seconds: float
    samples: Mapping[str, Sequence[Sample]]
    replica: str = ""

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels; a label may be a beginning, such as `4*`."""
        return sum(sample.value for sample in self.samples.get(name, ()) if _fits(sample.labels, labels))

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """A histogram's cumulative counts by upper bound, those of all other labels together."""
        found: dict[float, float] = defaultdict(float)
        for sample in self.samples.get(f"{name}_bucket", ()):
            if _fits(sample.labels, labels):
                found[_bound(sample.labels["le"])] += sample.value
        return dict(found)

    def labels(self, name: str, label: str) -> list[str]:
        return sorted({sample.labels.get(label, "") for sample in self.samples.get(name, ())} - {""})


def read(text: str, at_seconds: float) -> Scrape:
    """Raises ValueError for a text that is no exposition of metrics."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name].append(sample)
    replicas = {sample.labels.get("replica", "") for found in samples.values() for sample in found}
    return Scrape(at_seconds, dict(samples), max(replicas, default=""))


@dataclass
class Since:
    """What happened between scrapes, over replicas: each with the one before it, or None from its beginning."""

    pairs: list[tuple[Scrape | None, Scrape]] = field(default_factory=list)

    def now(self, name: str, **labels: str) -> float:
        """A gauge, summed over replicas."""
        return sum(scrape.total(name, **labels) for _, scrape in self.pairs)

    def known(self, name: str) -> bool:
        return any(name in scrape.samples for _, scrape in self.pairs)

    def grown(self, name: str, **labels: str) -> float:
        """By how much a counter grew; one that fell began anew."""
        return sum(
            _growth(before.total(name, **labels) if before else 0.0, scrape.total(name, **labels))
            for before, scrape in self.pairs
        )

    def a_second(self, name: str, **labels: str) -> float | None:
        """A counter's growth in a second; None without a scrape before."""
        rates = [
            _growth(before.total(name, **labels), scrape.total(name, **labels))
            / max(scrape.at_seconds - before.at_seconds, 1e-9)
            for before, scrape in self.pairs
            if before
        ]
        return sum(rates) if rates else None

    def quantile(self, name: str, share: float, **labels: str) -> float | None:
        """A histogram's quantile of what was observed meanwhile, in its unit; None where nothing was."""
        counts: dict[float, float] = defaultdict(float)
        for before, scrape in self.pairs:
            earlier = before.buckets(name, **labels) if before else {}
            for bound, count in scrape.buckets(name, **labels).items():
                counts[bound] += _growth(earlier.get(bound, 0.0), count)
        return quantile(sorted(counts.items()), share)


def quantile(buckets: Iterable[tuple[float, float]], share: float) -> float | None:
    """The quantile of a histogram: upper bounds with cumulative counts, in order; linear within a bucket, and the last
    finite bound where it is beyond it (as Prometheus' histogram_quantile). None for an empty one."""
    found = list(buckets)
    total = found[-1][1] if found else 0.0
    if not total:
        return None
    rank, lower, below = share * total, 0.0, 0.0
    for bound, count in found:
        if count >= rank and count > below:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = (lower if math.isinf(bound) else bound), count
    return lower


def _growth(before: float, now: float) -> float:
    return now - before if now >= before else now


def _bound(text: str) -> float:
    return math.inf if text == INFINITE else float(text)


def _fits(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(
        labels.get(name, "").startswith(value[:-1]) if value.endswith("*") else labels.get(name) == value
        for name, value in wanted.items()
    )
