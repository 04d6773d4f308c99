"""What a card says of a model: what it is, what was done to it, what it learned from, and under which licences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from msgspec import structs

from cluster.core.adapters import weights_digest
from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    AdapterSpec,
    ConversationsSpec,
    CorpusSpec,
    DpoSpec,
    ExportSpec,
    ExtendedModelSpec,
    JsonLinesSource,
    Lora,
    PreferencesSpec,
    PretrainedSpec,
    PretrainSpec,
    PTuningV2,
    QuantizeSpec,
    RewardSpec,
    RlhfSpec,
    SftSpec,
    Simpo,
    TokensSpec,
    VocabularySpec,
)
from pipelines.stages.alignment.advantages import AnyAdvantage
from pipelines.stages.alignment.advantages.gae import Gae
from pipelines.stages.alignment.advantages.group import Group
from pipelines.stages.alignment.advantages.leave_one_out import LeaveOneOut
from pipelines.stages.alignment.advantages.normalized_batch import NormalizedBatch
from pipelines.stages.alignment.losses import AnyPolicyLoss
from pipelines.stages.alignment.losses.cispo import Cispo
from pipelines.stages.alignment.losses.clipped import Clipped
from pipelines.stages.alignment.losses.gspo import Gspo
from pipelines.stages.compression.weights import quantize
from pipelines.stages.export.card import without_places
from pipelines.stages.export.claim import claim
from pipelines.stages.export.kinds import Kind, stages
from pipelines.stages.export.origins import lineage
from tests.export import lines

TALK = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}]


def export(store: Store, model: Artifact, **fields: Any) -> tuple[Artifact, dict[str, Any], str]:
    """The exported artifact, its card's front matter, and the card."""
    made = build(ExportSpec(**fields), {"model": model}, store=store, name="x")
    card = made.location.read_bytes("README.md").decode()
    return made, yaml.safe_load(card.split("---\n")[1]), card


def conversations(store: Store, license: str, **inputs: Artifact) -> Artifact:
    spec = ConversationsSpec(source="file", path="/home/someone/secret/chats.jsonl", license=license)
    return commit_rows(store, spec, license, {"messages": TALK}, **inputs)


def commit_rows(store: Store, spec: Any, license: str, row: dict[str, Any], **inputs: Artifact) -> Artifact:
    return lines.commit(
        store, spec, lines.rows({"id": "1", "source": "clinic logs", "license": license, **row}), **inputs
    )


def sft(store: Store, model: Artifact, talks: Artifact, **fields: Any) -> Artifact:
    return lines.commit(store, SftSpec(**fields), lines.folder(chat=True), model=model, conversations=talks)


def test_a_base_model(store: Store) -> None:
    made, front, card = export(store, lines.pretrained_on(store, lines.corpus(store, "MIT", "The MIT License")))
    assert (front["license"], front["pipeline_tag"]) == ("mit", "text-generation")
    assert front["tags"] == ["trunkline", "pretrained"] and "base_model" not in front
    assert "base model that continues text" in card and "A causal language model with" in card
    assert "| corpus/line | MIT | 2 documents |" in card
    assert (
        transformers.AutoModelForCausalLM.from_pretrained(made.local()).num_parameters() == made.metrics["parameters"]
    )


def test_conversations_bound_the_claim_and_the_text_says_what_was_done(store: Store) -> None:
    base = lines.pretrained_on(store, lines.corpus(store, "MIT"))
    tuned = sft(store, base, conversations(store, "CC BY-NC 4.0"))
    _, front, card = export(store, tuned)
    assert front["license"] == "cc-by-nc-4.0"
    assert (front["base_model"], front["base_model_relation"]) == (base.record.ref, "finetune")
    assert front["tags"] == ["trunkline", "pretrained", "sft", "conversational"]
    assert "| conversations/line | CC-BY-NC-4.0 | 1 conversations |" in card
    assert "1 conversations of `clinic logs`" in card
    assert "supervised fine-tuning" in card and "It was tuned on conversations" in card
    assert "is a base model" not in card and "not tuned" not in card and "forbids commercial use" in card
    assert "/home/" not in card and "chats.jsonl" in card


