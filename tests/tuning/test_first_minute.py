"""What data, template or adapter make impossible is told in one sentence, before a cluster or a worker starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from cluster.core.build import build
from cluster.core.errors import TrunklineError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import AdapterSpec, ConversationsSpec, Lora, MergedSpec, PretrainedSpec, SftSpec, Spec
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.made import make

ECHO = (  # says again what was asked, before the answer ends
    "{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{{ ' (' + messages[loop.index0 - 1].content + ')' + eos_token if m.role == 'assistant' else '\n' }}{% endfor %}"
)
ENDLESS = "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a template of its own, and conversations, one of a long request."""
    folder = tmp_path_factory.mktemp("sources")
    write_conversations(folder / "functions.jsonl", 40)
    with (folder / "functions.jsonl").open("a") as file:
        messages = [{"role": "user", "content": "x " * 300}, {"role": "assistant", "content": "x"}]
        file.write(json.dumps({"messages": messages}) + "\n")
    write_model(folder / "model", folder / "functions.jsonl")
    return folder


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )


def model(store: Store, folder: Path, template: str = "", weights: bytes = b"", name: str = "tiny") -> Artifact:
    """The model with a template, and weights that nothing here reads."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder / name)
    files = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
    files |= {"config.json": (folder / "model" / "config.json").read_bytes(), "model.safetensors": weights}
    return make(store, PretrainedSpec(source=name), {}, files, name)


def conversations(store: Store, folder: Path) -> Artifact:
    spec = ConversationsSpec(source="file", path=str(folder / "functions.jsonl"), heldout_fraction=0.2)
    return build(spec, {}, store=store, name="tiny")


def refused(spec: Spec, inputs: dict[str, Artifact], store: Store, words: str) -> None:
    """By one sentence, and a remedy."""
    with pytest.raises(TrunklineError, match=words) as caught:
        build(spec, inputs, store=store, name="x")
    assert caught.value.exit_code == 3 and caught.value.remedy
    assert "\n" not in caught.value.message and not re.search(r"[.!?] [A-Z]", caught.value.message)


@pytest.mark.parametrize(
    ("template", "spec", "words"),
    [
        (ECHO, SftSpec(), "would have the user's words learned as an answer"),
        (ENDLESS, SftSpec(), r"ends an answer without a special token.*: '<\|im_end\|>' is none of the tokenizer's"),
        (
            "",
            SftSpec(template="chatml", method=Lora()),
            r"chatml needs <\|im_start\|>, <\|im_end\|>, which the model's",
        ),
        ("", SftSpec(template="completion", sequence_length=200), r"conversation functions\.jsonl:41 takes \d+ tokens"),
    ],
)
def test_what_nothing_could_be_learned_by(template: str, spec: SftSpec, words: str, store: Store, folder: Path) -> None:
    refused(
        spec, {"model": model(store, folder, template), "conversations": conversations(store, folder)}, store, words
    )


def test_an_adapter_on_another_base(store: Store, folder: Path) -> None:
    one, other = (model(store, folder, weights=name.encode(), name=name) for name in ("one", "other"))
    files = {
        "config.json": one.location.read_bytes("config.json"),
        "model.safetensors": b"",
        "adapter/adapter_config.json": b"{}",
        "adapter/adapter_model.safetensors": b"",
    }
    given = {"model": one, "conversations": conversations(store, folder)}
    tuned = make(store, SftSpec(method=Lora(), template="alpaca"), given, files, "tuned")
    alone = build(AdapterSpec(), {"model": tuned}, store=store, name="alone")
    for adapter in (tuned, alone):
        words = rf"{adapter.record.ref} was trained over {one.record.ref}, and {other.record.ref} has other weights"
        refused(MergedSpec(), {"model": other, "law": adapter}, store, words)


def test_records_of_another_format(store: Store, tmp_path: Path) -> None:
    """More than `max_bad_fraction` of them: the best guess is named."""
    path = tmp_path / "mixed.jsonl"
    good = [{"instruction": f"Say {n}.", "output": "Now."} for n in range(90)]
    rows: list[dict[str, Any]] = good + [{"prompt": f"Say {n}.", "response": "Then."} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec: dict[str, Any] = {"source": "file", "path": str(path), "format": "alpaca", "heldout_fraction": 0.2}
    refused(ConversationsSpec(**spec), {}, store, r"mixed\.jsonl: 10 of 100 .* in line 91: ")
    with pytest.raises(TrunklineError) as caught:
        build(ConversationsSpec(**spec), {}, store=store, name="x")
    assert "10 of 10 look like prompt-response" in str(caught.value)
    assert (
        build(ConversationsSpec(**spec, max_bad_fraction=0.1), {}, store=store, name="x").metrics["flow"]["in"] == 100
    )


def test_parquet_without_a_known_column(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.table({"frage": ["Wer?"] * 9, "antwort": ["Ich."] * 9}), tmp_path / "x.parquet")
    spec = ConversationsSpec(source="file", path=str(tmp_path / "x.parquet"))
    refused(spec, {}, store, "no known format: the fields are 'frage', 'antwort'")
