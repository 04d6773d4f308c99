"""What a load test asks, and when: drawn from the one seed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from pipelines.stages.load.spec import LoadSpec, read_lengths, read_slo
from pipelines.stages.load.workload import Target, arrival_times, draw, plan

VLLM = Target("small", vllm=True, token_ids=range(100, 200), tokens_per_word=2.0)
PLAIN = Target("small")


def test_one_seed_gives_one_plan() -> None:
    spec = LoadSpec(rate=5.0, prompt_tokens="8..64", output_tokens="lognormal:16,0.5", requests=20)
    assert plan(spec, VLLM) == plan(spec, VLLM)
    assert plan(spec, VLLM) != plan(replace(spec, seed=1), VLLM)
    warm, measured = plan(spec, VLLM)
    assert len(warm) == 4 and len(measured) == 20
    assert not any(body in [p.body for p in measured] for body in [p.body for p in warm])


def test_poisson_arrivals_have_exponential_gaps() -> None:
    spec = LoadSpec(rate=50.0)
    times = np.array(arrival_times(spec, 20_001))
    gaps = np.diff(times)
    assert times[0] == 0 and (gaps > 0).all()
    assert abs(gaps.mean() * spec.rate - 1) < 0.03  # four standard errors
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(gaps, share) * spec.rate == pytest.approx(-math.log(1 - share), rel=0.08)
    even = arrival_times(replace(spec, arrivals="constant"), 100)
    assert np.allclose(np.diff(even), 1 / spec.rate)


def test_lengths_are_drawn_as_they_are_written() -> None:
    import random

    random_ = random.Random(0)

    def many(text: str) -> Any:
        return np.array([draw(read_lengths(text, "x"), random_) for _ in range(20_000)])

    assert set(many("7")) == {7}
    uniform = many("3..6")
    assert set(uniform) == {3, 4, 5, 6} and abs(uniform.mean() - 4.5) < 0.05
    lognormal = many("lognormal:100,0.5")
    assert np.median(lognormal) == pytest.approx(100, rel=0.03)
    assert np.log(lognormal).std() == pytest.approx(0.5, rel=0.03)
    assert many("lognormal:1,3").min() == 1


@pytest.mark.parametrize("text", ["", "0", "-3", "9..3", "0..4", "3..", "lognormal:100", "lognormal:0.2,1", "many"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"load\.prompt_tokens"):
        convert({"prompt_tokens": text}, LoadSpec, "load")


def test_a_prompt_has_its_length_in_tokens_of_the_endpoint() -> None:
    spec = LoadSpec(prompt_tokens="10..30", prefix_tokens=5, requests=30)
    prompts = [planned.body["prompt"] for planned in plan(spec, VLLM)[1]]
    assert all(15 <= len(prompt) <= 35 for prompt in prompts)
    assert {tuple(prompt[:5]) for prompt in prompts} == {tuple(prompts[0][:5])}
    assert len({tuple(prompt[5:]) for prompt in prompts}) == 30
    words = [planned.body["prompt"].split() for planned in plan(replace(spec, prompt_tokens="10"), PLAIN)[1]]
    assert {len(prompt) for prompt in words} == {15}
    (planned,) = plan(replace(spec, api="chat", requests=1, prefix_tokens=0, prompt_tokens="20"), VLLM)[1]
    assert planned.path == "/chat/completions" and len(planned.body["messages"][0]["content"].split()) == 10


def test_only_vllm_is_asked_to_write_on() -> None:
    assert plan(LoadSpec(), VLLM)[1][0].body["ignore_eos"] is True
    assert "ignore_eos" not in plan(LoadSpec(), PLAIN)[1][0].body
    assert "stream_options" not in plan(LoadSpec(stream=False), VLLM)[1][0].body


def test_prompts_come_from_a_file(tmp_path: Path) -> None:
    lines = [{"prompt": "one"}, {"messages": [{"role": "user", "content": "two"}], "max_tokens": 3},
             {"custom_id": "3", "body": {"prompt": "three", "model": "other"}}]  # fmt: skip
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = plan(LoadSpec(prompts=str(tmp_path / "x.jsonl"), requests=4, warmup=0), PLAIN)[1]
    assert [p.path for p in asked] == ["/completions", "/chat/completions", "/completions", "/completions"]
    assert [p.body.get("prompt") for p in asked] == ["one", None, "three", "one"]
    assert asked[1].body["max_tokens"] == 3 and asked[0].body["max_tokens"] == 64
    assert {p.body["model"] for p in asked} == {"small"}
    (tmp_path / "x.txt").write_text("first line\n\nsecond line\n")
    plain = plan(LoadSpec(prompts=str(tmp_path / "x.txt"), requests=2, api="chat"), PLAIN)[1]
    assert [p.body["messages"][0]["content"] for p in plain] == ["first line", "second line"]


def test_a_log_is_replayed_at_its_times(tmp_path: Path) -> None:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 7, "top_p": 0.5})
    log = [
        {"asked_at": 1012.0, "path": "/v1/completions", "prompt_tokens": 30, "completion_tokens": 11, "body": None},
        {"asked_at": 1010.0, "path": "/v1/chat/completions", "prompt_tokens": 3, "completion_tokens": 7, "body": body},
        {"asked_at": 1011.0, "path": "/tokenize", "prompt_tokens": 0, "completion_tokens": 0, "body": None},
        {"asked_at": 1013.0, "path": "/v1/completions", "prompt_tokens": 0, "completion_tokens": 0, "body": None},
    ]
    for text in (json.dumps(log, indent=2), "\n".join(map(json.dumps, log))):
        (tmp_path / "log").write_text(text)
        asked = plan(LoadSpec(replay=str(tmp_path / "log"), speed=4.0), VLLM)[1]
        assert [p.at_seconds for p in asked] == [0.0, 0.5]
        assert asked[0].body["top_p"] == 0.5 and asked[0].body["model"] == "small"
        assert len(asked[1].body["prompt"]) == 30 and asked[1].body["max_tokens"] == 11


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.jsonl", "{}\n", "line 1: neither prompt nor messages"),
        ("x.jsonl", '{"prompt": "a"}\n[]\n', "line 2: no JSON object"),
        ("x.jsonl", '{"prompt": "a"}\n\n{\n', "line 3: no JSON"),
        ("x.txt", "\n", "no prompts"),
    ],
)
def test_a_bad_file_is_told_by_its_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        plan(LoadSpec(prompts=str(tmp_path / name)), PLAIN)
    with pytest.raises(InputError):
        plan(LoadSpec(prompts=str(tmp_path / "none.txt")), PLAIN)


def test_objectives_are_read_in_seconds() -> None:
    assert read_slo("ttft=200ms,tpot=50ms,e2e=2s") == {"ttft": 0.2, "tpot": 0.05, "e2e": 2.0}
    for text in ("ttft", "ttft=200", "itl=3ms", "ttft=-1s"):
        with pytest.raises(SpecError, match="is no objective"):
            read_slo(text)
    with pytest.raises(SpecError, match="are of streams"):
        convert({"stream": False, "slo": {"ttft": 1.0}}, LoadSpec, "load")
    with pytest.raises(SpecError, match="no secret"):
        convert({"url": "http://me:secret@host/v1"}, LoadSpec, "load")
