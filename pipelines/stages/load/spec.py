"""Spec of a load test. It measures what runs at an address: an event, which the field `run` tells from others."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import WRITERS

SLO_NAMES = ("ttft", "tpot", "e2e")
NUMBER = r"[0-9]+(?:\.[0-9]+)?"
LENGTHS = re.compile(rf"(?P<least>[0-9]+)(?:\.\.(?P<most>[0-9]+))?|lognormal:(?P<median>{NUMBER}),(?P<sigma>{NUMBER})")


class Lengths(msgspec.Struct, frozen=True):
    """A distribution of lengths in tokens: from `least` to `most` alike, or lognormal."""

    least: int = 1
    most: int = 1
    median: float = 0.0
    sigma: float = 0.0


def read_lengths(text: str, where: str) -> Lengths:
    """`128`, `64..256` or `lognormal:128,0.6` (median, and deviation of the logarithm). Raises SpecError."""
    found = LENGTHS.fullmatch(text)
    if found and found["median"]:
        lengths = Lengths(median=float(found["median"]), sigma=float(found["sigma"]))
        good = lengths.median >= 1 and lengths.sigma <= 5
    elif found:
        lengths = Lengths(int(found["least"]), int(found["most"] or found["least"]))
        good = 1 <= lengths.least <= lengths.most
    if not found or not good:
        raise SpecError(f"{where}: {text!r} is no length", "Write 128, 64..256 or lognormal:MEDIAN,SIGMA.")
    return lengths


class LoadSpec(Spec, frozen=True):
    """How an endpoint bears load: latencies, throughput and goodput at a rate, or with so many clients."""

    kind: ClassVar[str] = "load"
    stage: ClassVar[str] = "pipelines.stages.load.stage:build"
    inputs: ClassVar[dict[str, str]] = {"model": WRITERS}
    optional_inputs: ClassVar[tuple[str, ...]] = ("model",)
    measured_inputs: ClassVar[tuple[str, ...]] = ("model",)

    url: str = "http://127.0.0.1:8000/v1"
    """Its base URL. A key is taken from OPENAI_API_KEY where the test runs."""
    model: str = ""
    """Name of the model there; empty takes the first that it lists."""
    api: Literal["completions", "chat"] = "completions"
    """Which of OpenAI's APIs is asked."""
    requests: Annotated[int, Meta(ge=1)] = 100
    """How many; of a replayed file at most so many."""
    rate: Annotated[float, Meta(ge=0)] = 0.0
    """Requests a second, sent whether or not those before are answered (open loop); 0: `concurrency` clients, each of
    which waits for its answer (closed loop)."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """How they arrive at a rate: independently of one another, or evenly."""
    concurrency: Annotated[int, Meta(ge=1)] = 1
    """Clients of a closed loop."""
    prompt_tokens: str = "128"
    """Length of prompts: `128`, `64..256`, or `lognormal:MEDIAN,SIGMA`."""
    output_tokens: str = "64"
    """Length of answers, likewise."""
    prefix_tokens: Annotated[int, Meta(ge=0)] = 0
    """Tokens more at the beginning of each prompt, the same in all: what a prefix cache can find."""
    prompts: File = ""
    """File of prompts, asked in order and from the beginning again: JSON lines of `prompt`, `messages` or a `body`, or
    a text with a prompt in each line."""
    replay: File = ""
    """File of requests to repeat at their times, such as `ctl serve keys log --json` prints: `asked_at` (seconds), and
    `body`, or `prompt_tokens` and `completion_tokens`."""
    speed: Annotated[float, Meta(gt=0)] = 1.0
    """How many times faster than it was a file is replayed."""
    stream: bool = True
    """Whether answers are streamed; without it there is no TTFT."""
    ignore_eos: bool = True
    """Answers have exactly the wanted length (a field of vLLM's)."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """0 answers greedily."""
    warmup: Annotated[int, Meta(ge=0)] = 4
    """Requests before those that are measured."""
    slo: dict[str, Annotated[float, Meta(gt=0)]] = {}
    """The most that a good request takes, in seconds: `ttft`, `tpot`, `e2e`."""
    timeout_seconds: Annotated[float, Meta(gt=0)] = 600.0
    """A request that takes longer has failed."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of arrivals, lengths and prompts."""
    run: str = ""
    """Name of this measurement: what has been measured under one is not measured again. `ctl bench serve` takes the
    time."""

    def check(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"load.url: {self.url!r} is no address", "Write it as http://HOST:PORT/v1.")
        if "@" in parts.netloc or parts.query:
            raise SpecError("load.url: what stands in a spec is no secret, and this may hold one", "Give the address.")
        for name in ("prompt_tokens", "output_tokens"):
            read_lengths(getattr(self, name), f"load.{name}")
        if unknown := sorted(self.slo.keys() - set(SLO_NAMES)):
            raise SpecError(f"load.slo: {unknown[0]!r} is not measured", f"Known: {', '.join(SLO_NAMES)}.")
        if not self.stream and self.slo.keys() & {"ttft", "tpot"}:
            raise SpecError("load.slo: ttft and tpot are of streams", "Set load.stream, or give e2e alone.")
        if self.replay and (self.prompts or self.rate):
            raise SpecError("load.replay: the file says what is asked and when", "Leave out prompts and rate.")


def read_slo(text: str) -> dict[str, float]:
    """`ttft=200ms,tpot=50ms,e2e=2s` in seconds. Raises SpecError."""
    found = {}
    for part in text.split(","):
        matched = re.fullmatch(rf"\s*({'|'.join(SLO_NAMES)})=({NUMBER})(ms|s)\s*", part)
        if not matched:
            raise SpecError(f"--slo: {part!r} is no objective", "Write ttft=200ms,tpot=50ms,e2e=2s, or some of these.")
        found[matched[1]] = float(matched[2]) / (1000 if matched[3] == "ms" else 1)
    return found
