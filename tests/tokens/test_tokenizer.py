"""Five kinds of tokenizers, trained on a fair sample; SentencePiece models give the same ids as a tokenizer.json."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import TokenizerSpec
from pipelines.stages.tokens.tokenizers import published, sentencepiece_model
from pipelines.stages.tokens.tokenizers.encoder import Encoder, battery
from pipelines.stages.tokens.tokenizers.sampling import sample, texts
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, covering, train, train_wordpiece
from tests.conftest import ROOT, SHARED_DATA
from tests.corpus.files import source
from tests.tokens.corpora import corpus, write

KINDS = ("byte_bpe", "bpe", "wordpiece", "unigram")
ENGLISH = "The quick brown fox jumps over the lazy dog while number {} watches the foxes, jumping {} times. "


def _document(number: int) -> str:
    """Code, prose of a few hundred made-up words, and Chinese."""
    rng = random.Random(number)
    syllables = ("ka", "rin", "to", "mel", "us", "pre", "dor", "ing", "sha", "ve")
    prose = " ".join("".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(150))
    return source(number, 6) + ENGLISH.format(number, number**2) * 3 + prose + "自然语言处理是一个方向。" * (number % 3)


DOCUMENTS = [_document(number) for number in range(60)]
PUBLISHED = SHARED_DATA / "tokenizers"


@pytest.fixture(scope="module")
def given_corpus(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return corpus(Store(tmp_path_factory.mktemp("store")), DOCUMENTS, DOCUMENTS[:3])


@pytest.fixture(scope="module")
def trained(given_corpus: Artifact) -> dict[str, Artifact]:
    """One of each kind, of 900 pieces, with a special token of its own."""
    specs = {kind: TokenizerSpec(algorithm=kind, vocab_size=900, special_tokens=("<|tool|>",)) for kind in KINDS}  # type: ignore[arg-type]
    inputs = {"corpus": given_corpus}
    return {kind: build(spec, inputs, store=given_corpus.store, name="t") for kind, spec in specs.items()}


def loaded(artifact: Artifact) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(artifact.local())


def shared_model(name: str) -> Path:
    path = PUBLISHED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


# --- the sample


def test_a_sample_is_fair_and_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    lines = [f"{number:06d} " + "x" * 493 for number in range(4000)]
    ids = [f"file{number}.txt" for number in range(4000)]
    write(tmp_path / "a" / "train", lines, ids, part=700)
    write(tmp_path / "b" / "train", lines[::-1], ids[::-1], part=1000)
    chosen = list(texts(Location(tmp_path / "a"), "train", 200_000))
    assert 0.8 < sum(map(len, chosen)) / 200_000 < 1.2
    numbers = [int(text[:6]) for text in chosen]
    assert numbers == sorted(numbers)
    quarters = [sum(start <= number < start + 1000 for number in numbers) for start in range(0, 4000, 1000)]
    assert min(quarters) > 60  # 100 are expected, with a standard deviation below 10
    assert sorted(texts(Location(tmp_path / "b"), "train", 200_000)) == sorted(chosen)
    larger = set(texts(Location(tmp_path / "a"), "train", 600_000))
    assert larger > set(chosen)
    other = {row["text"] for row in sample(Location(tmp_path / "a"), "train", 200_000, "another purpose")}
    assert len(other & set(chosen)) < len(chosen) / 2


def test_a_small_split_is_used_whole(tmp_path: Path) -> None:
    write(tmp_path / "train", DOCUMENTS, part=7)
    assert list(texts(Location(tmp_path), "train", 10**9)) == DOCUMENTS
    assert list(texts(Location(tmp_path), "heldout", 10**9)) == []


# --- the kinds


def test_the_default_is_byte_level_bpe_over_the_whole_of_a_small_corpus(given_corpus: Artifact) -> None:
    built = build(TokenizerSpec(vocab_size=600), {"corpus": given_corpus}, store=given_corpus.store, name="t")
    expected = train(iter(DOCUMENTS), 600)
    tokenizer = Tokenizer.from_file(str(built.local() / "tokenizer.json"))
    found, wanted = json.loads(tokenizer.to_str()), json.loads(expected.to_str())
    for part in ("model", "normalizer", "pre_tokenizer", "decoder", "added_tokens"):
        assert found[part] == wanted[part]
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_serves_the_line(trained: dict[str, Artifact], kind: str) -> None:
    folder = trained[kind].local()
    encoder, tokenizer = Encoder(folder), loaded(trained[kind])
    assert encoder.vocab_size == len(tokenizer) == 900
    assert tokenizer.eos_token == END_OF_TEXT
    assert encoder.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.encode("<|tool|>", add_special_tokens=False) == [tokenizer.convert_tokens_to_ids("<|tool|>")]
    encoded = encoder.encode([END_OF_TEXT, f"a {END_OF_TEXT}<|tool|>"])
    special = {encoder.eos_token_id, tokenizer.convert_tokens_to_ids("<|tool|>")}
    assert not special & set(encoded.ids.tolist())
    sentence = ENGLISH.format(7, 49)
    ids = tokenizer.encode(sentence, add_special_tokens=False)
    assert len(ids) < 0.7 * len(sentence)
    if kind == "wordpiece":
        assert tokenizer.decode(ids).split()[:5] == sentence.split()[:5]
    else:
        assert tokenizer.decode(ids).strip() == sentence.strip()
    assert (folder / "tokenizer.model").exists() == (kind in ("bpe", "unigram"))


def test_characters_are_tokens_one_by_one(tmp_path: Path) -> None:
    given = corpus(Store(tmp_path), ["to be,\n中 中"], ["or"])
    spec = TokenizerSpec(algorithm="characters", special_tokens=("<|tool|>",))
    built = build(spec, {"corpus": given}, store=given.store, name="t")
    encoder, tokenizer = Encoder(built.local()), loaded(built)
    # end of text, unknown, <|tool|>, then by code point: line end, blank, comma, b, e, o, t, 中
    assert built.metrics["vocab_size"] == encoder.vocab_size == len(tokenizer) == 11
    assert encoder.encode(["be, 中to\n"]).ids.tolist() == [6, 7, 5, 4, 10, 9, 8, 3]
    assert encoder.encode(["to x!<|"]).ids.tolist() == [9, 8, 4, 1, 1, 1, 1]
    assert tokenizer.decode([6, 7, 5, 4, 10, 9, 8, 3]) == "be, 中to\n"
    assert tokenizer.eos_token_id == encoder.eos_token_id == 0


def test_characters_beyond_the_vocabulary_are_an_error(tmp_path: Path) -> None:
    given = corpus(Store(tmp_path), ["".join(map(chr, range(0x4E00, 0x4E00 + 260)))], ["or"])
    with pytest.raises(InputError, match="262 characters and special tokens, and 261 pieces"):
        build(TokenizerSpec(algorithm="characters", vocab_size=261), {"corpus": given}, store=given.store, name="t")


@settings(max_examples=150)
@given(text=st.text() | st.text(" \n\t\u3000a1'<|>\u0301中\U0001f600\u200d"))
def test_byte_bpe_and_bpe_lose_nothing(trained: dict[str, Artifact], text: str) -> None:
    for kind in ("byte_bpe", "bpe"):
        encoder = Encoder(trained[kind].local()) if kind not in ENCODERS else ENCODERS[kind]
        ENCODERS[kind] = encoder
        decoded = encoder.reference.decode(encoder.encode([text]).ids.tolist(), skip_special_tokens=False)
        assert decoded == (text.replace("▁", " ") if kind == "bpe" else text)


ENCODERS: dict[str, Encoder] = {}


def test_what_each_kind_is_known_for(trained: dict[str, Artifact]) -> None:
    pieces = {kind: Encoder(trained[kind].local()).reference for kind in KINDS}
    assert pieces["wordpiece"].encode("foxes自然").tokens[-2:] == ["自", "然"]
    assert any(token.startswith("##") for token in pieces["wordpiece"].encode("unwatchful").tokens)
    assert pieces["wordpiece"].encode("\U0001f600").tokens == ["[UNK]"]
    assert pieces["bpe"].encode("\U0001f600").tokens == ["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert pieces["unigram"].encode("\U0001f600").tokens == ["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert [token for token in pieces["bpe"].encode("1234").tokens if token != "▁"] == ["1", "2", "3", "4"]
    assert pieces["unigram"].encode("ﬁ  x\n y ").tokens == pieces["unigram"].encode("fi x y").tokens
    assert pieces["bpe"].encode("fi  x").tokens != pieces["bpe"].encode("fi x").tokens
    assert "Ġthe" in pieces["byte_bpe"].encode("in the").tokens


DRIVER = """
import hashlib, sys
from cluster.core.build import build
from pipelines.specs import TokenizerSpec
from cluster.core.storage.store import Store
from tests.tokens.corpora import corpus
from tests.tokens.test_tokenizer import DOCUMENTS, KINDS