def test_a_card_says_by_which_algorithm_a_model_was_aligned(store: Store) -> None:
    files = lines.folder(chat=True)
    tuned = lines.commit(store, SftSpec(), files, model=lines.commit(store, PretrainSpec(), files))
    cases: list[tuple[AnyAdvantage, AnyPolicyLoss, str, str]] = [
        (Group(), Clipped(), "GRPO", "grpo"),
        (Group(scale=False), Clipped(), "Dr. GRPO", "dr-grpo"),
        (Gae(), Clipped(), "PPO", "ppo"),
        (LeaveOneOut(), Clipped(), "RLOO", "rloo"),
        (NormalizedBatch(), Clipped(), "REINFORCE++", "reinforceplusplus"),
        (Group(), Gspo(), "GSPO", "gspo"),
        (Group(), Cispo(), "CISPO", "cispo"),
        (LeaveOneOut(), Cispo(), "RLOO with CISPO", "rloo-with-cispo"),
    ]
    for advantage, loss, name, tag in cases:
        spec = RlhfSpec(rewards={"python_parses": 1.0}, advantage=advantage, loss=loss)
        kind = Kind.of(lines.commit(store, spec, files, model=tuned))
        assert kind.metadata()["tags"] == ["trunkline", "pretrained", "sft", "rlhf", tag, "conversational"]
        assert f"aligned by reinforcement learning ({name}) with these rewards: `python_parses`" in kind.intended_use()
        assert stages(kind.chain)[-1] == f"- rlhf/line: reinforcement learning ({name})"


def test_preferences_and_prompts_count_through_reward_and_rlhf(store: Store) -> None:
    tuned = sft(store, lines.pretrained_on(store, lines.corpus(store, "MIT")), conversations(store, "Apache 2.0"))
    spec = PreferencesSpec(source="file", path="/data/pairs.jsonl")
    pairs = commit_rows(store, spec, "cc-by-sa-4.0", {"prompt": TALK[:1], "chosen": "yes", "rejected": "no"})
    reward = lines.commit(store, RewardSpec(), lines.folder(lines.scorer(), chat=True), model=tuned, preferences=pairs)
    made, front, card = export(store, reward)
    assert (front["pipeline_tag"], front["license"]) == ("text-classification", "cc-by-sa-4.0")
    assert "reward-model" in front["tags"] and "conversational" not in front["tags"]
    assert "writes no text" in card and "A reward model with" in card
    assert transformers.AutoModelForSequenceClassification.from_pretrained(made.local()).config.num_labels == 1
    rlhf = lines.commit(
        store, RlhfSpec(rewards={"/home/me/rules.py:short": 1.0, "reward_model": 0.5}), lines.folder(chat=True),
        model=tuned, prompts=conversations(store, "MIT"), reward=reward,
    )  # fmt: skip
    _, front, card = export(store, rlhf)
    assert {"sft", "rlhf", "grpo"} <= set(front["tags"]) and front["license"] == "cc-by-sa-4.0"
    dpo = lines.commit(store, DpoSpec(loss=Simpo()), lines.folder(chat=True), model=tuned, preferences=pairs)
    _, front, own = export(store, dpo)
    assert {"sft", "simpo"} <= set(front["tags"]) and front["license"] == "cc-by-sa-4.0"
    assert "aligned by preferences (SimPO)" in own and "preference optimization (SimPO), all weights" in own
    assert "aligned by reinforcement learning (GRPO)" in card and "`rules.py:short`, `reward_model`" in card
    assert "/home/" not in card and "base model" not in card
    assert front["base_model"] == tuned.record.ref


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_a_quantized_model_keeps_its_numbers_and_the_text_of_what_it_was(
    store: Store, tmp_path: Path, scheme: Any
) -> None:
    wide = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=300, max_position_embeddings=64, **wide)
    files = lines.folder(transformers.LlamaForCausalLM(config), chat=True)
    tuned = lines.commit(
        store, SftSpec(), files, model=lines.pretrained_on(store, lines.corpus(store, "MIT")),
        conversations=conversations(store, "MIT"),
    )  # fmt: skip
    spec = QuantizeSpec(scheme=scheme)
    quantize(tuned.local(), spec, tmp_path / "q", lambda *_: None)
    rounded = files | {path.name: path.read_bytes() for path in (tmp_path / "q").iterdir()} | {"report.json": b"{}"}
    asked = conversations(store, "CC-BY-NC-4.0")  # the report was made on them, and nothing learned
    model = lines.commit(store, spec, rounded, model=tuned, conversations=asked)
    made, front, card = export(store, model)
    assert (front["base_model"], front["base_model_relation"]) == (tuned.record.ref, "quantized")
    assert {"sft", scheme, "compressed-tensors"} <= set(front["tags"]) and front["license"] == "mit"
    assert f"linear layers in {scheme.upper()}, the others in bfloat16" in card and "tuned on conversations" in card
    assert made.location.read_bytes("model.safetensors") == model.location.read_bytes("model.safetensors")
    assert not made.location.exists("report.json")
    assert made.metrics["parameters"] == transformers.LlamaForCausalLM(config).num_parameters()


