"""A special token that a text spells is its letters, in tokenizers of every kind, trained here or by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from cluster.core.errors import SpecError
from pipelines.specs import TokenizerSpec
from pipelines.stages.tokens.tokenizers import sentencepiece_model
from pipelines.stages.tokens.tokenizers import tokenizer as kinds
from pipelines.stages.tokens.tokenizers.encoder import Encoder
from pipelines.stages.tokens.tokenizers.special import unspoken

# Signs, a word, the end of a word, a continuing piece of WordPiece's spelling, words with a blank between.
SPECIAL = ("===", "mask", "ing", "##ed", "</turn>", "say so")
TEXT = "=== Rule: say so\n=== Answer: </turn> masking, masked and singing; maskmask say so ====\n" * 40
TEXT += "The quick brown foxes jumped over the lazy dogs, and nobody asked for anything in 1234 words. " * 20
KINDS = ("byte_bpe", "bpe", "unigram", "wordpiece", "characters")


def trained(kind: str) -> Tokenizer:
    if kind in sentencepiece_model.KINDS:
        model = sentencepiece_model.train(
            [TEXT], 400, kind, end_of_text=kinds.END_OF_TEXT, special_tokens=SPECIAL, or_fewer=kind == "unigram"
        )
        return sentencepiece_model.tokenizer(model)
    if kind == "wordpiece":
        return kinds.train_wordpiece(lambda: iter([TEXT]), 110, SPECIAL)
    return kinds.characters(iter([TEXT]), SPECIAL) if kind == "characters" else kinds.train(iter([TEXT]), 330, SPECIAL)


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    kinds.save(folder, tokenizer, eos_token=kinds.END_OF_TEXT, bos_token=kinds.END_OF_TEXT)
    return folder


def spellings(token: str) -> list[str]:
    return [token, f" {token}", f"a{token}b", f"x {token} y", token * 3, f"{token}\n"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_becomes_a_special_token(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    special = {tokenizer.token_to_id(token): token for token in (*SPECIAL, kinds.END_OF_TEXT)}
    assert None not in special and len(special) == 7
    texts = [text for token in special.values() for text in spellings(token)]
    tokenizer.encode_special_tokens = True
    encoder = Encoder(saved(tokenizer, tmp_path))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        found = tokenizer.encode(text, add_special_tokens=False).ids
        assert not special.keys() & set(found), text
        assert encoder.encode_by_reference([text]).ids.tolist() == found
        assert encoder.encode([text]).ids.tolist() == found
        assert loaded(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == found
        if kind in ("byte_bpe", "bpe"):
            assert tokenizer.decode(found, skip_special_tokens=False).strip() == text.strip()
    # Where they are asked for, they are there.
    assert loaded.convert_tokens_to_ids(list(special.values())) == list(special)
    tokenizer.encode_special_tokens = False
    assert tokenizer.encode(SPECIAL[0], add_special_tokens=False).ids[-1] == tokenizer.token_to_id(SPECIAL[0])


def others(kind: str) -> Tokenizer:
    """A tokenizer of others, whose model has the special tokens among its pieces."""
    letters = sorted({*TEXT, "<", ">", "|", "▁"})
    if kind == "BPE":
        steps = [("=", "="), ("==", "="), ("===", "="), ("m", "a"), ("ma", "s"), ("mas", "k")]
        pieces = [kinds.END_OF_TEXT, *letters, *("".join(step) for step in steps)]
        tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, steps))
        tokenizer.add_special_tokens([kinds.END_OF_TEXT, "===", "mask"])
        return tokenizer
    words = [kinds.END_OF_TEXT, "[UNK]", "===", "mask", "ma", "##sk", *letters, *(f"##{letter}" for letter in letters)]
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        scores = [(word, 0.0 if word in ("===", "mask") else -float(number)) for number, word in enumerate(words)]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=1, byte_fallback=False))
    tokenizer.add_special_tokens([kinds.END_OF_TEXT, "[UNK]", "===", "mask"])
    tokenizer.add_tokens([AddedToken("<own>", normalized=False), AddedToken("<more>", normalized=False)])
    return tokenizer


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "Unigram"])
def test_so_with_tokenizers_of_others(kind: str, tmp_path: Path) -> None:
    tokenizer = others(kind)
    tokenizer.encode_special_tokens = True
    special = {tokenizer.token_to_id(token) for token in ("===", "mask")}
    assert special & set(tokenizer.encode("mask").ids)  # the library itself is caught
    encoder = Encoder(saved(tokenizer, tmp_path))
    assert (encoder.vocab_size, encoder.eos_token_id) == (tokenizer.get_vocab_size(), 0)
    for text in ("mask", "===", "====", "a === b", "maskmask"):
        for found in (encoder.encode([text]), encoder.encode_by_reference([text])):
            assert len(found.ids) and not special & set(found.ids.tolist()), text
    for text in ("quick", "ma", "<own>", "a<more>b"):  # what spells none is encoded as before
        assert encoder.encode([text]).ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_definition_without_such_a_piece_stays_as_it_is() -> None:
    definition: dict[str, Any] = json.loads(trained("byte_bpe").to_str())
    assert unspoken(definition) is definition


def test_a_special_token_of_one_character_is_refused() -> None:
    with pytest.raises(SpecError, match=r"tokenizer\.special_tokens: '#' .* Give it a name of several"):
        TokenizerSpec(special_tokens=("<|tool|>", "#")).check()
