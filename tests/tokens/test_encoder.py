"""The fast encoder gives the reference's tokens or is not used: at loading, in samples, and for a whole shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import TokensSpec
from pipelines.stages.tokens.stage import encode_part
from pipelines.stages.tokens.tokenizers.encoder import ALWAYS_VERIFIED, Encoder, Mismatch, accelerate, disputed, sample
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, train
from tests.corpus.files import source

TEXTS = [source(i, 10) + "自然语言 naïve \U0001f600 <|endoftext|>" for i in range(40)]
ADDED = {"id": 500, "special": False, "normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
WHERE = {"split": "train", "part": "part-00000.parquet", "shard": "train/shard-00000"}


def definition() -> dict[str, Any]:
    return dict(json.loads(train(iter(TEXTS), 500).to_str()))


def write(folder: Path, tokenizer: dict[str, Any], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_TEXT} | config))
    return folder


def write_part(folder: Path, texts: list[str]) -> Location:
    (folder / "train").mkdir(parents=True)
    pq.write_table(
        pa.table({"text": texts, "source": ["web"] * len(texts)}),
        folder / "train" / "part-00000.parquet",
        row_group_size=100,
    )
    return Location(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(write(tmp_path_factory.mktemp("tokenizer"), definition()))


def liar(folder: Path, word: str, token: int = 300) -> tuple[Encoder, Any]:
    """An encoder, and an accelerator that differs from its reference on texts with `word` alone, and gives `token`."""
    full = definition()
    wrong = full | {"added_tokens": [*full["added_tokens"], ADDED | {"content": word, "id": token}]}
    return Encoder(write(folder, full)), accelerate(wrong)


def test_special_tokens_in_a_text_are_characters(encoder: Encoder) -> None:
    assert encoder.name == "snaptokens", encoder.why_not
    for encode in (encoder.encode, encoder.encode_by_reference):
        encoded = encode(["", END_OF_TEXT, f"a{END_OF_TEXT} {END_OF_TEXT}"])
        assert encoder.eos_token_id not in encoded.ids
        assert encoder.reference.decode(encoded.text(2).tolist()) == f"a{END_OF_TEXT} {END_OF_TEXT}"
        assert len(encoded.text(0)) == 0


@settings(max_examples=200)
@given(st.lists(st.text() | st.text(" \n\t\u3000a1'<|>\u0301中\U0001f600\u200d"), max_size=5))
def test_both_encoders_agree_and_lose_nothing(encoder: Encoder, texts: list[str]) -> None:
    fast, exact = encoder.encode(texts), encoder.encode_by_reference(texts)
    assert np.array_equal(fast.ids, exact.ids)
    assert np.array_equal(fast.offsets, exact.offsets)
    assert [encoder.reference.decode(fast.text(i).tolist()) for i in range(len(texts))] == texts


@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}], ids=str)
def test_added_tokens_that_are_not_special_are_found(tmp_path: Path, flags: dict[str, bool]) -> None:
    with_tool = definition()
    with_tool["added_tokens"].append(ADDED | {"content": "<tool>"} | flags)
    encoder = Encoder(write(tmp_path, with_tool))
    texts = ["call <tool> now", f"<tool>{END_OF_TEXT}<tool>"]
    assert 500 in encoder.encode(texts).text(0)
    assert np.array_equal(encoder.encode(texts).ids, encoder.encode_by_reference(texts).ids)
    assert encoder.name == "snaptokens"


# The splitting of GPT-4o, which tells most kinds of characters apart.
KINDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def kinds_tokenizer() -> dict[str, Any]:
    """A tokenizer whose tokens show whether a character and the `a`, `1` or `"` behind it are one word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(byte, mark) for mark in 'a1"' for byte in alphabet]
    pieces = [END_OF_TEXT, *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    split = pre_tokenizers.Split(Regex(KINDS), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    return dict(json.loads(tokenizer.to_str()))


@pytest.mark.heavy
def test_both_take_every_character_for_the_same_kind_or_the_reference_decides(tmp_path: Path) -> None:
    """All planes that hold characters. Fails where a new release of either knows another version of Unicode."""
    encoder = Encoder(write(tmp_path, kinds_tokenizer()))
    assert encoder.name == "snaptokens", encoder.why_not
    codes = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]
    probes = ["".join(f"{chr(code)}{mark}" for mark in 'a1"') for code in codes]
    unsure = set(disputed(probes))
    assert 4000 < len(unsure) < 5000
    sure = [probe for number, probe in enumerate(probes) if number not in unsure]
    texts = [" \n".join(sure[start : start + 256]) for start in range(0, len(sure), 256)]
    fast, exact = encoder.encode(texts), encoder.encode_by_reference(texts)
    assert [n for n in range(len(texts)) if not np.array_equal(fast.text(n), exact.text(n))] == []

    some = ["a", *(probes[number] for number in sorted(unsure)[::40]), "b"]
    assert np.array_equal(encoder.encode(some).ids, encoder.encode_by_reference(some).ids)
    raw, _ = encoder.accelerator.encode_batch_flat(some)
    assert raw != encoder.encode(some).ids.tobytes(), "there is nothing to dispute any more"


def test_nothing_in_a_tokenizer_cuts_pads_or_varies_a_text(encoder: Encoder, tmp_path: Path) -> None:
    hostile = definition()
    hostile["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    hostile["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": END_OF_TEXT,
    }  # fmt: skip
    hostile["model"]["dropout"] = 0.5
    other = Encoder(write(tmp_path, hostile))
    expected = encoder.encode(TEXTS)
    for encode in (other.encode, other.encode_by_reference):
        assert np.array_equal(encode(TEXTS).ids, expected.ids)


def test_what_the_accelerator_cannot_load_the_reference_encodes(tmp_path: Path) -> None:
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=300, special_tokens=[END_OF_TEXT, "<unk>"], unk_token="<unk>")
    )
    encoder = Encoder(write(tmp_path, json.loads(unigram.to_str())))
    assert encoder.name == "tokenizers"
    assert "Unigram" in encoder.why_not
    encoded = encoder.encode(["plain words", "of text"])
    assert encoded.text(0).tolist() == unigram.encode("plain words", add_special_tokens=False).ids
    assert encoded.text(1).tolist() == unigram.encode("of text", add_special_tokens=False).ids


