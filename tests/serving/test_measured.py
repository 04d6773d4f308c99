"""Completions as evaluations ask for them, over transformers: by the `openai` package, and by lm-eval itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch
from fastapi.testclient import TestClient

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec
from serving.in_process import InProcess
from serving.openai_api import openai_app
from serving.talk import Sampling, until
from tests.export import lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    files = lines.folder(initializer_range=0.5, bos_token_id=0, eos_token_id=0)
    return lines.commit(Store(tmp_path_factory.mktemp("store")), PretrainedSpec(), files)


@pytest.fixture(scope="module")
def talker(model: Artifact) -> InProcess:
    return InProcess(model)


@pytest.fixture(scope="module")
def client(talker: InProcess) -> Iterator[openai.OpenAI]:
    with TestClient(openai_app("m", talker)) as http:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0)


def test_prompts_of_token_ids_are_echoed_with_their_log_probabilities(client: openai.OpenAI, talker: InProcess) -> None:
    """What lm-eval's `local-completions` asks: each is what one pass of the model says."""
    prompts = [talker.tokenizer(text)["input_ids"] for text in ("ask more Be brief", "yes no")]
    asked: dict[str, Any] = {"model": "m", "temperature": 0, "max_tokens": 1, "logprobs": 3, "seed": 7, "echo": True}
    reply = client.completions.create(prompt=prompts, **asked)
    assert [choice.index for choice in reply.choices] == [0, 1]
    for ids, choice in zip(prompts, reply.choices, strict=True):
        told = choice.logprobs
        assert told and told.tokens and told.token_logprobs and told.top_logprobs
        with torch.inference_mode():
            scores = talker.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        assert told.tokens[: len(ids)] == [talker.tokenizer.decode([each]) for each in ids]
        assert len(told.tokens) == len(ids) + 1 and told.token_logprobs[0] is None
        expected = [float(scores[place, ids[place + 1]]) for place in range(len(ids) - 1)]
        assert told.token_logprobs[1:-1] == pytest.approx(expected, abs=1e-5)
        assert told.token_logprobs[-1] == pytest.approx(float(scores[-1].max()), abs=1e-5)
        for place, top in enumerate(told.top_logprobs[1:]):
            assert max(top.values()) == pytest.approx(float(scores[place].max()), abs=1e-5) and 1 <= len(top) <= 4
        assert choice.text.startswith(talker.tokenizer.decode(ids))
    assert reply.usage and reply.usage.prompt_tokens == sum(map(len, prompts)) and reply.usage.completion_tokens == 2


def test_texts_are_continued_as_they_are_alone(client: openai.OpenAI, talker: InProcess) -> None:
    asked: dict[str, Any] = {"model": "m", "temperature": 0, "max_tokens": 6}
    texts = ["ask", "Be brief"]
    reply = client.completions.create(prompt=texts, **asked)
    alone = ["".join(talker.complete(text, Sampling(max_tokens=6))) for text in texts]
    assert [choice.text for choice in reply.choices] == alone
    silent = client.completions.create(prompt="ask", echo=True, model="m", max_tokens=0, logprobs=1)
    assert silent.choices[0].text == "ask" and silent.usage and silent.usage.completion_tokens == 0
    own = client.completions.create(prompt="ask", logprobs=0, **asked).choices[0]
    assert own.text == alone[0] and own.logprobs and len(own.logprobs.tokens or ()) == 6


def test_a_stop_text_ends_an_answer(client: openai.OpenAI, talker: InProcess) -> None:
    whole = "".join(talker.complete("ask", Sampling(max_tokens=12)))
    stop = whole[4:6]
    cut = whole[: whole.index(stop)]
    for streamed in (False, True):
        given: dict[str, Any] = {"model": "m", "prompt": "ask", "temperature": 0, "max_tokens": 12}
        reply: Any = client.completions.create(**given, stop=["never", stop], stream=streamed)
        chunks = list(reply) if streamed else [reply]
        assert "".join(chunk.choices[0].text for chunk in chunks) == cut
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert "".join(until(iter(["a", "b", "cd"]), "bcx", "d")) == "abc"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": []}, "prompt: missing"),
        ({"prompt": [[]]}, "token ids of 0 to"),
        ({"prompt": [[10**6]]}, "token ids of 0 to"),
        ({"prompt": ["a", 3]}, "prompt: missing, or not of its kind"),
        ({"prompt": [[1] * 64]}, "does not fit"),
        ({"logprobs": -1}, "logprobs: a number of 0 to"),
        ({"logprobs": True}, "logprobs: a number of 0 to"),
        ({"logprobs": 1, "stream": True}, "stream: not with several prompts"),
        ({"max_tokens": 0}, "max_tokens: at least 1"),
        ({"max_tokens": "x"}, "no whole number"),
        ({"stop": [3]}, "stop: a text"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_what_cannot_be_met_is_refused(talker: InProcess, changes: dict[str, Any], words: str) -> None:
    import json

    body = json.dumps({"model": "m", "prompt": "ask", **changes})
    with TestClient(openai_app("m", talker)) as http:
        reply = http.post("/v1/completions", content=body)
    assert reply.status_code == 400 and words in reply.json()["error"]["message"]
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_lm_eval_reads_of_an_endpoint_what_it_reads_of_the_model(talker: InProcess, client: openai.OpenAI) -> None:
    """By the code with which lm-eval's `local-completions` asks, and reads the answers; its own way to send is not
    taken, which wants a package of retries."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    lm = object.__new__(LocalCompletionsAPI)
    lm.model, lm._max_gen_toks = "m", 4
    pairs = [("ask more", " no"), ("Be brief", " more no"), ("yes", " no")]
    encoded = [[talker.tokenizer(text)["input_ids"] for text in pair] for pair in pairs]
    expected = []
    for before, after in encoded:
        with torch.inference_mode():
            scores = talker.model(torch.tensor([before + after])).logits[0].float().log_softmax(-1)
        rows = scores[len(before) - 1 : -1]
        greedy = rows.argmax(-1).tolist() == after
        expected.append(
            (pytest.approx(sum(float(row[id]) for row, id in zip(rows, after, strict=True)), abs=1e-4), greedy)
        )
    whole, context = [before + after for before, after in encoded], [len(before) for before, _ in encoded]
    told: Any = client.post("/completions", body=lm._create_payload(whole), cast_to=object)
    assert lm.parse_logprobs(told, whole, context) == expected
    asked = lm._create_payload([encoded[0][0]], generate=True, gen_kwargs={"until": []}, eos="<|endoftext|>")
    told = client.post("/completions", body=asked, cast_to=object)
    assert lm.parse_generations(told) == ["".join(talker.complete("ask more", Sampling(max_tokens=4)))]
