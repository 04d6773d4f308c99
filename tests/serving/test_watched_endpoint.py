"""A running endpoint, watched and put under load: its figures, a load test by its name, and a batch of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from cluster.core.storage.store import Store
from serving.watching import dashboard
from serving.watching.scrape import read
from tests.serving.conftest import Served

pytestmark = pytest.mark.heavy
BY_KEY = {"trunkline_tokens_total"}  # that only an endpoint with keys has (watching/test_counted.py)


def test_an_endpoint_is_put_under_load_and_watched(served: Served, tmp_path: Path) -> None:
    store = ("--store", served.model.store_url)
    asked = ("--requests", "12", "--concurrency", "3", "--prompt-tokens", "5..20", "--output-tokens", "4..8")
    said = served.cluster.ctl("bench", "serve", "chat", *asked, "--slo", "ttft=60s", *store)
    assert f"answered by {served.model.record.ref} (12)" in said and "12 of 12 within ttft" in said
    (report,) = Store(served.model.store_url).list("load")
    assert report.parent("model").record.ref == served.model.record.ref
    samples = [json.loads(line) for line in report.location.read_bytes("samples.jsonl").splitlines()]
    assert all(5 <= sample["prompt_tokens"] <= 20 and 4 <= sample["output_tokens"] <= 8 for sample in samples)
    results = json.loads(report.location.read_bytes("results.json"))
    assert results["figures"]["output_tokens"] == sum(sample["output_tokens"] for sample in samples)
    assert results["endpoint"]["vllm"]

    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/completions",
         "body": {"model": "chat", "prompt": f"def f{n}(", "max_tokens": 3, "temperature": 0}}
        for n in range(5)
    ]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no request\n")
    said = served.cluster.ctl(
        "batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), "--endpoint", served.base_url
    )
    assert "6 lines (200: 5, invalid_line: 1)" in said
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines[:5]] == ["0", "1", "2", "3", "4"]
    assert all(line["response"]["body"]["usage"]["completion_tokens"] <= 3 for line in lines[:5])

    scrape = read(requests.get(f"{served.base_url.removesuffix('/v1')}/metrics", timeout=60).text, 0.0)
    assert dashboard.metrics() - BY_KEY <= set(scrape.samples)
    assert scrape.total("vllm:generation_tokens_total", endpoint="chat") >= results["figures"]["output_tokens"]
    (figures,) = json.loads(served.cluster.ctl("serve", "top", "--once", "--json"))
    assert figures["artifacts"] == [served.model.record.ref] and figures["replicas"] == 1
    assert 0 < figures["ttft_p50"] <= figures["ttft_p99"] and figures["tpot_p95"] > 0
    assert figures["running"] == figures["waiting"] == 0
    report.location.remove()  # its ancestors, the model, would be kept for it when the endpoint has gone