store = Store(sys.argv[1])
given = corpus(store, DOCUMENTS, DOCUMENTS[:3])
for kind in KINDS:
    spec = TokenizerSpec(algorithm=kind, vocab_size=900, special_tokens=("<|tool|>",))
    record = build(spec, {"corpus": given}, store=store, name="t").record
    print(*sorted(f"{name} {entry.sha256}" for name, entry in record.files.items()), sep="\\n")
"""


@pytest.mark.heavy
def test_another_process_makes_the_same_files(trained: dict[str, Artifact], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77", "RAYON_NUM_THREADS": "1"}
    driver = [sys.executable, "-c", DRIVER, str(tmp_path)]
    output = subprocess.run(driver, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    files = [sorted(f"{n} {e.sha256}" for n, e in trained[kind].record.files.items()) for kind in KINDS]
    assert output.split("\n")[:-1] == [line for kind in files for line in kind]


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_vocabulary_is_refused(given_corpus: Artifact, kind: str, tmp_path: Path) -> None:
    spec = TokenizerSpec(algorithm=kind, vocab_size=60_000)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"vocab_size: (the corpus yields only [0-9]+ pieces|SentencePiece cannot)"):
        build(spec, {"corpus": given_corpus}, store=Store(tmp_path), name="t")


def test_fields_that_cannot_be() -> None:
    for tokens in (["<a>", "<a>"], [""]):
        with pytest.raises(SpecError, match="special_tokens"):
            convert({"special_tokens": tokens}, TokenizerSpec, "tokenizer")


def test_covering_takes_the_most_frequent_characters() -> None:
    from collections import Counter

    counts = Counter("aaaa bbb cc d\n\n\n\n")
    assert covering(counts.copy(), 0.7) == ["a", "b"]
    assert covering(counts.copy(), 1.0) == ["a", "b", "c", "d"]
    assert covering(Counter(), 0.5) == []


def test_rare_characters_are_unknown_to_wordpiece() -> None:
    lines = ["common words " * 50, "ж"]
    assert train_wordpiece(lambda: iter(lines), 40, (), 0.99).encode("ж").tokens == ["[UNK]"]
    assert train_wordpiece(lambda: iter(lines), 40, (), 1.0).encode("ж").tokens == ["ж"]


# --- SentencePiece and tokenizer.json


def same_ids(model: Any, lines: list[str]) -> list[str]:
    """The lines on which SentencePiece and the converted tokenizer differ."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    converted = sentencepiece_model.tokenizer(model)
    converted.encode_special_tokens = True
    found = converted.encode_batch(lines, add_special_tokens=False)
    pairs = zip(lines, processor.encode(lines), found, strict=True)
    return [line for line, expected, encoding in pairs if expected != encoding.ids]