def test_bert_is_a_masked_language_model(store: Store) -> None:
    model = lines.pretrained_on(
        store, lines.corpus(store, "MIT"), lines.folder(lines.bert()), model="bert-1m", objective="masked"
    )
    made, front, card = export(store, model, dtype="bfloat16")
    assert front["pipeline_tag"] == "fill-mask" and "A masked language model" in card
    assert "fills in masked tokens" in card and "objective masked" in card
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(made.local())).__name__ == "BertForMaskedLM"
    original = transformers.AutoModelForMaskedLM.from_pretrained(model.local(), dtype="bfloat16").state_dict()
    exported = transformers.AutoModelForMaskedLM.from_pretrained(made.local(), dtype="auto").state_dict()
    assert all((exported[name] == original[name]).all() for name in original)


def test_what_does_not_write_is_not_tuned_to(store: Store) -> None:
    """A loader would put a fresh head in the place of that of a BERT or of a reward model, and say nothing."""
    texts, talks = lines.corpus(store, "MIT"), conversations(store, "MIT")
    bert = lines.pretrained_on(store, texts, lines.folder(lines.bert()), model="bert-1m", objective="masked")
    spec = PreferencesSpec(source="file", path="x")
    pairs = commit_rows(store, spec, "MIT", {"prompt": TALK[:1], "chosen": "yes", "rejected": "no"})
    scorer = lines.commit(store, RewardSpec(), lines.folder(lines.scorer()), model=bert, preferences=pairs)
    exported, _, _ = export(store, scorer)
    for model, name in ((bert, "BertForMaskedLM"), (exported, "LlamaForSequenceClassification")):
        with pytest.raises(InputError, match=f"is a {name}, which does not write text"):
            build(SftSpec(template="alpaca"), {"model": model, "conversations": talks}, store=store, name="x")