def test_an_accelerator_that_differs_is_caught_at_loading(tmp_path: Path) -> None:
    encoder, wrong = liar(tmp_path, "</p>")
    right = encoder.accelerator
    with pytest.raises(Mismatch, match=r"differ on .*article"):
        encoder.trust(wrong)
    assert encoder.accelerator is right


@pytest.mark.parametrize(
    ("place", "fraction", "caught"),
    [(ALWAYS_VERIFIED - 1, 0.0, True), (1900, 1.0, True), (1900, 0.0, False)],
)
def test_a_shard_with_a_mistake_is_encoded_by_the_reference(
    tmp_path: Path, place: int, fraction: float, caught: bool
) -> None:
    encoder, wrong = liar(tmp_path / "tokenizer", "zyzzyva")
    encoder.trust(wrong)  # the battery does not know the word
    texts = [f"text {number}" for number in range(2000)]
    texts[place] += " zyzzyva"
    corpus, output = write_part(tmp_path / "corpus", texts), Location(tmp_path / "out")
    spec = TokensSpec(sequence_length=8, verify_fraction=fraction)
    summary = encode_part(corpus, encoder, output, spec, **WHERE)
    found = np.frombuffer(output.read_bytes("train/shard-00000.bin"), dtype="<u2")
    expected = [
        token for text in texts for token in [*encoder.encode_by_reference([text]).ids.tolist(), encoder.eos_token_id]
    ]
    assert ("fallback" in summary) == caught
    assert (found.tolist() == expected) == caught
    if caught:
        assert "zyzzyva" in summary["fallback"]
        assert json.loads(output.read_bytes("train/shard-00000.json")) == summary


def test_a_token_beyond_the_vocabulary_is_always_caught(tmp_path: Path) -> None:
    encoder, wrong = liar(tmp_path, "zyzzyva", token=500)
    encoder.trust(wrong)
    assert encoder.vocab_size == 500
    with pytest.raises(Mismatch, match="gave token 500 of a vocabulary of 500"):
        encoder.encode(["a zyzzyva"])


def test_an_accelerator_that_fails_is_not_used(tmp_path: Path) -> None:
    encoder, _ = liar(tmp_path / "tokenizer", "zyzzyva")
    encoder.accelerator = encoder.reference  # knows no such method
    corpus, output = write_part(tmp_path / "corpus", TEXTS), Location(tmp_path / "out")
    assert "failed" in encode_part(corpus, encoder, output, TokensSpec(), **WHERE)["fallback"]


def test_the_sample_is_the_same_wherever_it_is_drawn() -> None:
    chosen = sample("train/shard-00000", 0, 100_000, 0.002)
    assert chosen == sample("train/shard-00000", 0, 100_000, 0.002)
    assert chosen[:ALWAYS_VERIFIED] == list(range(ALWAYS_VERIFIED))
    assert 140 < len(chosen) < 270
    assert chosen != sample("train/shard-00001", 0, 100_000, 0.002)
    assert sample("x", 0, 10, 0.0) == list(range(ALWAYS_VERIFIED))
    assert sample("x", ALWAYS_VERIFIED, 10, 0.0) == []
    assert sample("x", 100, 10, 1.0) == list(range(10))


def test_a_folder_without_a_tokenizer_or_an_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json: no such file"):
        Encoder(tmp_path)
    for config in ({"eos_token": None}, {"eos_token": "</s>"}):
        with pytest.raises(InputError, match="no eos_token"):
            Encoder(write(tmp_path, definition(), **config))
    assert Encoder(write(tmp_path, definition(), eos_token={"content": END_OF_TEXT})).eos_token_id == 0
