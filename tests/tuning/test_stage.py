"""The stage on a real cluster: models that chat, and adapters that fit."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from cluster.core import metrics
from cluster.core.build import build
from cluster.core.encoding import encode
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, PretrainedSpec, QuantizeSpec, SftSpec
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.templates import prepare
from tests.tuning.tiny_sft import LENGTH, SCALING, TEMPLATES, make_inputs, sft, write_sources

pytestmark = pytest.mark.heavy

Inputs = dict[str, Artifact]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Inputs:
    return make_inputs(Store(tmp_path_factory.mktemp("inputs")), sources)


def run(inputs: Inputs, root: Path, spec: SftSpec, **scaling: Any) -> Artifact:
    """Tune in a store of its own, from the shared inputs."""
    return build(spec, inputs, store=Store(root), scaling=msgspec.structs.replace(SCALING, **scaling), name="tiny")


@pytest.fixture(scope="module")
def full(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Artifact:
    return run(inputs, tmp_path_factory.mktemp("full"), sft("full"), checkpoint_every_seconds=1000.0)


@pytest.fixture(scope="module")
def lora(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Artifact:
    """Packed: 4 rows hold some 15 conversations."""
    spec = sft("lora", packing=True, global_batch_size=4)
    return run(inputs, tmp_path_factory.mktemp("lora"), spec, checkpoint_every_seconds=1000.0)


@pytest.fixture(scope="module")
def qlora(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Artifact:
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    prepare(tokenizer, TEMPLATES["qlora"])
    median = statistics.median(lengths(tokenizer, inputs))
    return run(inputs, tmp_path_factory.mktemp("qlora"), sft("qlora", sequence_length=int(median)))


def lengths(tokenizer: Any, inputs: Inputs) -> list[int]:
    rows = read_conversations(inputs["conversations"].local(), "train")
    return [len(encode(tokenizer, row["messages"]).tokens) for row in rows]


def loaded(artifact: Artifact) -> Any:
    return AutoModelForCausalLM.from_pretrained(artifact.local(), dtype=torch.float32)


def heldout_loss(model: Any, tokenizer: Any, inputs: Inputs, longest: int = LENGTH) -> float:
    """Nats per learned token over the held-out conversations, one at a time, as anyone would compute it."""
    summed, count = 0.0, 0
    for row in read_conversations(inputs["conversations"].local(), "heldout"):
        encoded = encode(tokenizer, row["messages"])
        if len(encoded.tokens) > longest:
            continue
        tokens = torch.tensor([encoded.tokens])
        with torch.no_grad():
            chosen = model(tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
        learned = torch.tensor(encoded.learn[1:])
        summed, count = summed - float(chosen[learned].sum()), count + int(learned.sum())
    return summed / count


def test_all_weights_learn_and_the_figures_are_true(full: Artifact, inputs: Inputs) -> None:
    first = metrics.read(full.location)[0]
    assert full.metrics["validation_loss"] < 0.5 * first["loss"]
    assert full.metrics["trained_parameters"] == full.metrics["parameters"] == loaded(full).num_parameters()
    tokenizer = AutoTokenizer.from_pretrained(full.local())
    expected = heldout_loss(loaded(full), tokenizer, inputs)
    assert full.metrics["validation_loss"] == pytest.approx(expected, rel=1e-4)
    assert not [name for name in full.record.files if name.startswith((".train", "adapter"))]


def test_it_chats_with_the_template_that_it_carries(full: Artifact, inputs: Inputs) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(full.local()), loaded(full)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert len(tokenizer) == model.config.vocab_size == loaded(inputs["model"]).config.vocab_size + 2
    assert (tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id) == (end, end, end)
    finished = 0
    rows = read_conversations(inputs["conversations"].local(), "heldout")[:10]
    for row in rows:
        ask = row["messages"][:-1]
        text = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
        assert text == f"<|im_start|>user\n{ask[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        tokens = model.generate(**prompt, max_new_tokens=LENGTH // 2, do_sample=False)[0]
        answer = tokens[prompt["input_ids"].shape[1] :].tolist()
        finished += answer[-1] == end and end not in answer[:-1]
    assert finished >= 0.8 * len(rows)


@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_an_adapter_is_merged_and_can_be_had_apart(
    adapter: str, inputs: Inputs, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(adapter)
    base = loaded(inputs["model"])
    weights = load_file(artifact.local() / "adapter" / "adapter_model.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    assert sum(tensor.numel() for tensor in weights.values()) == artifact.metrics["trained_parameters"]
    assert artifact.metrics["parameters"] == base.num_parameters()
    merged, before = loaded(artifact), dict(base.named_parameters())
    for name, parameter in merged.named_parameters():
        low_rank = f"base_model.model.{name.removesuffix('.weight')}.lora"
        up, down = (weights.get(f"{low_rank}_{side}.weight") for side in "BA")
        update = torch.zeros(()) if up is None or down is None else 2.0 * up @ down
        assert (up is None) == ("proj" not in name)
        assert up is None or update.abs().max() > 1e-3, f"{name} has not been trained"
        torch.testing.assert_close(parameter, before[name] + update, rtol=0, atol=1e-6)
    with_adapter = PeftModel.from_pretrained(base, artifact.local() / "adapter")
    tokens = torch.arange(5, 45)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, with_adapter(tokens).logits, rtol=0, atol=1e-4)


def test_lora_learns_and_the_figures_are_true(lora: Artifact, inputs: Inputs) -> None:
    tokenizer = AutoTokenizer.from_pretrained(lora.local())
    assert "### Response:" in tokenizer.chat_template
    before, after = (heldout_loss(loaded(artifact), tokenizer, inputs) for artifact in (inputs["model"], lora))
    assert lora.metrics["validation_loss"] == pytest.approx(after, rel=1e-4)
    assert after < 0.9 * before
    told, whole = lora.metrics, lengths(tokenizer, inputs)
    assert (told["conversations"], told["too_long"], told["lost_tokens"]) == (len(whole), 0, 0)
    assert sum(whole) / LENGTH <= told["rows"] < 1.2 * sum(whole) / LENGTH
    assert told["padding_share"] < 0.1 < told["padding_share_unpacked"] < 0.6
    assert told["epochs"] == pytest.approx(3.0, abs=4 / told["rows"])


def test_qlora_learns_over_packed_weights(qlora: Artifact, inputs: Inputs) -> None:
    """Its loss is that of the packed model; the artifact's, whose weights are whole, is near it."""
    tokenizer = AutoTokenizer.from_pretrained(qlora.local())
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    packed = AutoModelForCausalLM.from_pretrained(
        inputs["model"].local(), dtype=torch.float32, quantization_config=nf4, device_map={"": "cpu"}
    )
    models = loaded(inputs["model"]), loaded(qlora), PeftModel.from_pretrained(packed, qlora.local() / "adapter")
    before, after, expected = (heldout_loss(m, tokenizer, inputs, qlora.spec["sequence_length"]) for m in models)
    told = qlora.metrics["validation_loss"]
    assert after < 0.9 * before
    assert told == pytest.approx(after, rel=0.05)
    assert abs(told - expected) < 0.1 * abs(told - after)
    assert "quantization_config" not in json.loads((qlora.local() / "config.json").read_text())


