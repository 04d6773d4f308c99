"""A load test against an application that answers when a test lets it: loops, streams, errors, and the commands."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, JobError, NotReadyError
from cluster.core.specs.spec import fields
from cluster.core.storage.store import Store
from pipelines.specs import SftSpec
from pipelines.stages.load.driver import Driven, drive
from pipelines.stages.load.figures import figures
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.stage import measure
from pipelines.stages.load.workload import Target, plan
from tests.cli.command import ctl
from tests.load.stand_in import StandIn
from tests.made import make
from tests.serving.running import running


def driven(app: StandIn, spec: LoadSpec, key: str = "") -> Driven:
    warm, measured = plan(spec, Target("small", vllm=app.vllm))
    with running(app.app) as url:
        return asyncio.run(drive(f"{url}/v1", key, warm, measured, concurrency=spec.concurrency, timeout_seconds=60))


def test_an_open_loop_waits_for_no_answer() -> None:
    """The application answers nothing until all requests are there: a client that waited would wait for ever."""
    app = StandIn(together=24)
    spec = LoadSpec(rate=2000.0, requests=24, warmup=0, output_tokens="2")
    found = driven(app, spec)
    assert not [sample.failed for sample in found.samples if sample.failed]
    assert app.most_open == 24
    times = plan(spec, Target("small"))[1]
    assert [sample.intended for sample in found.samples] == [planned.at_seconds for planned in times]
    assert all(sample.sent >= sample.intended for sample in found.samples)


def test_latency_counts_from_when_a_request_should_have_been_sent() -> None:
    app = StandIn()
    spec = LoadSpec(rate=1e6, requests=3, warmup=0, output_tokens="1")
    warm, measured = plan(spec, Target("small"))
    late = [replace(planned, at_seconds=-5.0) for planned in measured]
    with running(app.app) as url:
        found = asyncio.run(drive(f"{url}/v1", "", warm, late, concurrency=1, timeout_seconds=60))
    assert all(sample.e2e >= 5 and sample.lateness >= 5 and (sample.ttft or 0) >= 5 for sample in found.samples)
    assert "late" in figures(found, {}).client.bottleneck


def test_a_closed_loop_has_so_many_requests_open() -> None:
    app = StandIn(together=4)
    found = driven(app, LoadSpec(concurrency=4, requests=16, warmup=4, output_tokens="2"))
    assert len(found.samples) == 16 and app.most_open == 4 and len(app.bodies) == 20
    assert sum(sample.output_tokens for sample in found.samples) == 32


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_pieces_of_a_stream_are_timed(api: Any) -> None:
    """Of a chat the piece that only says whose turn it is is none."""
    found = driven(StandIn(), LoadSpec(requests=3, warmup=0, output_tokens="5", api=api))
    for sample in found.samples:
        assert sample.first is not None and len(sample.gaps) == 4
        assert sample.intended <= sample.sent <= sample.first <= sample.ended
        assert sample.ended == pytest.approx(sample.first + sum(sample.gaps))
        assert sample.output_tokens == 5


def test_every_kind_of_failure_is_told_apart() -> None:
    app = StandIn(artifact="sft/mine-0123456789ab")
    app.refused, app.ends = [429, 503, 429], ["cut", "error"]
    found = driven(app, LoadSpec(requests=8, warmup=0, output_tokens="2"))
    told = figures(found, {})
    assert told.failed == {"429": 2, "503": 1, "cut": 2} and told.answered == 3
    assert told.artifacts == {"sft/mine-0123456789ab": 3}
    assert any("the engine died" in sample.said for sample in found.samples)
    assert any("no, 503" in sample.said for sample in found.samples)


def test_an_endpoint_that_is_gone_is_no_answer() -> None:
    with running(StandIn().app) as url:
        pass
    measured = plan(LoadSpec(requests=2), Target("small"))[1]
    found = asyncio.run(drive(f"{url}/v1", "", [], measured, concurrency=1, timeout_seconds=60))
    assert figures(found, {}).failed == {"no answer": 2}
    with pytest.raises(NotReadyError, match="no endpoint answers"):
        measure(LoadSpec(url=f"{url}/v1"))


def test_what_answers_must_be_what_was_meant() -> None:
    app = StandIn(artifact="sft/mine-0123456789ab")
    with running(app.app) as url:
        spec = LoadSpec(url=f"{url}/v1", requests=2, warmup=0)
        assert measure(spec, wanted="sft/mine-0123456789ab").figures.answered == 2
        with pytest.raises(InputError, match="not by sft/other"):
            measure(spec, wanted="sft/other-0123456789ab")
        app.refused = [500] * 2
        with pytest.raises(JobError, match=r"none of 2 requests \(500: 2\) .*no, 500"):
            measure(spec)


@pytest.mark.heavy
def test_a_report_is_an_artifact_with_a_lineage(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    model = make(store, SftSpec(), {}, {"config.json": b"{}"}, "mine")
    app = StandIn(artifact=model.record.ref)
    (tmp_path / "key").write_text("tk_secret\n")
    with running(app.app) as url:
        asked = ("--requests", "6", "--concurrency", "2", "--output-tokens", "3", "--slo", "ttft=60s,e2e=90s")
        done = ctl("bench", "serve", url, *asked, "--key-file", tmp_path / "key", "--store", store.root.url)
        assert done.returncode == 0, done.stderr
        again = ctl("bench", "serve", url, *asked, "--key-file", tmp_path / "key", "--store", store.root.url, "--json")
        assert json.loads(again.stdout)["figures"]["answered"] == 6
    assert "goodput" in done.stdout and "6 of 6 within ttft 60000 ms" in done.stdout
    assert app.keys == {"Bearer tk_secret"}
    first, second = store.list("load")  # the same command measures again
    assert first.parent("model").record.ref == model.record.ref
    assert first.metrics["answered"] == 6 and first.metrics["goodput_per_second"] > 0
    written = b"".join(first.location.read_bytes(name) for name in ("results.json", "samples.jsonl", "artifact.json"))
    assert b"tk_secret" not in written
    assert first.spec == fields(LoadSpec(**first.spec))
    lineage = ctl("artifacts", "lineage", first.record.ref, "--store", store.root.url)
    assert model.record.ref in lineage.stdout
    picture = tmp_path / "both.svg"
    both = ctl("bench", "compare", first.record.ref, second.record.ref, "--plot", picture, "--store", store.root.url)
    assert both.returncode == 0, both.stderr
    assert "output tokens a second" in both.stdout and "not asked the same" not in both.stderr
    assert picture.read_text().lstrip().startswith("<?xml") and first.record.folder in picture.read_text()


@pytest.mark.heavy
def test_a_report_may_be_a_file(tmp_path: Path) -> None:
    with running(StandIn(vllm=False).app) as url:
        for name, rate in (("a", "200"), ("b", "100")):
            asked = ("--requests", "5", "--rate", rate, "--output-tokens", "2", "--out", tmp_path / f"{name}.json")
            done = ctl("bench", "serve", f"{url}/v1", *asked)
            assert done.returncode == 0, done.stderr
            assert "it is no vLLM" in done.stderr and "in words" in done.stderr
    both = ctl("bench", "compare", tmp_path / "a.json", tmp_path / "b.json", "--plot", tmp_path / "x.png")
    assert both.returncode == 0, both.stderr
    assert "not asked the same: rate" in both.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    wrong = ctl("bench", "compare", tmp_path / "a.json", tmp_path / "b.json", "--plot", tmp_path / "x.pdf")
    assert wrong.returncode == 2 and "FILE.svg" in wrong.stderr
    (tmp_path / "c.json").write_text("{}")
    none = ctl("bench", "compare", tmp_path / "a.json", tmp_path / "c.json")
    assert none.returncode == 3 and "no report of a load test" in none.stderr


def test_a_command_that_contradicts_itself() -> None:
    assert ctl("bench", "serve", "http://127.0.0.1:9", "--rate", "1", "--concurrency", "2").returncode == 2
    wrong = ctl("bench", "serve", "http://127.0.0.1:9", "--slo", "ttft=3")
    assert wrong.returncode == 3 and "is no objective" in wrong.stderr
