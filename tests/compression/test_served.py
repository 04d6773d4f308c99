"""Compressed models behind `ctl serve up`: clients get what the artifact says in an engine of this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from pipelines.specs import QualitySpec, QuantizeSpec, ScalingSpec
from pipelines.stages.compression.quality import Questions, ask, read_questions
from tests.cluster.local_cluster import LocalCluster, free_port

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1800)]

TOKENS = 16
SPECS = {
    "int8": QuantizeSpec(embeddings="int8"),
    "int4": QuantizeSpec(scheme="int4", embeddings="int8", zero_points=True),
}


@pytest.fixture(scope="module")
def questions(chat_inputs: dict[str, Artifact]) -> Questions:
    spec = QualitySpec(report_conversations=8, report_tokens=TOKENS)
    return read_questions(chat_inputs["model"].local(), chat_inputs["prompts"], spec)


@pytest.fixture(scope="module")
def compressed(chat_inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    model = chat_inputs["model"]
    return {name: build(spec, {"model": model}, store=model.store, name=name) for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def expected(compressed: dict[str, Artifact], questions: Questions) -> dict[str, list[list[int]]]:
    return {
        name: ask(name, model, "bfloat16", questions, ScalingSpec()).completions for name, model in compressed.items()
    }


@pytest.fixture(scope="module")
def url(compressed: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint whose own model is the INT8; the INT4 stands beside it, in an engine of its own."""
    cluster, port = LocalCluster(Path(tmp_path_factory.mktemp("home")), free_port(), free_port()), free_port()
    refs = {name: model.record.ref for name, model in compressed.items()}
    sets = ("--set", f"endpoint.models={{int4: {refs['int4']}}}", "--set", "endpoint.kv_cache_gib=0.25")
    where = ("--name", "int8", "--port", str(port), "--store", compressed["int8"].store_url)
    try:
        cluster.up(num_cpus=4)
        assert "is ready" in cluster.ctl("serve", "up", refs["int8"], *where, *sets, timeout=840)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        cluster.ctl("down")


@pytest.mark.parametrize("name", SPECS)
def test_clients_get_what_the_artifact_says(
    name: str, url: str, compressed: dict[str, Artifact], questions: Questions, expected: dict[str, list[list[int]]]
) -> None:
    assert expected["int8"] != expected["int4"]
    body: dict[str, Any] = {"model": name, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
    for prompt, tokens in zip(questions.prompts, expected[name], strict=True):
        reply = httpx.post(f"{url}/completions", json=body | {"prompt": prompt}, timeout=300)
        assert reply.headers["trunkline-artifact"] == compressed[name].record.ref
        assert reply.json()["choices"][0]["token_ids"] == tokens