def test_conversations_that_are_too_long_are_counted(qlora: Artifact, inputs: Inputs) -> None:
    found = lengths(AutoTokenizer.from_pretrained(qlora.local()), inputs)
    too_long = sum(length > qlora.spec["sequence_length"] for length in found)
    assert 0 < too_long < len(found)
    assert (qlora.metrics["too_long"], qlora.metrics["conversations"]) == (too_long, len(found) - too_long)
    lost = sum(length for length in found if length > qlora.spec["sequence_length"])
    assert (qlora.metrics["lost_tokens"], qlora.metrics["cut"]) == (lost, 0)


@pytest.mark.parametrize(
    ("spec", "scaling", "words"),
    [
        (sft("lora", template="chatml"), {}, r"chatml needs <\|im_start\|>, <\|im_end\|>, which the model's tokenizer"),
        (sft("lora", template=""), {}, "the model has no chat template of its own.*chatml, alpaca, completion"),
        (sft("qlora"), {"zero_stage": 3}, "ZeRO 3 cannot cut the packed weights"),
        (sft("full"), {"num_workers": 3}, "16 sequences do not divide among 3 workers"),
    ],
)
def test_what_is_wrong_is_told_before_a_cluster_is_asked_for(
    spec: SftSpec,
    scaling: dict[str, Any],
    words: str,
    inputs: Inputs,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )
    with pytest.raises(SpecError, match=words):
        run(inputs, Path(store.root.url), spec, **scaling)


