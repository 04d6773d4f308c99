"""What is asked in a load test, and when: all of it drawn from the one seed before the first request is sent."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from cluster.core.errors import InputError
from pipelines.stages.load.spec import Lengths, LoadSpec, read_lengths

PATHS = {"completions": "/completions", "chat": "/chat/completions"}
WORDS = [
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"),
    *("family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system"),
    *("program", "question", "work", "night", "point", "home", "water", "room", "mother", "area", "money", "story"),
    *("fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue", "side", "kind"),
]
REPLAYED_PATHS: dict[str, Literal["completions", "chat"]] = {
    "/v1/completions": "completions",
    "/v1/chat/completions": "chat",
}


@dataclass(frozen=True)
class Planned:
    """A request: its path below the base URL, its body, and when it is to be sent (seconds from the beginning; None:
    when a client is free)."""

    path: str
    body: dict[str, Any]
    at_seconds: float | None = None


@dataclass(frozen=True)
class Target:
    """What is known of an endpoint before it is asked. `token_ids` are some of its vocabulary, where it takes prompts
    of ids; else prompts are words, each `tokens_per_word` tokens or about so."""

    model: str
    vllm: bool = False
    token_ids: Sequence[int] = ()
    tokens_per_word: float = 1.0
    seen: dict[str, Any] = field(default_factory=dict)


def plan(spec: LoadSpec, target: Target) -> tuple[list[Planned], list[Planned]]:
    """Requests to warm up with, and those to measure. Raises InputError for a file that holds none."""
    measured = _replayed(spec, target) if spec.replay else _drawn(spec, target, "measured", spec.requests)
    warm = _drawn(spec, target, "warm-up", spec.warmup)
    if spec.rate:
        times = arrival_times(spec, len(measured))
        measured = [Planned(p.path, p.body, at) for p, at in zip(measured, times, strict=True)]
    return warm, measured


def arrival_times(spec: LoadSpec, count: int) -> list[float]:
    """When requests arrive, in seconds: a Poisson process has independent gaps of exponential length."""
    random_ = _random(spec, "arrivals")
    even = spec.arrivals == "constant"
    gaps = (1 / spec.rate if even else random_.expovariate(spec.rate) for _ in itertools.repeat(None))
    return list(itertools.islice(itertools.accumulate(gaps, initial=0.0), count))


def draw(lengths: Lengths, random_: random.Random) -> int:
    """A length, at least 1."""
    if lengths.median:
        return max(1, round(lengths.median * random_.lognormvariate(0, lengths.sigma)))
    return random_.randint(lengths.least, lengths.most)


def _random(spec: LoadSpec, purpose: str) -> random.Random:
    return random.Random(f"{spec.seed}/{purpose}")


def _drawn(spec: LoadSpec, target: Target, purpose: str, count: int) -> list[Planned]:
    given = itertools.cycle(_prompts(spec.prompts)) if spec.prompts else itertools.repeat({})
    random_ = _random(spec, purpose)
    prompt = read_lengths(spec.prompt_tokens, "load.prompt_tokens")
    output = read_lengths(spec.output_tokens, "load.output_tokens")
    lengths = ((draw(prompt, random_), draw(output, random_)) for _ in range(count))
    return [_planned(spec, target, body, *each, random_) for body, each in zip(given, lengths, strict=False)]


def _planned(
    spec: LoadSpec, target: Target, given: dict[str, Any], prompt: int, output: int, random_: random.Random
) -> Planned:
    """A request of what a file gives, and what it leaves open."""
    body = dict(given)
    api = "chat" if "messages" in body else "completions" if "prompt" in body else spec.api
    if "messages" not in body and "prompt" not in body:
        text = _text(spec, target, prompt, random_, ids=api == "completions")
        body |= {"prompt": text} if api == "completions" else {"messages": [{"role": "user", "content": text}]}
    elif spec.api == "chat" and isinstance(body.get("prompt"), str):
        api, body["messages"] = "chat", [{"role": "user", "content": body.pop("prompt")}]
    if not body.keys() & {"max_tokens", "max_completion_tokens"}:
        body["max_tokens"] = output
        if spec.ignore_eos and target.vllm:
            body["ignore_eos"] = True
    body = {"temperature": spec.temperature, "stream": spec.stream} | body | {"model": target.model}
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    return Planned(PATHS[api], body)


def _text(spec: LoadSpec, target: Target, tokens: int, random_: random.Random, ids: bool) -> str | list[int]:
    """A prompt of so many tokens, behind what is the same in all."""
    common = _random(spec, "prefix")
    if ids and target.token_ids:
        return [*common.choices(target.token_ids, k=spec.prefix_tokens), *random_.choices(target.token_ids, k=tokens)]
    count = [round(n / target.tokens_per_word) for n in (spec.prefix_tokens, tokens)]
    return " ".join([*common.choices(WORDS, k=count[0]), *random_.choices(WORDS, k=max(1, count[1]))])


def _prompts(file: str) -> list[dict[str, Any]]:
    """What a file gives of each request's body."""
    found = []
    for number, line in _lines(Path(file)):
        if not file.endswith((".jsonl", ".json")):
            found.append({"prompt": line})
            continue
        data = _object(line, f"{file}, line {number}")
        body = data.get("body", data)
        taken = {name: body[name] for name in ("messages", "prompt", "max_tokens") if name in body}
        if not taken.keys() & {"messages", "prompt"}:
            raise InputError(f"{file}, line {number}: neither prompt nor messages", "Give one of them in each line.")
        found.append(taken)
    if not found:
        raise InputError(f"{file}: no prompts", "Give at least one.")
    return found


