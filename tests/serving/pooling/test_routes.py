"""Scores, ranks and vectors by public clients, behind the gateway: they are what the model itself makes of texts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cluster.core.encoding import scored_tokens
from cluster.core.errors import InputError, SpecError
from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.specs.plugins import Plugins
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.sample import Sample
from serving.admission import GENERATED, POOLED
from serving.checks import check_pooling
from serving.engine import check_served, engine_arguments, plain_reason
from serving.footprint import footprint
from serving.gateway import gateway
from serving.in_process import InProcess
from serving.over_transformers import opened
from serving.pooling.opening import InProcessPooling
from tests.serving.pooling import models

MADE = {
    "reward": models.reward, "encoder": models.encoder, "sentences": models.sentence_encoder,
    "cross": models.cross_encoder, "labels": models.classifier, "writer": models.writer,
}  # fmt: skip
ANSWERS = ["yes", " no more", "Be brief.", "<|im_end|>"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    store = Store(tmp_path_factory.mktemp("store"))
    return {name: make(store) for name, make in MADE.items()}


@pytest.fixture(scope="module")
def served(made: dict[str, Artifact]) -> Iterator[dict[str, TestClient]]:
    """A client of each, as an endpoint over transformers has it."""
    found = {}
    for name, artifact in made.items():
        model = opened(artifact)
        app = model.app(name, Limits(inputs=5))
        spec = EndpointSpec(model="m", page=False)
        behind = asyncio.run(gateway(app, name, artifact.record.ref, spec, model.context_tokens))  # type: ignore[arg-type]
        found[name] = TestClient(behind)
    yield found


def openai_at(client: TestClient) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)


def ask(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def scores(told: dict[str, Any]) -> list[float]:
    assert [each["index"] for each in told["data"]] == list(range(len(told["data"])))
    return [each["score"] for each in told["data"]]


def refused(client: TestClient, path: str, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    found: dict[str, Any] = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


def test_a_score_is_the_reward_stages_own(made: dict[str, Artifact], served: dict[str, TestClient]) -> None:
    """Of a request and its answers, of a conversation, and of an answer that was cut off."""
    own = RewardModel(made["reward"].local())
    request = [{"role": "user", "content": "ask"}]
    talk = [{"role": "system", "content": "Be brief"}, *request, {"role": "assistant", "content": "yes"}, *request]
    for said, before in (("ask", request), (talk, talk)):
        for names in (("queries", "documents"), ("text_1", "text_2")):
            for finished in (True, False):
                expected = own.score_samples([Sample(before, answer, finished) for answer in ANSWERS])
                assert len(set(expected)) == len(ANSWERS)
                body = {names[0]: said, names[1]: ANSWERS, "continue_final_message": not finished}
                told = ask(served["reward"], "/v1/score", model="reward", **body)
                assert scores(told) == pytest.approx(expected, abs=1e-6)
    spoken = [scored_tokens(own.tokenizer, [*talk, {"role": "assistant", "content": text}], False) for text in ANSWERS]
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] == sum(map(len, spoken))
    assert scores(ask(served["reward"], "/score", queries=[talk, "ask"], documents=["yes", "no"])) == pytest.approx(
        own.score_samples([Sample(talk, "yes", True), Sample(request, "no", True)]), abs=1e-6
    )
    (whole,) = ask(served["reward"], "/pooling", messages=[*talk, {"role": "assistant", "content": "no"}])["data"]
    assert whole["data"] == pytest.approx(own.score_samples([Sample(talk, "no", True)]), abs=1e-6)
    ids = spoken[0]
    assert ask(served["reward"], "/pooling", input=[ids, ids[:-1]])["data"][0]["data"] == pytest.approx(
        own.score_samples([Sample(talk, ANSWERS[0], False)]), abs=1e-6
    )


def test_documents_are_ranked_by_their_scores(served: dict[str, TestClient]) -> None:
    found = scores(ask(served["reward"], "/v1/score", queries="ask", documents=ANSWERS))
    told = ask(served["reward"], "/v1/rerank", query="ask", documents=[{"text": ANSWERS[0]}, *ANSWERS[1:]])
    order = sorted(range(len(found)), key=lambda index: -found[index])
    assert [each["index"] for each in told["results"]] == order
    assert [each["document"]["text"] for each in told["results"]] == [ANSWERS[index] for index in order]
    expected = [1 / (1 + np.exp(-found[index])) for index in order]
    assert [each["relevance_score"] for each in told["results"]] == pytest.approx(expected, abs=1e-9)
    best = ask(served["reward"], "/rerank", query="ask", documents=ANSWERS, top_n=1, return_documents=False)["results"]
    assert best == [{"index": order[0], "relevance_score": told["results"][0]["relevance_score"]}]


@pytest.mark.parametrize(("name", "place"), [("encoder", None), ("sentences", 0)])
def test_vectors_are_the_models_states(
    made: dict[str, Artifact], served: dict[str, TestClient], name: str, place: int | None
) -> None:
    """Of all tokens their mean, or of the first one; of length 1. The package asks for base64, whatever one says."""
    model = AutoModel.from_pretrained(made[name].local()).eval()
    tokenizer = AutoTokenizer.from_pretrained(made[name].local())
    texts, vectors = ["Be brief", "ask more", "yes"], []
    for text in texts:
        with torch.no_grad():
            states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()
        vector = states.mean(0) if place is None else states[place]
        vectors.append(vector / np.linalg.norm(vector))
    client = openai_at(served[name])
    told = client.embeddings.create(model=name, input=texts)
    assert np.array([each.embedding for each in told.data]) == pytest.approx(np.array(vectors), abs=1e-6)
    assert told.usage.prompt_tokens == sum(len(tokenizer(text)["input_ids"]) for text in texts)
    plain = client.embeddings.create(model=name, input=tokenizer(texts[0])["input_ids"], encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0].tolist(), abs=1e-6)
    close = ask(served[name], "/v1/score", text_1=texts[0], text_2=texts)
    assert scores(close) == pytest.approx([float(vectors[0] @ vector) for vector in vectors], abs=1e-6)
    ranked = ask(served[name], "/v1/rerank", query=texts[0], documents=texts)["results"]
    assert ranked[0]["index"] == 0 and ranked[0]["relevance_score"] == pytest.approx(1)


def test_a_pair_of_texts_is_shown_as_the_model_knows_pairs(
    made: dict[str, Artifact], served: dict[str, TestClient]
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(made["cross"].local()).eval()
    tokenizer = AutoTokenizer.from_pretrained(made["cross"].local())
    with torch.no_grad():
        pair = tokenizer("ask", "yes", return_tensors="pt", return_token_type_ids=True)
        expected = model(**pair).logits.item()
    assert scores(ask(served["cross"], "/v1/score", queries="ask", documents="yes")) == pytest.approx(
        [expected], abs=1e-6
    )
    told = refused(served["cross"], "/v1/score", {"queries": [{"role": "user", "content": "x"}], "documents": "y"})
    assert "no chat template" in told["message"]


def test_labels_are_told_as_logits_or_probabilities(made: dict[str, Artifact], served: dict[str, TestClient]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(made["labels"].local()).eval()
    ids = AutoTokenizer.from_pretrained(made["labels"].local())("ask")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    for activated, expected in ((False, logits), (True, logits.softmax(-1))):
        (row,) = ask(served["labels"], "/pooling", input="ask", use_activation=activated)["data"]
        assert row["data"] == pytest.approx(expected.tolist(), abs=1e-6)
    assert (
        "tells the logits of labels"
        in refused(served["labels"], "/v1/score", {"queries": "a", "documents": "b"})["message"]
    )


def test_what_a_model_does_not_do_is_said_in_one_sentence(served: dict[str, TestClient]) -> None:
    for path in POOLED:
        told = refused(served["writer"], path, {"model": "writer", "input": "x"})
        assert told["code"] == "unsupported_model" and told["message"].startswith("the model 'writer' writes texts")
    for path in GENERATED:
        told = refused(served["reward"], path, {"model": "reward", "messages": [{"role": "user", "content": "x"}]})
        assert told["code"] == "unsupported_model" and "ask /v1/score" in told["message"]
    client = openai_at(served["reward"])
    assert [each.id for each in client.models.list()] == ["reward"]
    with pytest.raises(openai.BadRequestError, match="'reward' scores texts, and nothing else: ask /v1/score"):
        client.embeddings.create(model="reward", input="x")
    assert served["reward"].get("/health").status_code == 200
    assert served["reward"].post("/tokenize", json={"prompt": "ask"}).json()["count"] == 1


BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("reward", "/v1/score", {"queries": "a"}, "documents are missing"),
    ("reward", "/v1/score", {"queries": ["a", "b"], "documents": ["c"]}, "2 queries and 1 documents"),
    ("reward", "/v1/score", {"queries": "a", "documents": []}, "1 queries and 0 documents"),
    ("reward", "/v1/score", {"queries": "a", "documents": ["x"] * 6}, "endpoint.limits.inputs"),
    ("reward", "/v1/score", {"queries": [{"role": "user"}, "x"], "documents": "y"}, "mixed"),
    ("reward", "/v1/score", {"queries": [{"role": 3}], "documents": "y"}, "no message"),
    ("reward", "/v1/score", {"queries": [{"role": "user", "content": 3}], "documents": "y"}, "no message"),
    ("reward", "/v1/score", {"queries": [{"role": "user", "tool_calls": "y"}], "documents": "y"}, "no message"),
    ("reward", "/v1/score", {"queries": "a", "documents": "b", "temperature": 1}, "temperature"),
    ("reward", "/v1/score", {"queries": "yes " * 99, "documents": "b"}, "maximum context length is 64"),
    ("reward", "/pooling", {}, "either `input` or `messages`"),
    ("reward", "/pooling", {"messages": []}, "ends with the assistant's answer"),
    ("reward", "/pooling", {"messages": [{"role": "user", "content": "x"}]}, "ends with the assistant's answer"),
    ("reward", "/pooling", {"input": []}, "no text"),
    ("reward", "/pooling", {"input": ["a", 3]}, "mixed"),
    ("reward", "/pooling", {"input": [1 << 30]}, "token ids are 0 to"),
    ("reward", "/pooling", {"input": [-1]}, "token ids are 0 to"),
    ("reward", "/pooling", {"input": "", "truncate_prompt_tokens": 0}, "nothing would be left"),
    ("reward", "/v1/rerank", {"query": "a", "documents": []}, "there are none"),
    ("reward", "/v1/rerank", {"query": "a", "documents": [{"title": "x"}]}, "its `text`"),
    ("encoder", "/v1/embeddings", {"input": "x", "dimensions": 3}, "have 16 dimensions"),
    ("encoder", "/v1/embeddings", {"input": {"a": 1}}, "input"),
    ("encoder", "/v1/embeddings", {"input": "x", "encoding_format": "hex"}, "encoding_format"),
    ("encoder", "/pooling", {"messages": [{"role": "assistant", "content": "x"}]}, "no chat template"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "path", "body", "words"), BAD)
def test_what_cannot_be_met_is_refused(
    served: dict[str, TestClient], name: str, path: str, body: dict[str, Any], words: str
) -> None:
    assert words in refused(served[name], path, body)["message"]


def test_a_model_that_fails_is_said_to_without_its_internals(made: dict[str, Artifact]) -> None:
    model = opened(made["reward"])
    assert isinstance(model, InProcessPooling)

    async def fails(rows: Any) -> Any:
        raise RuntimeError("of a tensor at 0x7f")

    model.pool = fails  # type: ignore[assignment]
    told = refused(TestClient(model.app("r", Limits())), "/v1/score", {"queries": "a", "documents": "b"}, 500)
    assert told["type"] == "server_error" and "0x7f" not in told["message"]


def test_another_model_is_not_there(served: dict[str, TestClient]) -> None:
    told = refused(served["encoder"], "/v1/embeddings", {"model": "other", "input": "x"}, 404)
    assert told["code"] == "model_not_found"


def test_a_long_text_is_cut_where_one_says_so(made: dict[str, Artifact], served: dict[str, TestClient]) -> None:
    """Of a conversation the end is read, as by the reward stage."""
    own = RewardModel(made["reward"].local())
    long = [{"role": "user", "content": "yes " * 99}]
    told = ask(served["reward"], "/v1/score", queries=long, documents="no", truncate_prompt_tokens=-1)
    assert scores(told) == pytest.approx(own.score_samples([Sample(long, "no", True)]), abs=1e-6)
    assert told["usage"]["prompt_tokens"] == models.POSITIONS
    cut = ask(served["encoder"], "/v1/embeddings", input=["yes " * 99, "yes yes"], truncate_prompt_tokens=2)
    assert cut["data"][0]["embedding"] == pytest.approx(cut["data"][1]["embedding"], abs=0.2)
    assert cut["usage"]["prompt_tokens"] <= 4


def test_the_document_describes_the_routes(served: dict[str, TestClient]) -> None:
    paths = served["reward"].get("/openapi.json").json()["paths"]
    assert set(POOLED) <= set(paths)
    for path in POOLED:
        (media,) = paths[path]["post"]["requestBody"]["content"].values()
        assert media["schema"]["$ref"].startswith("#/components/schemas/")


def test_what_serves_a_model_is_known_from_its_files(made: dict[str, Artifact]) -> None:
    told = {name: plain_reason(artifact) for name, artifact in made.items()}
    assert told == {
        "reward": "", "labels": "", "writer": "", "encoder": "an encoder", "sentences": "an encoder",
        "cross": "a classifier of a family that vLLM was not tried on",
    }  # fmt: skip
    spec = EndpointSpec(model="m", max_adapters=2, plugins=Plugins(allowed=("calculator",)))
    check_served(spec, made["reward"])
    assert engine_arguments(spec, made["reward"])["runner"] == "pooling"
    assert "enable_lora" not in engine_arguments(spec, made["reward"])
    assert footprint(EndpointSpec(model="m"), made["encoder"]).engine == "transformers"
    pooling = pooling_of(made["reward"])
    assert pooling and pooling_of(made["writer"]) is None
    with pytest.raises(SpecError, match=r"endpoint\.plugins\.allowed: .* scores texts, and does not write"):
        check_pooling(spec, made["reward"], pooling)


def test_it_is_not_talked_to(made: dict[str, Artifact]) -> None:
    for name, what in (("reward", "scores texts"), ("encoder", "makes vectors of texts")):
        with pytest.raises(InputError, match=f"{what}, and does not write"):
            InProcess(made[name])


def test_a_vector_of_another_kind_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    modules = '[{"path": "", "type": "a.Transformer"}, {"path": "2_Dense", "type": "a.Dense"}]'
    dense = models._committed(store, "dense", models._bert(models.BertModel), modules_json=modules)
    with pytest.raises(InputError, match="a Dense of sentence-transformers"):
        pooling_of(dense)
