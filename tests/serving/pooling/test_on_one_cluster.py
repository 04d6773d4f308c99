"""A model that chats, a reward model over vLLM and an encoder over transformers on one cluster, as `ctl` brings them
up: each answers its own routes, and the page of the first shows what the second says of answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import httpx
import openai
import pytest
from transformers import AutoTokenizer

from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.sample import Sample
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import write_model
from tests.serving.page.browser import Browser, chromium
from tests.serving.page.test_browser import ask, done, until_text
from tests.serving.pooling import models
from tests.serving.test_page_served import TEMPLATE

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1800)]

TEXTS = ["ask more", "yes", "Be brief."]


def test_a_chat_is_scored_by_its_judge_and_stays_a_chat(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "model"
    write_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    chat = commit_model(store, folder, PretrainSpec(), {})
    judge, vectors = models.reward(store, hidden_size=64), models.sentence_encoder(store)
    (tmp_path / "home").mkdir()
    cluster, port = LocalCluster(tmp_path / "home", free_port(), free_port()), free_port()
    root = f"http://127.0.0.1:{port}"
    where = ("--port", str(port), "--store", store.root.url, "--set", "endpoint.kv_cache_gib=0.1")

    def up(ref: str, name: str, *options: str, code: int = 0) -> str:
        return cluster.ctl("serve", "up", ref, "--name", name, *where, *options, code=code, timeout=840)

    try:
        cluster.up(num_cpus=4)
        scored = ("--set", "endpoint.scorer=judge")
        assert "'judge' is neither a name of endpoint.models nor an endpoint" in up(
            chat.record.ref, "chat", *scored, code=3
        )
        assert f"{root}/v1/score" in up(judge.record.ref, "judge")
        assert "is an encoder: transformers serves it" in up(vectors.record.ref, "vectors")
        assert f"to talk to it: {root}/chat/" in up(chat.record.ref, "chat", *scored)

        for command in (("up", judge.record.ref, "--name", "chat", *where), ("roll", "vectors", judge.record.ref),
                        ("canary", "chat", judge.record.ref), ("roll", "judge", chat.record.ref)):  # fmt: skip
            said = cluster.ctl("serve", *command, code=3)
            assert f"and {chat.record.ref if command[1] == 'judge' else judge.record.ref} does not: it " in said

        expected = RewardModel(judge.local()).score_samples(
            [Sample([{"role": "user", "content": "ask"}], text, True) for text in TEXTS]
        )
        body = {"model": "judge", "queries": "ask", "documents": TEXTS}
        told = httpx.post(f"{root}/v1/score", json=body, timeout=60).json()
        assert [each["score"] for each in told["data"]] == pytest.approx(expected, abs=1e-4)
        pooled = {"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": TEXTS[0]}]}
        told = httpx.post(f"{root}/pooling", json={"model": "judge", **pooled}, timeout=60).json()
        assert told["data"][0]["data"] == pytest.approx(expected[:1], abs=1e-4)
        client = openai.OpenAI(base_url=f"{root}/vectors/v1", api_key="none", max_retries=0)
        found = [each.embedding for each in client.embeddings.create(model="vectors", input=TEXTS).data]
        assert [math.hypot(*vector) for vector in found] == pytest.approx([1.0] * len(TEXTS), abs=1e-5)
        assert len({tuple(vector) for vector in found}) == len(TEXTS)

        with chromium(tmp_path / "browser") as browser:
            browser.size(1280, 800)
            _see_a_score(browser, f"{root}/chat/", root)
        names = {each["name"]: each["status"] for each in json.loads(cluster.ctl("serve", "list", "--json"))}
        assert names == {"chat": "RUNNING", "judge": "RUNNING", "vectors": "RUNNING"}
    finally:
        cluster.ctl("down")


def _see_a_score(browser: Browser, url: str, root: str) -> None:
    """An answer, and beside it what the judge says of it when it is asked by itself."""
    browser.open(url)
    browser.until("document.querySelector('#scorer').innerText === 'judge'")
    browser.type("#max_tokens", "12")
    browser.type("#temperature", "1")
    for _ in range(8):  # what random weights say may be nothing
        browser.click("#new")
        ask(browser, "ask")
        done(browser)
        text = browser.js("JSON.parse(localStorage['trunkline:/chat/:conversations'])[0].turns[0].answers[0].text")
        if text.strip():
            break
    until_text(browser, ".turn:last-child .from", "reward ")
    shown = browser.js("document.querySelector('.reward').innerText")
    reason = browser.js("JSON.parse(localStorage['trunkline:/chat/:conversations'])[0].turns[0].answers[0].reason")
    body = {
        "model": "judge", "queries": [{"role": "user", "content": "ask"}], "documents": [text],
        "continue_final_message": reason == "length", "truncate_prompt_tokens": -1,
    }  # fmt: skip
    told = httpx.post(f"{root}/v1/score", json=body, timeout=60).json()
    assert float(shown.removeprefix("reward ")) == pytest.approx(told["data"][0]["score"], abs=0.006)
