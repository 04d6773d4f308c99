"""A model that has learned to call a plug-in by heart, from its tokens to the answer: nothing of it is written here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.plugins import Plugins
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.core.typed_text import prompt_ids
from pipelines.specs import PretrainSpec
from pipelines.stages.tuning.templates import prepare
from serving.gateway import gateway
from serving.in_process import InProcess
from serving.openai_api import openai_app
from serving.plugins.dialects import ByText
from serving.plugins.running import open_plugins
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import write_model

STEPS, RATE, LEARNED = 300, 5e-3, 0.05  # the loss at which it knows them
pytestmark = pytest.mark.exhaustive
CONTEXT = 1536
SPEC = Plugins(allowed=("calculator",))
ASKED: list[Any] = [{"role": "user", "content": "What is 17 times 3?"}]
CALL = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "17*3"}}\n</tool_call>'
RESULT = {"role": "user", "content": "<tool_response>\n51\n</tool_response>"}
ANSWER = "It is 51."


def learned(folder: Path, store: Path) -> Artifact:
    """A tiny model, trained on the two turns that it is to say."""
    write_model(folder, CONTEXT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prepare(tokenizer, "chatml")
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    offered = ByText.offer({"messages": ASKED}, asyncio.run(open_plugins(SPEC, "")).schemas(("calculator",)))  # type: ignore[union-attr]
    first = offered["messages"]
    talks = [(first, CALL), ([*first, {"role": "assistant", "content": CALL}, RESULT], ANSWER)]
    rows = []
    for messages, said in talks:
        prompt = prompt_ids(tokenizer, messages)
        told = tokenizer(f"{said}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
        rows.append((torch.tensor([prompt + told]), len(prompt)))
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more wait for one another on a busy machine
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in range(STEPS):
        losses = []
        for tokens, begins in rows:
            logits = model(tokens, logits_to_keep=tokens.shape[1] - begins + 1).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, begins:]))
        sum(losses).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        if max(losses) < LEARNED:
            break
    model.save_pretrained(folder)
    return commit_model(Store(store), folder, PretrainSpec(), {})


def test_a_model_calls_the_calculator_and_answers(tmp_path: Path) -> None:
    talker = InProcess(learned(tmp_path / "model", tmp_path / "store"))

    async def work() -> None:
        app = openai_app("chat", talker)
        plugins, spec = await open_plugins(SPEC, ""), EndpointSpec(model="m", plugins=SPEC)
        served: Any = await gateway(app, "chat", talker.name, spec, CONTEXT, plugins=plugins)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app=served), timeout=240)
        client = openai.AsyncOpenAI(api_key="none", base_url="http://endpoint/v1", http_client=http, max_retries=0)
        asked: dict[str, Any] = {"model": "chat", "messages": ASKED, "temperature": 0, "max_tokens": 80}
        asked["extra_body"] = {"plugins": ["calculator"]}
        whole = await client.chat.completions.create(**asked)
        assert whole.choices[0].message.content == ANSWER and whole.choices[0].finish_reason == "stop"
        assert whole.model_extra["plugins"][0]["result"] == "51"
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        assert [c.model_extra["plugin"]["state"] for c in chunks if "plugin" in c.model_extra] == ["running", "done"]
        await served.plugins.close()

    asyncio.run(work())