def test_a_glm_is_refused(store: Store) -> None:
    model = lines.pretrained_on(store, lines.corpus(store, "MIT"), lines.glm_files(), objective="infilling_short")
    with pytest.raises(InputError, match="is a GLM") as raised:
        export(store, model)
    assert model.record.ref in str(raised.value) and "Filler" in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "metrics", "base", "license"),
    [
        (PretrainedSpec(source="hub:org/model"), {"hub": "org/model", "license": "gemma"}, "org/model", "other"),
        (PretrainedSpec(source="package:p"), {"package": "p==1", "license": "Apache 2.0"}, "", "apache-2.0"),
        (PretrainedSpec(source="/home/me/models/fine"), {}, "", "other"),
        (PretrainedSpec(source="llama2c:/home/me/stories"), {"license": "unknown"}, "", "other"),
    ],
)
def test_a_model_of_others(store: Store, spec: Any, metrics: dict[str, Any], base: str, license: str) -> None:
    taken_in = lines.commit(store, spec, lines.folder(chat=True), metrics)
    _, front, card = export(store, taken_in)
    assert front.get("base_model", "") == base and front["license"] == license
    assert "base_model_relation" not in front and "which others trained" in card
    tuned = sft(store, taken_in, conversations(store, "MIT"), method=Lora(), template="")
    _, front, card = export(store, tuned)
    assert front["base_model"] == (base or taken_in.record.ref) and front["base_model_relation"] == "finetune"
    assert front["license"] == license and "lora" in front["tags"]
    assert "low-rank updates of all linear layers (rank 16), merged" in card and "/home" not in card
    further = lines.commit(
        store, PretrainSpec(), lines.folder(), model=tuned,
        tokens=lines.commit(store, TokensSpec(), {}, corpus=lines.corpus(store, "MIT"), tokenizer=tuned),
    )  # fmt: skip
    _, front, card = export(store, further)
    assert "trained further on text" in card and "what tuning taught may be lost" in card
    assert front["base_model"] == (base or tuned.record.ref)


@pytest.mark.parametrize("method", [Lora(rank=4), Lora(rank=4, dora=True), PTuningV2(pre_seq_len=8)])
def test_an_adapter_tells_its_base_and_how_to_call_it(store: Store, method: Any) -> None:
    base = lines.commit(store, PretrainedSpec(), lines.folder(chat=True), {"hub": "org/model", "license": "mit"})
    files = lines.folder(chat=True)
    if not method.merges:
        del files["model.safetensors"]
    files |= {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"weights"}
    spec = SftSpec(method=method, template="alpaca")
    given = {"model": base, "conversations": conversations(store, "CC-BY-NC-4.0")}
    tuned = lines.commit(store, spec, files, {"trained_parameters": 1234}, **given)
    made = build(AdapterSpec(), {"model": tuned}, store=store, name="law")
    card = made.location.read_bytes("README.md").decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["library_name"], front["base_model"], front["base_model_relation"]) == (
        "peft",
        "org/model",
        "adapter",
    )
    assert {"adapter", method.name, "conversational"} <= set(front["tags"]) and front["license"] == "cc-by-nc-4.0"
    assert f"An adapter with 1,234 parameters over org/model: {method.told}." in card
    assert f"`{base.fingerprint}`" in card and f"`{weights_digest(base)}`" in card
    assert ("vLLM serves it as a LoRA" in card) == method.loads_in_vllm
    assert "one chat template, `alpaca`" in card
    opening = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("org/model"), "law")'
    assert opening in card and "/home" not in card
    compile(card.split("```python")[1].split("```")[0], "card", "exec")


def test_rounds_tell_their_data_and_what_was_forgotten(store: Store) -> None:
    def round_of(model: Artifact, loss: float, talks: Artifact, **more: Any) -> Artifact:
        asked = {name: given for name, given in more.items() if isinstance(given, Artifact)}
        figures = {"validation_loss": loss} | {name: given for name, given in more.items() if name not in asked}
        spec = SftSpec(replay_fraction=0.1 if asked else 0.0)
        return lines.commit(store, spec, lines.folder(chat=True), figures, model=model, conversations=talks, **asked)

    base = lines.pretrained_on(store, lines.corpus(store, "MIT"))
    known, spec = conversations(store, "CC BY-NC 4.0"), ConversationsSpec(source="file", path="papers.jsonl")
    new = commit_rows(store, spec, "Apache 2.0", {"messages": TALK, "source": "papers"})
    first = round_of(base, 1.5, known)
    assert "Forgetting" not in export(store, first)[2]
    told = {"validation_loss_known": 1.75, "replay_known": known, "validation_known": known}
    _, front, card = export(store, round_of(first, 1.25, new, **told))
    assert front["license"] == "cc-by-nc-4.0" and card.count("## Training data") == 3  # the corpus, too
    assert "| held out of | after round 1 | after round 2 |" in card
    assert "| clinic logs | 1.5000 | 1.7500 |" in card and "| papers |  | 1.2500 |" in card