def test_conversations_that_are_all_too_long(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"conversations/tiny.*, train: no conversation fits into 8 tokens \(480 are too"
    ):
        run(inputs, tmp_path, sft("full", sequence_length=8))


def test_no_conversation_goes_beyond_the_models_context(inputs: Inputs, tmp_path: Path) -> None:
    """A model of absolute positions fails there, within a step; another one guesses."""
    config = json.loads((inputs["model"].local() / "config.json").read_text())
    short = shutil.copytree(inputs["model"].local(), tmp_path / "short")
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    own = Store(tmp_path / "artifacts")
    model = build(PretrainedSpec(source=str(short)), {}, store=own, name="short")
    with pytest.raises(InputError, match="train: no conversation fits into 8 tokens"):
        run(inputs | {"model": model}, tmp_path / "artifacts", sft("full"))


def test_a_quantized_model_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    int8 = build(QuantizeSpec(), {"model": inputs["model"]}, store=Store(tmp_path), name="int8")
    with pytest.raises(InputError, match="is quantized: its weights cannot be trained"):
        run(inputs | {"model": int8}, tmp_path, sft("full"))


def test_muon_does_not_go_with_an_adapter() -> None:
    with pytest.raises(SpecError, match="muon trains whole matrices"):
        convert({"method": {"type": "lora"}, "optimizer": "muon"}, SftSpec, "sft")


@pytest.fixture(scope="module")
def second_round(full: Artifact, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of one round, tuned on conversations of another kind, with some of the first among them."""
    root = tmp_path_factory.mktemp("second")
    rows = [{"prompt": f"Say {number}.", "response": f"{number}!"} for number in range(200)]
    (root / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = ConversationsSpec(source="file", path=str(root / "others.jsonl"), heldout_fraction=0.1)
    others = build(spec, {}, store=Store(root), name="others")
    first = inputs["conversations"]
    given = {"model": full, "conversations": others, "replay_first": first, "validation_first": first}
    tuning = sft("full", template="", epochs=1.0, replay_fraction=0.25)
    return run(given, root, tuning, checkpoint_every_seconds=1000.0)


def test_a_round_learns_the_rounds_before_again_and_tells_what_it_forgot(
    second_round: Artifact, full: Artifact, inputs: Inputs
) -> None:
    found = second_round.metrics
    assert (found["replayed"], found["conversations"]) == (60, 240)  # a quarter of the epoch
    tokenizer = AutoTokenizer.from_pretrained(second_round.local())
    prepare(tokenizer, "")
    expected = heldout_loss(loaded(second_round), tokenizer, inputs)
    assert found["validation_loss_first"] == pytest.approx(expected, rel=1e-4)
    assert found["validation_loss_first"] != full.metrics["validation_loss"]


@pytest.mark.parametrize(
    ("fields", "inputs", "said"),
    [
        ({}, {"earlier": None}, "no input is called 'earlier'"),
        ({}, {"validation_": None}, "no input is called 'validation_'"),
        ({"replay_fraction": 0.1}, {}, "replay_fraction: goes with inputs replay_NAME"),
        ({}, {"replay_first": None}, "replay_fraction: goes with inputs replay_NAME"),
    ],
)
def test_inputs_of_rounds_have_names(fields: dict[str, Any], inputs: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        SftSpec(**fields).check_inputs({"model": None, "conversations": None, **inputs})
