"""What an actor of `ctl batch` answers by, where vLLM cannot open the model: asked here without Ray."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.store import Store
from serving.batch.over_engines import Engine
from serving.in_process import InProcess
from serving.talk import Sampling
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

PATH = "/v1/completions"


def test_a_soft_prompt_answers_lines_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    adapter = by_method(make_inputs(store, write_sources(tmp_path)), store, "prefix")[0]
    engine = Engine(store.root.url, adapter.kind, adapter.fingerprint, EndpointSpec(model=adapter.record.ref))
    prompts = ["def add(", "import ", "print("]
    bodies: list[dict[str, Any]] = [
        {"model": "any", "prompt": prompt, "max_tokens": 4, "temperature": 0} for prompt in prompts
    ]
    bodies[2]["n"] = 99

    async def work() -> list[dict[str, Any]]:
        rows = [{"number": n, "url": PATH, "body": json.dumps(body)} for n, body in enumerate(bodies)]
        return await asyncio.gather(*map(engine, rows))

    first, second, refused = asyncio.run(work())
    talker = InProcess(adapter)
    for prompt, found in zip(prompts, (first, second), strict=False):
        text = "".join(talker.complete(prompt, Sampling(max_tokens=4, temperature=0.0, seed=0)))
        assert found["status"] == 200 and json.loads(found["answer"])["choices"][0]["text"] == text
    assert refused["status"] == 400 and "endpoint.limits.completions" in refused["answer"]
    assert len({found["request_id"] for found in (first, second, refused)}) == 3
