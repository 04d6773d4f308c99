"""New pieces leave text without them as it was, are reached, and cost a model no more than their parts did."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from cluster.control.screen.view import make_view
from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import load_script, run
from pipelines.specs import ExtendedModelSpec, PretrainedSpec, TokenizerSpec, VocabularySpec
from pipelines.stages.tokens.tokenizers import fertility, pieces, published, sentencepiece_model, vocabulary
from pipelines.stages.tokens.tokenizers.embeddings import extend_embeddings
from pipelines.stages.tokens.tokenizers.encoder import Encoder
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, train, train_wordpiece
from tests.conftest import ROOT, SHARED_DATA
from tests.tokens.corpora import chinese, corpus, english


def _texts(words: list[str], between: str) -> list[str]:
    rng = random.Random(0)
    return [between.join(rng.choices(words, k=60)) for _ in range(60)]


SENTENCE = "The quick brown foxes jumped over a lazy dog, watching number 12 of them. Nobody walks"
WORDS = "自然 语言 处理 人工智能 机器学习 方法 方向 是 的 一个 也 ， 有"
ENGLISH, CHINESE = _texts(SENTENCE.split(), " "), _texts(WORDS.split(), "")
KINDS = ("byte_bpe", "bpe", "unigram")


def shared(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def corpora(store: Store) -> dict[str, Artifact]:
    mixed = [f"{a} {b}" for a, b in zip(CHINESE, ENGLISH, strict=False)]
    return {
        "english": corpus(store, ENGLISH, ENGLISH[:5], "en"),
        "chinese": corpus(store, mixed, CHINESE[:5], "zh"),
    }


@pytest.fixture(scope="module")
def bases(store: Store, corpora: dict[str, Artifact]) -> dict[str, Artifact]:
    """English tokenizers that know no Chinese."""
    sizes = {"byte_bpe": 300, "bpe": 330, "unigram": 315}
    specs = {kind: TokenizerSpec(algorithm=kind, vocab_size=size) for kind, size in sizes.items()}  # type: ignore[arg-type]
    return {kind: build(spec, {"corpus": corpora["english"]}, store=store, name="base") for kind, spec in specs.items()}


@pytest.fixture(scope="module")
def extended(store: Store, corpora: dict[str, Artifact], bases: dict[str, Artifact]) -> dict[str, Artifact]:
    spec = VocabularySpec(script="Han", num_pieces=40, character_coverage=1.0)
    inputs = {"corpus": corpora["chinese"], "unchanged": corpora["english"]}
    return {
        kind: build(spec, {**inputs, "tokenizer": base}, store=store, name="extended") for kind, base in bases.items()
    }


def tokenizer(artifact: Artifact) -> Tokenizer:
    found = Tokenizer.from_file(str(artifact.local() / "tokenizer.json"))
    found.encode_special_tokens = True
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_old_ids_stay_and_new_pieces_are_used(
    bases: dict[str, Artifact], extended: dict[str, Artifact], kind: str
) -> None:
    before, after = tokenizer(bases[kind]), tokenizer(extended[kind])
    assert after.get_vocab_size() == before.get_vocab_size() + 40
    assert before.get_vocab().items() <= after.get_vocab().items()
    size = before.get_vocab_size()
    assert sorted(set(after.get_vocab().values()) - set(before.get_vocab().values())) == list(range(size, size + 40))
    assert after.encode(CHINESE[0]).ids != before.encode(CHINESE[0]).ids
    written = CHINESE[0].replace("，", ",") if kind == "unigram" else CHINESE[0]  # NFKC
    assert after.decode(after.encode(CHINESE[0]).ids) == written
    encoder = Encoder(extended[kind].local())
    assert encoder.eos_token_id == before.token_to_id(END_OF_TEXT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_tells_what_was_won(extended: dict[str, Artifact], kind: str) -> None:
    report = json.loads((extended[kind].local() / "report.json").read_text())
    assert report == extended[kind].metrics
    zh, en = report["languages"]["zh"], report["languages"]["en"]
    assert zh["after"]["tokens_per_character"] < zh["before"]["tokens_per_character"] * 2 / 3
    assert zh["after"]["coverage"] > zh["before"]["coverage"]
    assert zh["after"]["bytes_per_token"] > zh["before"]["bytes_per_token"]
    assert "tokens_per_word" in en["before"]
    assert "tokens_per_word" not in zh["before"]
    assert (en["same_ids"], en["documents"]) == (1.0, 5)
    assert en["after"] == en["before"]
    assert zh["same_ids"] == 0.0
    if kind != "unigram":
        assert report["unreachable"] == 0


ANY_TEXT = st.text() | st.text("ab fox\n ▁<|>12") | st.text("自然语言处人工智能的方向 a")


@settings(max_examples=150)
@given(text=ANY_TEXT)
def test_text_without_a_new_piece_is_encoded_as_before(
    bases: dict[str, Artifact], extended: dict[str, Artifact], text: str
) -> None:
    for kind in KINDS:
        if kind not in LOADED:
            LOADED[kind] = tokenizer(bases[kind]), tokenizer(extended[kind])
        before, after = LOADED[kind]
        old, new = before.encode(text, add_special_tokens=False), after.encode(text, add_special_tokens=False)
        if max(new.ids, default=0) < before.get_vocab_size():
            assert new.ids == old.ids
        assert after.decode(new.ids) == before.decode(old.ids)


LOADED: dict[str, tuple[Tokenizer, Tokenizer]] = {}


def test_the_extended_model_file_gives_the_same_ids(extended: dict[str, Artifact]) -> None:
    folder = extended["bpe"].local()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in (*CHINESE[:2], *ENGLISH[:2], "自然 x 智能方向\n处", "语"):
        assert processor.encode(text) == tokenizer(extended["bpe"]).encode(text, add_special_tokens=False).ids


def test_without_a_script_any_piece_is_new(store: Store, corpora: dict[str, Artifact], tmp_path: Path) -> None:
    """The tokenizer lies in a folder, and is extended a second time."""
    small = train(iter(ENGLISH), 270)
    vocabulary.save(tmp_path, small, eos_token=END_OF_TEXT)
    spec = VocabularySpec(base=str(tmp_path), num_pieces=10)
    once = build(spec, {"corpus": corpora["english"]}, store=store, name="v")
    larger = tokenizer(once)
    assert larger.get_vocab_size() == 280
    assert larger.get_vocab().items() >= small.get_vocab().items()
    assert larger.encode(ENGLISH[0]).ids == train(iter(ENGLISH), 280).encode(ENGLISH[0]).ids  # as if never stopped
    again, inputs = VocabularySpec(script="Han", num_pieces=5), {"corpus": corpora["chinese"], "tokenizer": once}
    twice = build(again, inputs, store=store, name="v")
    assert tokenizer(twice).get_vocab().items() >= larger.get_vocab().items()
    assert twice.metrics["pieces"] == 285


def test_merging_byte_level_tokenizers() -> None:
    base, other = (published.Published(train(iter(texts), 400)) for texts in (ENGLISH, CHINESE + ENGLISH[:1]))
    merged, added = vocabulary.merge(base, other)
    assert added
    assert set(merged.tokenizer.get_vocab()) == set(base.tokenizer.get_vocab()) | set(other.tokenizer.get_vocab())
    assert all(merged.tokenizer.model.tokenize(piece)[0].value == piece for piece in added)
    only_han, han = vocabulary.merge(base, other, "Han")
    assert set(han) < set(added)
    assert only_han.tokenizer.encode(ENGLISH[0]).ids == base.tokenizer.encode(ENGLISH[0]).ids
    assert only_han.tokenizer.encode(CHINESE[0]).ids != base.tokenizer.encode(CHINESE[0]).ids


def test_what_cannot_be(store: Store, corpora: dict[str, Artifact], bases: dict[str, Artifact], tmp_path: Path) -> None:
    inputs = {"corpus": corpora["chinese"], "tokenizer": bases["bpe"]}
    with pytest.raises(InputError, match=r"num_pieces: the corpus yields only [0-9]+ new pieces of the 5000"):
        build(VocabularySpec(script="Han", num_pieces=5000), inputs, store=store, name="v")
    with pytest.raises(InputError, match="'Klingon' is no script"):
        build(VocabularySpec(script="Klingon"), inputs, store=store, name="v")
    for spec, given_inputs in (
        (VocabularySpec(base="x.model"), {"corpus": None, "tokenizer": None}),
        (VocabularySpec(), {"corpus": None}),
        (VocabularySpec(), {"tokenizer": None}),
    ):
        with pytest.raises(SpecError, match="vocabulary"):
            spec.check_inputs(given_inputs)
    with pytest.raises(InputError, match="cannot be merged"):
        vocabulary.merge(published.read(bases["bpe"].local()), published.read(bases["byte_bpe"].local()))
    vocabulary.save(tmp_path / "wordpiece", train_wordpiece(lambda: iter(ENGLISH), 60), eos_token=END_OF_TEXT)
    with pytest.raises(InputError, match="WordPiece cannot be extended"):
        build(VocabularySpec(base=str(tmp_path / "wordpiece")), {"corpus": corpora["chinese"]}, store=store, name="v")
    (tmp_path / "tokenizer.json").write_bytes((bases["byte_bpe"].local() / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="does not say which token ends a text"):
        build(VocabularySpec(base=str(tmp_path)), {"corpus": corpora["chinese"]}, store=store, name="v")


# --- figures


def test_figures_by_hand(bases: dict[str, Artifact], extended: dict[str, Artifact]) -> None:
    bytes_, bpe = tokenizer(bases["byte_bpe"]), tokenizer(bases["bpe"])
    for base in (bytes_, bpe):
        figures = fertility.measure(["the 中文"], base, "en")
        assert figures["coverage"] == round(1 - 2 / 6, 4)
        assert figures["tokens_per_character"] == round(len(base.encode("the 中文").ids) / 6, 4)
        assert figures["tokens_per_word"] == len(base.encode("the 中文").ids) / 2
        assert figures["bytes_per_token"] == round(10 / len(base.encode("the 中文").ids), 4)
    words = train_wordpiece(lambda: iter(ENGLISH), 60)
    assert fertility.measure(["the жук"], words, "en")["coverage"] == round(1 - 3 / 7, 4)
    assert fertility.measure([], bpe, "zh") == {"coverage": 1.0, "tokens_per_character": 0.0, "bytes_per_token": 0.0}
    larger = tokenizer(extended["byte_bpe"])
    new = sorted(larger.get_vocab().keys() - bytes_.get_vocab().keys())
    whole = [
        text for text in (fertility.spell(piece).decode(errors="replace") for piece in new) if "\ufffd" not in text
    ]
    assert fertility.measure(whole[:1], larger, "zh")["coverage"] == 1.0
    assert fertility.measure(["x\n\ty"], bpe, "en")["coverage"] == 1.0


# --- models


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_are_means_of_old_ones(bases: dict[str, Artifact], extended: dict[str, Artifact], tied: bool) -> None:
    old, new = tokenizer(bases["bpe"]), tokenizer(extended["bpe"])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=330, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    text = old.encode(ENGLISH[0], add_special_tokens=False).ids
    assert new.encode(ENGLISH[0], add_special_tokens=False).ids == text
    with torch.no_grad():
        logits = model(torch.tensor([text])).logits
        rows, head = model.get_input_embeddings().weight.clone(), model.lm_head.weight.clone()
        assert extend_embeddings(model, old, new, pad_to_multiple_of=64) == 40
        again = model(torch.tensor([text])).logits
    assert model.config.vocab_size == again.shape[-1] == 384
    assert torch.equal(again[..., :330], logits)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    piece = "人工智能"
    parts = old.model.tokenize(piece)
    assert [part.value for part in parts[:3]] == ["<0xE4>", "<0xBA>", "<0xBA>"]
    ids = [part.id for part in parts]
    token = new.token_to_id(piece)
    assert torch.allclose(model.get_input_embeddings().weight[token], rows[ids].mean(dim=0))
    assert torch.allclose(model.lm_head.weight[token], head[ids].mean(dim=0))
    assert torch.allclose(model.lm_head.weight[380], head.mean(dim=0))


def test_a_tokenizer_that_is_no_extension_is_refused(bases: dict[str, Artifact]) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=16))
    with pytest.raises(InputError, match="in the model's tokenizer"):
        extend_embeddings(model, tokenizer(bases["byte_bpe"]), tokenizer(bases["bpe"]))


def test_an_extended_model_is_one_to_go_on_with(
    store: Store, bases: dict[str, Artifact], extended: dict[str, Artifact], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(tmp_path)
    for path in bases["byte_bpe"].local().glob("tokenizer*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    model = build(PretrainedSpec(source=str(tmp_path)), {}, store=store, name="m")
    inputs = {"model": model, "tokenizer": extended["byte_bpe"]}
    larger = build(ExtendedModelSpec(), inputs, store=store, name="m")
    assert larger.metrics["new_rows"] == 40
    loaded = AutoModelForCausalLM.from_pretrained(larger.local())
    assert loaded.get_input_embeddings().weight.shape == (340, 8)
    found = AutoTokenizer.from_pretrained(larger.local())
    assert (len(found), found.eos_token) == (340, END_OF_TEXT)
    assert found.chat_template == "{{ messages[0].content }}"
    ids = torch.tensor([found(CHINESE[0][:20], add_special_tokens=False)["input_ids"]])
    loaded(ids, labels=ids).loss.backward()
    assert loaded.get_input_embeddings().weight.grad[ids[0, 0]].abs().sum() > 0


# --- published vocabularies


def test_llama_with_chinese_sp_is_the_published_size() -> None:
    """Cui et al. 2023: 32,000 pieces and 20,000, of which 17,953 are new, make 49,953."""
    llama = published.read(shared("tokenizers/llama/tokenizer.model"))
    chinese_sp = published.read(shared("tokenizers/chinese-llama-alpaca/chinese_sp.model"))
    merged, added = vocabulary.merge(llama, chinese_sp)
    assert (merged.tokenizer.get_vocab_size(), len(added)) == (49_953, 17_953)
    spelled = [piece.piece for piece in merged.model.pieces]  # type: ignore[union-attr]
    assert spelled[:32_000] == [piece.piece for piece in llama.model.pieces]  # type: ignore[union-attr]
    # Chinese-LLaMA-2's 55,296 are LLaMA's, a padding piece and the pieces of a later, larger model.
    second = sentencepiece_model.read(shared("tokenizers/chinese-llama-alpaca-2/tokenizer.model"))
    theirs = [piece.piece for piece in second.pieces]
    assert (len(theirs), theirs[:32_000], theirs[32_000]) == (55_296, spelled[:32_000], "<pad>")
    assert len(set(theirs[32_000:]) & set(added)) == 16_491
    assert {piece.score for piece in second.pieces[32_000:]} == {0.0}

    texts = chinese(SHARED_DATA)[1][:3000]
    processor = sentencepiece.SentencePieceProcessor(model_proto=merged.model.SerializeToString())  # type: ignore[union-attr]
    ours = [encoding.ids for encoding in merged.tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert ours == processor.encode(texts)
    tokens = [sum(map(len, ids)) for ids in (ours, sentencepiece.SentencePieceProcessor(
        model_proto=second.SerializeToString()).encode(texts))]  # fmt: skip
    assert tokens[0] == pytest.approx(tokens[1], rel=0.05)


@pytest.mark.heavy
def test_han_pieces_leave_english_as_it_is() -> None:
    llama = published.read(shared("tokenizers/llama/tokenizer.model"))
    chinese_sp = published.read(shared("tokenizers/chinese-llama-alpaca/chinese_sp.model"))
    merged, added = vocabulary.merge(llama, chinese_sp, "Han")
    assert len(added) == 17_141
    texts = english(SHARED_DATA)
    assert len(texts) > 7000
    before, after = (found.tokenizer.encode_batch(texts) for found in (llama, merged))
    assert [encoding.ids for encoding in before] == [encoding.ids for encoding in after]


@pytest.mark.heavy
def test_gpt2_learns_chinese() -> None:
    base = published.read(shared("tokenizers/gpt2"))
    train_texts, heldout = chinese(SHARED_DATA)
    learned = pieces.first(pieces.learn(lambda: iter(train_texts[:2000]), base.tokenizer, "Han", 1000), 1000)
    larger = vocabulary.with_merges(base.tokenizer, learned)
    assert larger.get_vocab_size() == 50_257 + 1000
    zh = fertility.compare(heldout[:500], base.tokenizer, larger, "zh")
    assert zh["after"]["tokens_per_character"] < zh["before"]["tokens_per_character"] * 2 / 3
    assert fertility.compare(english(SHARED_DATA)[:2000], base.tokenizer, larger, "en")["same_ids"] == 1.0


@pytest.mark.usefixtures("ray_cluster")
def test_the_script_extends_llama(tmp_path: Path) -> None:
    """Fertility on Chinese that no piece was trained on falls by at least a third; English ids stay."""
    base = shared("tokenizers/llama/tokenizer.model")
    train_texts, heldout = (texts[::2] for texts in chinese(SHARED_DATA))
    (tmp_path / "zh.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in train_texts))
    changes: dict[str, Any] = {
        "corpus": {
            "sources": [{"reader": "jsonl", "path": str(tmp_path / "zh.jsonl")}],
            "rules": [{"rule": "not_empty"}],
            "near_duplicates": "keep",
        },
        "vocabulary": {"base": str(base), "num_pieces": 6000},
    }
    artifacts = Store(tmp_path / "store")
    graph = load_script(ROOT / "pipelines" / "chinese_vocabulary.py").graph(artifacts, changes)
    built = run(graph, artifacts, make_view())["vocabulary"]
    before, after = published.read(base).tokenizer, tokenizer(built)
    assert after.get_vocab_size() == 38_000
    zh = fertility.compare(heldout, before, after, "zh")
    assert zh["after"]["tokens_per_character"] < zh["before"]["tokens_per_character"] * 2 / 3
    assert zh["after"]["coverage"] > 0.99
    assert fertility.compare(english(SHARED_DATA)[::3], before, after, "en")["same_ids"] == 1.0
    assert built.metrics["unreachable"] == 0
    assert "zh" in built.metrics["languages"]