def test_records_from_before_there_were_methods(store: Store) -> None:
    base = lines.commit(store, PretrainedSpec(), lines.folder(chat=True), {"hub": "org/model", "license": "mit"})
    now = sft(store, base, conversations(store, "MIT"))
    fields = {name: value for name, value in now.spec.items() if name != "method"}
    for adapter, words in (("none", "all weights"), ("qlora", "over NF4 (rank 4), merged into the weights")):
        spec = fields | {"adapter": adapter, "lora_rank": 4}
        older = Artifact(structs.replace(now.record, spec=spec), now.location, store)
        assert stages([older])[0].endswith(words)
        assert (adapter in Kind.of(older).metadata()["tags"]) == (adapter == "qlora")


def test_what_was_only_measured_on_is_no_source(store: Store) -> None:
    known = lines.corpus(store, "GPL-3.0")
    texts = lines.corpus(store, "MIT", seed=1, sources=(JsonLinesSource(path="/srv/data/mine.jsonl"),))
    files = {name: texts.location.read_bytes(name) for name in texts.location.walk() if name != "artifact.json"}
    texts = lines.commit(store, CorpusSpec(seed=2), files, known=known)
    other = lines.corpus(store, "CC-BY-NC-4.0", seed=3)
    pieces = lines.commit(
        store,
        VocabularySpec(base="/srv/tokenizer.model"),
        {},
        corpus=texts,
        unchanged=lines.corpus(store, "odbl", seed=4),
    )
    tokens = lines.commit(store, TokensSpec(), {}, corpus=texts, tokenizer=pieces)
    seen = lines.commit(store, TokensSpec(sequence_length=8), {}, corpus=other, tokenizer=pieces)
    model = lines.commit(store, PretrainSpec(), lines.folder(), tokens=tokens, validation_other=seen)
    model = lines.commit(store, ExtendedModelSpec(), lines.folder(), model=model, tokenizer=pieces)
    _, front, card = export(store, model)
    assert front["license"] == "mit" and card.count("## Training data") == 1
    assert "/srv" not in card and other.fingerprint in card  # in the table of what was there


def test_an_older_record_of_a_file_names_an_input_that_was_not_read(store: Store) -> None:
    """Scripts used to give a corpus to conversations of a file; such an artifact still exports, and without it."""
    demo = lines.corpus(store, "GPL-3.0", seed=5)
    talks = conversations(store, "MIT", corpus=demo)
    model = sft(store, lines.pretrained_on(store, lines.corpus(store, "MIT")), talks)
    _, front, card = export(store, model)
    assert front["license"] == "mit" and demo.fingerprint not in card
    assert demo.fingerprint not in {artifact.fingerprint for artifact in lineage([model])}


def test_older_pairs_have_the_licences_of_their_conversations(store: Store) -> None:
    talks = conversations(store, "CC-BY-NC-4.0")
    tuned = sft(store, lines.pretrained_on(store, lines.corpus(store, "MIT")), conversations(store, "MIT"))
    files = lines.rows({"id": "1", "prompt": TALK[:1], "chosen": "yes", "rejected": "no", "how": "foreign"})
    pairs = lines.commit(store, PreferencesSpec(), files, conversations=talks)
    reward = lines.commit(store, RewardSpec(), lines.folder(lines.scorer(), chat=True), model=tuned, preferences=pairs)
    _, front, card = export(store, reward)
    assert front["license"] == "cc-by-nc-4.0" and "| preferences/line | CC-BY-NC-4.0 | 1 pairs |" in card