HOSTILE = battery(["<s>", "</s>", "<unk>", "<0x41>", END_OF_TEXT, "▁"])


@pytest.mark.parametrize("name", ["llama/tokenizer.model", "bpe"])
def test_a_converted_bpe_gives_sentencepieces_ids(trained: dict[str, Artifact], name: str) -> None:
    path = trained["bpe"].local() / "tokenizer.model" if name == "bpe" else shared_model(name)
    assert not same_ids(sentencepiece_model.read(path), HOSTILE + DOCUMENTS[:20])


@settings(max_examples=200)
@given(text=st.text(" ▁a=\n-") | st.text("aeionrt ▁12") | st.text())
def test_a_converted_bpe_gives_sentencepieces_ids_for_any_text(text: str) -> None:
    if not MODELS:
        MODELS.append(sentencepiece_model.train(DOCUMENTS, 700, "bpe", end_of_text=END_OF_TEXT))
    assert not same_ids(MODELS[0], [text])


MODELS: list[Any] = []


@pytest.mark.parametrize("name", ["chinese-llama-alpaca/chinese_sp.model", "unigram"])
def test_a_converted_unigram_is_as_good_as_sentencepiece(trained: dict[str, Artifact], name: str) -> None:
    """Both find a best segmentation; of equally good ones, which are many in runs of one character, not the same."""
    path = trained["unigram"].local() / "tokenizer.model" if name == "unigram" else shared_model(name)
    model = sentencepiece_model.read(path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    converted = sentencepiece_model.tokenizer(model)
    converted.encode_special_tokens = True
    lines = [*DOCUMENTS[:20], "Plain words.", "自然语言处理，是人工智能。", "=" * 50]
    lines += (
        HOSTILE if name == "unigram" else []
    )  # the other has no bytes, and unknown characters cost it another score
    assert not same_ids(model, DOCUMENTS[:20])
    scored = {2, 6}  # unknown and bytes have no score of their own
    for line in lines:
        totals = []
        for ids in (processor.encode(line), converted.encode(line, add_special_tokens=False).ids):
            totals.append(sum(model.pieces[i].score for i in ids if model.pieces[i].type not in scored))
        assert totals[0] == pytest.approx(totals[1], abs=1e-2), line


def test_published_tokenizers_give_the_ids_that_are_known_of_them() -> None:
    llama, gpt2 = (published.read(shared_model(name)) for name in ("llama/tokenizer.model", "gpt2"))
    assert llama.tokenizer.encode("Hello world", add_special_tokens=False).ids == [15043, 3186]
    assert gpt2.tokenizer.encode("Hello world").ids == [15496, 995]
    assert (llama.roles["eos_token"], gpt2.roles["eos_token"]) == ("</s>", END_OF_TEXT)
    assert (llama.tokenizer.get_vocab_size(), gpt2.tokenizer.get_vocab_size()) == (32_000, 50_257)
    assert gpt2.tokenizer.token_to_id(END_OF_TEXT) == 50_256
    assert llama.tokenizer.decode(llama.tokenizer.encode("a\n\tb  c").ids) == "a\n\tb  c"


@pytest.mark.parametrize("data", [b"", b"no model", b"\x0a\x03\x0a\x01a"], ids=["empty", "text", "cut"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.model"):
        published.read(path)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path, trained: dict[str, Artifact]) -> None:
    with pytest.raises(InputError, match="cannot be read as a tokenizer"):
        published.read(tmp_path / "tokenizer.json")
    (tmp_path / "encoder.json").write_text("{}")
    (tmp_path / "vocab.bpe").write_text("#version\na b c\n")
    with pytest.raises(InputError, match="GPT-2"):
        published.read(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((trained["byte_bpe"].local() / name).read_bytes())
    assert published.read(tmp_path).kind == "byte_bpe"
    (tmp_path / "tokenizer.model").write_bytes((trained["bpe"].local() / "tokenizer.model").read_bytes())
    with pytest.raises(InputError, match="other pieces"):
        published.read(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_built_tokenizer_can_be_read_back(trained: dict[str, Artifact], kind: str) -> None:
    found = published.read(trained[kind].local())
    assert found.roles["eos_token"] == END_OF_TEXT
    assert found.kind == {"byte_bpe": "byte_bpe", "wordpiece": "WordPiece"}.get(kind, "sentencepiece")
