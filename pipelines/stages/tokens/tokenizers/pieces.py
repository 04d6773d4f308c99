"""New pieces for a tokenizer, learned on top of its own: byte-pair encoding goes on from where the old one stops.

The text is encoded by the old tokenizer, and merges are learned over its tokens (continued BPE, Purason et al. 2025):
no piece is one that the tokenizer has, or that it could not reach. The trainer of `tokenizers` sees every token as
one character of a private alphabet.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import regex
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from cluster.core.errors import InputError
from pipelines.stages.tokens.tokenizers.tokenizer import covering
from pipelines.stages.tokens.tokenizers.training_text import LONGEST

Read = Callable[[], Iterator[str]]
ALPHABET = 0x10000  # token i is the character ALPHABET + i: neither blank nor surrogate from there on
MOST_TOKENS = 16  # of the old tokenizer in one new piece, as SentencePiece bounds pieces to 16 characters
BATCH_TEXTS = 1000
SLACK = 50  # one merge in so many may spell a piece that is there already
# What SentencePiece keeps together in training: letters of a script (Japanese ones count as Han), symbols, a digit.
_EAST_ASIAN = r"\p{Han}\p{Hiragana}\p{Katakana}"
WORD = "|".join(
    (
        rf"▁?[{_EAST_ASIAN}]+",
        rf"▁?[\p{{L}}\p{{M}}&&[^{_EAST_ASIAN}]]+",
        r"▁?\p{N}",
        r"▁?[^\s▁\p{L}\p{M}\p{N}]+",
        r"▁+",
        r"\s",
    )
)

Merges = list[tuple[str, str]]


def runs(texts: Iterable[str], script: str) -> Iterator[str]:
    """The parts of texts that are of a script; the texts where it is empty."""
    if not script:
        return iter(texts)
    return itertools.chain.from_iterable(map(of_script(script, "+").findall, texts))


def of_script(script: str, repeat: str = "") -> regex.Pattern[str]:
    """A pattern of characters of a Unicode script. Raises InputError where there is no such script."""
    try:
        return regex.compile(rf"\p{{Script={script}}}{repeat}")
    except regex.error:
        raise InputError(
            f"vocabulary.script: {script!r} is no script of Unicode", "Such as Han, Cyrillic, Hangul or Arabic."
        ) from None


def new_characters(read: Read, tokenizer: Tokenizer, script: str, coverage: float) -> list[str]:
    """The characters that a tokenizer lacks and needs to cover so much of the texts, the most frequent first."""
    counts: Counter[str] = Counter()
    for run in runs(read(), script):
        counts.update(run)
    return [character for character in covering(counts, coverage) if tokenizer.token_to_id(character) is None]


def learn(read: Read, tokenizer: Tokenizer, script: str, num_merges: int) -> Merges:
    """Merges of the tokenizer's pieces that make at least `num_merges` new ones, where the text yields as many.

    In the order in which they were learned; a merge never makes a piece that the tokenizer has.
    """
    old = _cutting(tokenizer, script)
    size = max(tokenizer.get_vocab().values()) + 1
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=size + num_merges + num_merges // SLACK + SLACK,
        initial_alphabet=[chr(ALPHABET + token) for token in range(size)],
        max_token_length=MOST_TOKENS,
        min_frequency=2,
        show_progress=False,
    )
    draft.train_from_iterator(_encoded(runs(read(), script), old), trainer)
    spelled = {token: piece for piece, token in tokenizer.get_vocab().items()}
    learned = json.loads(draft.to_str())["model"]["merges"]
    pairs = [tuple("".join(spelled[ord(letter) - ALPHABET] for letter in side) for side in pair) for pair in learned]
    known = tokenizer.get_vocab()
    return [(left, right) for left, right in pairs if left + right not in known]


def first(merges: Merges, num_pieces: int) -> Merges:
    """The merges, from the front, that make so many pieces; those whose parts were never made are left out."""
    made: set[str] = set()
    kept = []
    for left, right in merges:
        if len(made) == num_pieces and left + right not in made:
            break
        made.add(left + right)
        kept.append((left, right))
    return kept


def _cutting(tokenizer: Tokenizer, script: str) -> Tokenizer:
    """The tokenizer as it is used to learn: cut into words, and without a blank in front of what is cut out."""
    definition = json.loads(tokenizer.to_str())
    if script and definition["normalizer"]:
        definition["normalizer"] = _without_prefix(definition["normalizer"])
    copy = Tokenizer.from_str(json.dumps(definition))
    copy.encode_special_tokens = True
    if copy.pre_tokenizer is None:
        copy.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    return copy


def _without_prefix(normalizer: dict[str, Any]) -> dict[str, Any]:
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    return {"type": "Sequence", "normalizers": [step for step in steps if step["type"] != "Prepend"]}


def _encoded(texts: Iterator[str], tokenizer: Tokenizer) -> Iterator[str]:
    """Texts as words of letters that stand for tokens. Words are cut at what the tokenizer does not know."""
    letters = {token: chr(ALPHABET + token) for token in tokenizer.get_vocab().values()}
    fallback = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    unknown = json.loads(tokenizer.to_str())["model"].get("unk_token")
    for token in (*fallback, tokenizer.token_to_id(unknown) if unknown else None):
        if token is not None:
            letters[token] = " "
    while batch := list(itertools.islice(texts, BATCH_TEXTS)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            words = itertools.groupby(zip(encoding.ids, encoding.word_ids, strict=True), key=lambda pair: pair[1])
            spelled = ("".join(letters[token] for token, _ in word) for _, word in words)
            yield " ".join(word[at : at + LONGEST] for word in spelled for at in range(0, len(word), LONGEST))