def test_no_file_names_a_place_on_this_machine(store: Store, tmp_path: Path) -> None:
    taken_in = lines.commit(store, PretrainedSpec(source=str(tmp_path / "model")), lines.folder(chat=True))
    made, _, _ = export(store, taken_in)
    for name in made.record.files:
        if not name.endswith(".safetensors"):
            assert str(tmp_path).encode() not in made.location.read_bytes(name), name


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/srv/data/mine.jsonl", "mine.jsonl"),
        ("~/chats/", "chats"),
        ("C:\\Users\\me\\chats.jsonl", "chats.jsonl"),
        ("file:///home/me/x.jsonl", "x.jsonl"),
        ("llama2c:/home/me/stories", "llama2c:stories"),
        ({"/home/me/rules.py:short": [("/a/b",)]}, {"rules.py:short": [["b"]]}),
        ("https://example.org/list.txt", "https://example.org/list.txt"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("hub:org/model", "hub:org/model"),
        ("package:pipelines/data/x.jsonl", "package:pipelines/data/x.jsonl"),
        ("chats.jsonl", "chats.jsonl"),
        ("def f():\n    return a / b\n", "def f():\n    return a / b\n"),
        (3, 3),
    ],
)
def test_places_have_their_last_names(value: Any, shown: Any) -> None:
    assert without_places(value) == shown


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["MIT", "Apache 2.0"], "apache-2.0"),
        (["MIT", "public domain"], "mit"),
        (["MIT AND CC-BY-4.0"], "cc-by-4.0"),
        (["GPL-3.0-only OR MIT", "MIT"], "mit"),
        (["CC-BY-4.0", "CC-BY-NC-4.0"], "cc-by-nc-4.0"),
        (["CC-BY-NC-4.0", "CC-BY-NC-ND-4.0"], "cc-by-nc-nd-4.0"),
        (["CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT"], "cc-by-sa-4.0"),
        (["GPLv3", "MIT"], "gpl-3.0"),
        (["C-UDA", "MIT"], "c-uda"),
        (["CC-BY-NC-4.0", "CC-BY-SA-4.0"], ("mixed", "none of them covers")),
        (["CC-BY-NC-4.0", "CC-BY-ND-4.0"], ("mixed", "none of them covers")),
        (["GPL-2.0-only", "GPL-3.0-only"], ("mixed", "none of them covers")),
        (["MIT", ""], ("mixed", "the licence of a part is unknown")),
        (["MIT", "house rules"], ("mixed", "house rules asks for is not known")),
        (["house rules"], ("house-rules", "house rules asks for is not known")),
        (["PSF"], ("psf-2.0", "PSF-2.0")),
        (["CC BY-NC"], ("cc-by-nc", "forbids commercial use")),
        ([], ("unknown", "No source says")),
    ],
)
def test_the_strictest_licence_or_none(licenses: list[str], expected: str | tuple[str, str]) -> None:
    found = claim(licenses)
    if isinstance(expected, str):
        assert found.fields == {"license": expected}
    else:
        assert found.fields == {"license": "other", "license_name": expected[0]}
        assert expected[1] in found.sentence


def test_a_model_keeps_its_number_type_on_wish(store: Store) -> None:
    wide = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=300, max_position_embeddings=64, **wide)
    files = lines.folder(transformers.LlamaForCausalLM(config).bfloat16())
    model = lines.commit(store, SftSpec(), files, model=lines.pretrained_on(store, lines.corpus(store, "MIT")),
                         conversations=conversations(store, "MIT"))  # fmt: skip
    for dtype in ("auto", "float32"):
        made = build(ExportSpec(dtype=dtype), {"model": model}, store=store, name="tiny")  # type: ignore[arg-type]
        assert made.metrics["dtype"] == ("bfloat16" if dtype == "auto" else "float32")
