"""Several models behind one base: who answers to which name, what is listed, and what an engine takes as an adapter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.specs.spec import override
from cluster.core.storage.store import Store
from serving.adapters import Adapters, fits
from serving.admission import Admission
from serving.asgi import called
from serving.beside import resolved
from serving.engine import engine_arguments, engine_environment
from serving.gateway import Gateway
from serving.in_process import InProcess
from serving.named import ADAPTER, APPLICATION, OWN, Models, Named
from serving.sharing import Sharing
from serving.talk import Sampling
from serving.vllm_app import engine_app, open_engine
from tests.serving.keys.small_app import REF, Small, asking
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize")
OTHER_REF = "model/other-ffffffffffff"


def named(name: str, place: Any, ref: str = REF) -> Named:
    return Named(name=name, ref=ref, place=place, store="file:///s", kind="model", fingerprint="f" * 64)


class Several:
    """An endpoint `chat` in this process, beside whose model is `other`, an application of its own."""

    def __init__(self, *names: Named, own_queue: Admission | None = None) -> None:
        self.own, self.engine, self.other = Small(), Small(), Small()
        beside = Sharing()
        beside._passed = Gateway(self.other.app, OTHER_REF, Limits(), None, Admission(1, 0))
        self.opened: list[str] = []

        def open_ask(application: str) -> Any:
            self.opened.append(application)
            return beside.pass_on

        self.models = Models(self.own.app, self.engine.app, "chat", open_ask)
        self.models.set_models(names)
        self.app = Gateway(self.models, REF, Limits(), None, own_queue, models=self.models)


@pytest.mark.timeout(60)
def test_each_name_is_answered_by_its_model() -> None:
    async def run() -> None:
        several = Several(named("gpt", OWN), named("tuned", ADAPTER, "sft/a-1"), named("other", APPLICATION, OTHER_REF))
        assert several.opened == ["chat+other"]
        async with asking(several.app) as client:
            for path in PATHS:
                for asked, artifact in (("chat", REF), ("gpt", REF), ("tuned", "sft/a-1"), ("other", OTHER_REF)):
                    reply = await client.post(path, json={"model": asked, "prompt": "a b"})
                    assert (reply.status_code, reply.headers.get_list("trunkline-artifact")) == (200, [artifact])
        assert [body["model"] for _, body in several.own.seen] == ["chat", "chat"] * 2
        assert [body["model"] for _, body in several.engine.seen] == ["tuned"] * 2
        assert [body["model"] for _, body in several.other.seen] == ["other"] * 2
        several.models.set_models([named("gpt", ADAPTER, "sft/b-2")])  # another model under a name
        async with asking(several.app) as client:
            reply = await client.post(PATHS[0], json={"model": "gpt", "messages": []})
            assert reply.headers["trunkline-artifact"] == "sft/b-2"
            await client.post(PATHS[0], json={"model": "other", "messages": []})
        assert several.own.seen[-1][1]["model"] == "other"  # whose application says that it knows no such model
        assert len(several.other.seen) == 2

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_all_names_are_listed() -> None:
    async def run() -> None:
        several = Several(named("gpt", OWN), named("other", APPLICATION, OTHER_REF))
        async with asking(several.app) as client:
            reply = await client.get("/v1/models")
        assert [card["id"] for card in reply.json()["data"]] == ["chat", "gpt", "other"]
        assert reply.json()["data"][2]["root"] == OTHER_REF and reply.headers["trunkline-artifact"] == REF

    asyncio.run(run())


@pytest.mark.timeout(60)
def test_each_model_has_a_queue_of_its_own() -> None:
    async def run() -> None:
        full = Admission(1, 0)
        several = Several(named("other", APPLICATION), own_queue=full)
        with full.place({}):
            async with asking(several.app) as client:
                statuses = [
                    (await client.post(PATHS[1], json={"model": model, "prompt": "a"})).status_code
                    for model in ("chat", "other")
                ]
        assert statuses == [429, 200]

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b'{"model": 5}', b"{}"])
def test_what_names_no_model_is_left_to_the_application(body: bytes) -> None:
    async def run() -> int:
        several = Several(named("gpt", OWN))
        async with asking(several.models) as client:
            await client.post(PATHS[1], content=body)
        return len(several.other.seen) + len(several.engine.seen)

    assert asyncio.run(run()) == 0


@pytest.mark.heavy
def test_an_engine_takes_adapters_that_fit_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    inputs = make_inputs(store, write_sources(tmp_path))
    base, _ = by_method(inputs, store, "lora")  # it has a chat template, which what it was made of had not
    inputs_of_tuned = {**inputs, "model": base}
    lora, _ = by_method(inputs_of_tuned, store, "lora", seed=2)
    soft, _ = by_method(inputs_of_tuned, store, "prefix")
    roomy = EndpointSpec(model="tiny", max_adapters=1)
    assert fits(lora, base, roomy)
    assert not fits(base, inputs["model"], roomy)  # its conversations would be put otherwise
    assert not fits(lora, inputs["model"], roomy) and not fits(lora, base, EndpointSpec(model="tiny"))
    assert not fits(soft, base, roomy) and not fits(base, base, roomy)
    refs = {"alias": base.record.ref, "tuned": lora.record.ref, "soft": soft.record.ref}
    found = resolved(refs, roomy, "chat", base, store)
    assert [each.place for each in found] == [OWN, ADAPTER, APPLICATION]
    with pytest.raises(InputError, match="own name"):
        resolved({"chat": lora.record.ref}, roomy, "chat", base, store)


@pytest.mark.heavy
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_an_engine_answers_by_adapters_that_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the whole models do that the same training has made; and by none that is gone."""
    store = Store(tmp_path / "store")
    inputs = make_inputs(store, write_sources(tmp_path))
    base, _ = by_method(inputs, store, "lora")
    tuned = [by_method({**inputs, "model": base}, store, "lora", seed=seed)[0] for seed in (2, 3)]
    spec = EndpointSpec(model="tiny", kv_cache_gib=0.1, max_adapters=1)
    for name, value in engine_environment(spec).items():
        monkeypatch.setenv(name, value)
    prompt = "def add("
    expected = ["".join(InProcess(each).complete(prompt, Sampling(max_tokens=16))) for each in (base, *tuned)]
    assert len(set(expected)) == 3

    async def run() -> None:
        engine, arguments = open_engine(base, "chat", engine_arguments(spec, base))
        app = await engine_app(engine, arguments)
        adapters = Adapters(engine, app.state.openai_serving_models)

        async def ask(model: str) -> tuple[int, str]:
            body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0}
            status, answer = await called(app, "/v1/completions", json.dumps(body).encode())
            return status, json.loads(answer)["choices"][0]["text"] if status == 200 else ""

        assert await ask("chat") == (200, expected[0]) and (await ask("support"))[0] == 404
        for artifact, answer in zip(tuned, expected[1:], strict=True):
            wanted = [Named(name="support", ref=artifact.record.ref, place=ADAPTER, store=artifact.store_url,
                            kind=artifact.kind, fingerprint=artifact.fingerprint)]  # fmt: skip
            await adapters.load(wanted)
            await adapters.name(wanted)
            assert await ask("support") == (200, answer)
            assert len(await engine.list_loras()) == 1
        await adapters.name([])
        assert (await ask("support"))[0] == 404 and await ask("chat") == (200, expected[0])
        engine.shutdown()

    asyncio.run(run())


def test_a_name_is_checked_before_anything_starts() -> None:
    with pytest.raises(SpecError, match="is no name"):
        override(EndpointSpec(model="tiny"), {"models": {"a/b": "x"}}, "endpoint")
