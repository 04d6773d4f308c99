"""Training a tokenizer of one of five kinds on a fair sample of the train split of a corpus.

Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), WordPiece (Devlin et al. 2019; merges chosen by frequency
and not by likelihood), SentencePiece's BPE and unigram (Kudo 2018), and plain characters. The same text gives the
same files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import regex
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import TokenizerSpec
from pipelines.stages.tokens.tokenizers import sentencepiece_model
from pipelines.stages.tokens.tokenizers.sampling import texts
from pipelines.stages.tokens.tokenizers.training_text import BETWEEN_BLANKS, cut

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "[UNK]"  # of WordPiece and of characters
_BERT_WORD = regex.compile(r"[^\s\p{P}$+<=>^`|~]+")  # BERT takes all ASCII symbols for punctuation
_HAN = regex.compile(r"\p{Han}")  # always a word alone


def build(ctx: Context[TokenizerSpec]) -> dict[str, Any]:
    """Write a Hugging Face tokenizer folder, with SentencePiece's `tokenizer.model` for `bpe` and `unigram`.

    Raises InputError where the corpus does not yield as many pieces.
    """
    spec, corpus = ctx.spec, ctx.inputs["corpus"].location
    model = b""
    if spec.algorithm in sentencepiece_model.KINDS:
        proto = sentencepiece_model.train(
            texts(corpus, "train", spec.sample_bytes),
            spec.vocab_size,
            spec.algorithm,
            end_of_text=END_OF_TEXT,
            special_tokens=spec.special_tokens,
            character_coverage=spec.character_coverage,
        )
        model, trained = proto.SerializeToString(), sentencepiece_model.tokenizer(proto)
    elif spec.algorithm == "wordpiece":
        trained = train_wordpiece(
            lambda: texts(corpus, "train", spec.sample_bytes),
            spec.vocab_size,
            spec.special_tokens,
            spec.character_coverage,
        )
    elif spec.algorithm == "characters":
        trained = characters(texts(corpus, "train", spec.sample_bytes), spec.special_tokens)
    else:
        trained = train(texts(corpus, "train", spec.sample_bytes), spec.vocab_size, spec.special_tokens)
    vocab_size = trained.get_vocab_size()
    if spec.algorithm == "characters":
        if vocab_size > spec.vocab_size:
            raise InputError(
                f"tokenizer.vocab_size: the corpus has {vocab_size} characters and special tokens, "
                f"and {spec.vocab_size} pieces are allowed",
                "Give a larger vocabulary.",
            )
    elif vocab_size != spec.vocab_size:
        raise InputError(
            f"tokenizer.vocab_size: the corpus yields only {vocab_size} pieces of the {spec.vocab_size} asked for",
            "Give a smaller vocabulary or more text.",
        )
    with ctx.scratch() as folder:
        save(folder, trained, model, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
        ctx.output.put(folder)
    return {"vocab_size": vocab_size, "algorithm": spec.algorithm}


def save(folder: Path, tokenizer: Tokenizer, model: bytes = b"", **roles: str | None) -> None:
    """Write a tokenizer in Hugging Face's format, and the SentencePiece model that it was made from, if any.

    `roles` says which tokens are `eos_token`, `bos_token` and so on.
    """
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    if model:
        (folder / "tokenizer.model").write_bytes(model)


def train(texts: Iterator[str], vocab_size: int, special_tokens: Iterable[str] = ()) -> Tokenizer:
    """A byte-level BPE whose alphabet is all 256 bytes, so that no text is unknown to it. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *special_tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(cut(texts, special_tokens), trainer)
    return tokenizer


def train_wordpiece(
    read: Callable[[], Iterator[str]],
    vocab_size: int,
    special_tokens: Iterable[str] = (),
    character_coverage: float = 0.9995,
) -> Tokenizer:
    """BERT's cased tokenizer: words cut at blanks and punctuation, every Han character a word. `read` is called twice.

    Characters within words are given their ids beforehand (as special tokens of the training alone), because the
    trainer would number them in the order of a randomly seeded hash table. Special tokens stand behind the pieces: the
    model takes the longest piece that it has, and must not have these.
    """
    normalizer = normalizers.BertNormalizer(lowercase=False)
    first, within = _characters((normalizer.normalize_str(text) for text in read()), character_coverage)
    special = list(special_tokens)
    spelled = {token.removeprefix("##") for token in special}
    draft = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    draft.normalizer, draft.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - len(special),
        special_tokens=[END_OF_TEXT, UNKNOWN, *(f"##{character}" for character in within)],
        initial_alphabet=first,
        limit_alphabet=len(first),
        show_progress=False,
    )
    draft.train_from_iterator(cut(read(), sorted(spelled), BETWEEN_BLANKS), trainer)
    tokenizer = Tokenizer(models.WordPiece(draft.get_vocab(), unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = draft.normalizer, draft.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([END_OF_TEXT, UNKNOWN, *special])
    return tokenizer


def characters(texts: Iterator[str], special_tokens: Iterable[str] = ()) -> Tokenizer:
    """A token for every character of the texts, in the order of their code points: BPE that has nothing to merge."""
    special = [END_OF_TEXT, UNKNOWN, *special_tokens]
    found: set[str] = set()
    for text in texts:
        found.update(text)
    vocabulary = {piece: number for number, piece in enumerate([*special, *sorted(found)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _characters(texts: Iterator[str], coverage: float) -> tuple[list[str], list[str]]:
    """The most frequent characters that cover so much of the texts, and those of them found within words; sorted."""
    counts: Counter[str] = Counter()
    within: set[str] = set()
    for text in texts:
        counts.update(text)
        for word in _BERT_WORD.findall(text):
            within.update(word[1:])
    kept = set(covering(counts, coverage))
    return sorted(kept), sorted(character for character in kept & within if not _HAN.match(character))


def covering(counts: Counter[str], coverage: float) -> list[str]:
    """The fewest characters that make up `coverage` of a text, blanks apart, the most frequent first."""
    blank = [character for character in counts if character.isspace()]
    for character in blank:
        del counts[character]
    needed = coverage * counts.total()
    kept: list[str] = []
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0:
            break
        kept.append(character)
        needed -= count
    return kept