def _replayed(spec: LoadSpec, target: Target) -> list[Planned]:
    """The requests of a log, at their times."""
    rows = []
    for where, row in _rows(Path(spec.replay)):
        if row.get("path", "/v1/completions") not in REPLAYED_PATHS:
            continue  # such as /tokenize, which is no load
        if not isinstance(row.get("asked_at"), (int, float)):
            raise InputError(f"{where}: asked_at is missing, or no number", "Give seconds.")
        rows.append((float(row["asked_at"]), where, row))
    if not rows:
        raise InputError(f"{spec.replay}: no requests for completions or chat", "Give a request log.")
    rows.sort(key=lambda row: row[0])
    random_, first = _random(spec, "measured"), rows[0][0]
    output = read_lengths(spec.output_tokens, "load.output_tokens")
    found = []
    for at, where, row in rows[: spec.requests]:
        given = row.get("body") or {}
        given = _object(given, where) if isinstance(given, str) else given
        api = REPLAYED_PATHS[row.get("path", "/v1/completions")]
        prompt, answer = (int(row.get(f"{name}_tokens") or 0) for name in ("prompt", "completion"))
        if not given and not prompt:
            continue  # refused before it was measured
        planned = _planned(
            replace(spec, api=api, prefix_tokens=0), target, given, prompt, answer or draw(output, random_), random_
        )
        found.append(Planned(planned.path, planned.body, (at - first) / spec.speed))
    return found


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list, or of JSON lines, with where they are."""
    lines = list(_lines(file))
    if lines and lines[0][1].lstrip().startswith("["):
        try:
            data = json.loads("\n".join(line for _, line in lines))
        except ValueError as error:
            raise InputError(f"{file}: no JSON ({error})", "Give what `ctl serve keys log --json` prints.") from None
        yield from ((f"{file}, entry {number}", row) for number, row in enumerate(data, 1))
        return
    for number, line in lines:
        yield f"{file}, line {number}", _object(line, f"{file}, line {number}")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, by their numbers."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}", "Give a text file.") from None
    return ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: no JSON ({error})", "Give an object in each line.") from None
    if not isinstance(data, dict):
        raise InputError(f"{where}: no JSON object", "Give an object in each line.")
    return data
