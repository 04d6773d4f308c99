"""The page of a real endpoint in a browser, and the whole way round: from a click to a model that learned from it."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

import pytest
import requests
from transformers import AutoTokenizer

from cluster.core import metrics
from cluster.core.feedback import Line, answers, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import Served, write_model
from tests.serving.page.browser import Browser
from tests.serving.page.test_browser import ask, done, until_text

pytestmark = pytest.mark.heavy

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}<|endoftext|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def lines(place: str) -> list[Line]:
    return [line for _, line in read(Location(place)) if isinstance(line, Line)]


def answered(browser: Browser, text: str, count: int) -> None:
    """Ask in a new conversation for so many answers that say something, and not the same: what random weights say may
    be nothing."""
    for _ in range(8):
        browser.click("#new")
        ask(browser, text)
        found = {answer.strip() for answer in done(browser)}
        if len(found - {""}) == count:
            return
    pytest.fail(f"never {count} answers that say something")


def test_the_page_of_an_endpoint(served: Served, browser: Browser) -> None:
    """Its model is a base model, which continues a transcript; two answers of it, and a choice between them."""
    root = served.base_url.removesuffix("v1")
    browser.open(root)
    until_text(browser, "#artifact", served.model.record.ref)
    browser.type("#max_tokens", "12")
    browser.choose("#compare", "again")
    browser.click("#consent")
    answered(browser, "def function(", 2)
    assert browser.js("[...document.querySelectorAll('.figures')].every((one) => /^[0-9]+ token/.test(one.innerText))")
    browser.click(".answer:nth-child(2) button", "This one is better")
    until_text(browser, ".answer:nth-child(2) .said", "Kept")
    (line,) = lines(served.feedback)
    assert [answer.artifact for answer in answers(line.said)] == [served.model.record.ref] * 2
    assert [answer.text.strip() for answer in answers(line.said)] != [""] * 2
    said = served.cluster.ctl("serve", "learn", "chat")
    assert "has 1 choice" in said and "ctl run pipelines/dpo.py --name chat" in said


@pytest.mark.exhaustive
def test_from_a_click_to_the_model_that_learned_from_it(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Behind keys: choices and an edit on the page, preferences, DPO on them, and the result under the same name."""
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model = commit_model(Store(tmp_path_factory.mktemp("store")), folder, PretrainSpec(), {})
    store = ("--store", model.store_url)
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    port, place = free_port(), str(cluster.home / "said")
    sets = ("--set", "endpoint.access.keys=true", "--set", f"endpoint.feedback.path={place}")
    try:
        cluster.up(num_cpus=4)
        key = json.loads(cluster.ctl("serve", "keys", "create", "alice", "--json"))
        cluster.ctl("serve", "up", "tiny", "--port", str(port), "--name", "chat", *sets, *store, timeout=840)
        root = f"http://127.0.0.1:{port}/"
        _judge(browser, root, key["key"])
        assert {line.key for line in lines(place)} == {key["id"]} and len(lines(place)) == 6
        trained = {"epochs": 12, "global_batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1}
        more = [word for name, value in trained.items() for word in ("--set", f"dpo.{name}={value}")]
        more += ["--set", "scaling.log_every=1"]
        said = cluster.ctl("serve", "learn", "chat", "--run", *more, timeout=840)
        artifact = Store(model.store_url).resolve("dpo/chat")
        losses = [line["loss"] for line in metrics.read(artifact.location)]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-4) and losses[-1] < 0.5 * losses[0]
        lineage: dict[str, Any] = json.loads(cluster.ctl("artifacts", "lineage", artifact.record.ref, "--json", *store))
        (preferences,) = [node for ref, node in lineage["ancestors"].items() if ref.startswith("preferences/")]
        told = preferences["metrics"]
        assert told["answered_by"] == {model.record.ref: 6} and told["keys"] == {key["id"]: 6}
        assert (told["consent"], told["flow"]["in"]) == (6, 6)
        assert model.record.ref in lineage["ancestors"]
        serve = shlex.split(next(line for line in said.splitlines() if line.startswith("serve ")).split("  ", 1)[1])
        cluster.ctl(*serve[1:], timeout=840)
        headers = {"Authorization": f"Bearer {key['key']}"}
        models = requests.get(f"{root}v1/models", headers=headers, timeout=60)
        assert models.headers["trunkline-artifact"] == artifact.record.ref
        assert requests.get(f"{root}v1/models", timeout=60).status_code == 401  # the endpoint's settings went along
    finally:
        cluster.ctl("down")


def _judge(browser: Browser, root: str, key: str) -> None:
    """Five choices and an edit."""
    browser.open(root)
    browser.type("#key", key)
    browser.press("Enter")
    browser.until("document.querySelector('#key-form').hidden && document.querySelector('#artifact').innerText")
    browser.type("#max_tokens", "12")
    browser.choose("#compare", "again")
    browser.click("#consent")
    for number in range(5):
        answered(browser, f"import {'abcde'[number]}", 2)
        browser.click(".answer:nth-child(2) button", "This one is better")
        until_text(browser, ".answer:nth-child(2) .said", "Kept")
    browser.choose("#compare", "")
    answered(browser, "for name in", 1)
    browser.click(".answer button", "Edit")
    browser.type(".editor", "os.listdir():")
    browser.click("button", "Save")
    until_text(browser, ".said", "Kept")
