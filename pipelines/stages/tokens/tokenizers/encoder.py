"""Text to token ids, by an accelerator that is believed only as far as it is checked.

The reference is Hugging Face `tokenizers`. snaptokens does the same byte-pair encoding many times faster; it is young,
so both encode a battery of hostile texts when a tokenizer is loaded, and a random sample of the documents of every
shard. What it cannot load or gets wrong, the reference encodes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from cluster.core.errors import InputError
from pipelines.stages.tokens.tokenizers.special import unspoken

ALWAYS_VERIFIED = 1  # documents at the front of every shard, whatever the fraction
ACCELERATOR, REFERENCE = "snaptokens", "tokenizers"
# Characters of Unicode 17: letters, digits and marks to the accelerator, unassigned to the reference, which has Unicode
# 16. They change where words end, so texts with them are for the reference alone.
DISPUTED = (
    "088F 0C5C 0CDC 1ACF-1ADD 1AE0-1AEB A7CE-A7CF A7D2 A7D4 A7F1 10940-10959 10EC5-10EC7 10EFA-10EFB "
    "11B60-11B67 11DB0-11DDB 11DE0-11DE9 16EA0-16EB8 16EBB-16ED3 16FF2-16FF6 187F8-187FF 18D09-18D1E "
    "18D80-18DF2 1E6C0-1E6DE 1E6E0-1E6F5 1E6FE-1E6FF 2B73A-2B73F 2CEA2-2CEAD 323B0-33479"
)
_DISPUTED = "[" + re.sub(r"[0-9A-F]+", lambda code: f"\\x{{{code[0]}}}", DISPUTED).replace(" ", "") + "]"  # RE2

Ids = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]


class Mismatch(Exception):
    """The accelerator gave other tokens than the reference, or failed."""


@dataclass(frozen=True)
class Encoded:
    """Texts as ids, one after another: text i is `ids[offsets[i]:offsets[i + 1]]`; shapes (tokens,), (texts + 1,)."""

    ids: Ids
    offsets: Offsets

    def text(self, number: int) -> Ids:
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    @staticmethod
    def join(pieces: list[Ids]) -> Encoded:
        offsets = np.zeros(len(pieces) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        return Encoded(np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint32), offsets)


class Encoder:
    """The tokenizer of a Hugging Face folder. Special tokens spelled in a text are ordinary characters to it.

    `accelerator` is None where there is none to trust, and `why_not` then says why. Raises InputError for a folder
    without a tokenizer, or without an end-of-text token.
    """

    def __init__(self, folder: Path) -> None:
        definition = _definition(folder)
        whole = Tokenizer.from_str(json.dumps(definition))
        self.vocab_size = whole.get_vocab_size()
        self.eos_token_id = _eos_token_id(folder, whole)
        self._added = [token["content"] for token in definition["added_tokens"]]
        definition = unspoken(definition)
        self.reference = Tokenizer.from_str(json.dumps(definition))
        self.reference.encode_special_tokens = True
        self.accelerator: Any = None
        self.why_not = ""
        try:
            self.trust(accelerate(definition))
        except (ImportError, ValueError, Mismatch) as error:
            self.why_not = f"{type(error).__name__}: {error}"

    def trust(self, accelerator: Any) -> None:
        """Encode by this accelerator from now on. Raises Mismatch, and stays as it was, where it fails the battery."""
        texts, before = battery(self._added), self.accelerator
        self.accelerator = accelerator
        try:
            self.verify(texts, self.encode(texts), range(len(texts)))
        except Mismatch:
            self.accelerator = before
            raise

    @property
    def name(self) -> str:
        """The library that encodes."""
        return REFERENCE if self.accelerator is None else ACCELERATOR

    def encode(self, texts: list[str]) -> Encoded:
        """Encode by the accelerator where there is one. Raises Mismatch where it fails."""
        if self.accelerator is None:
            return self.encode_by_reference(texts)
        try:
            ids, offsets = self.accelerator.encode_batch_flat(texts)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            raise Mismatch(f"{ACCELERATOR} failed: {error}") from error
        encoded = Encoded(np.frombuffer(ids, dtype="<u4"), np.frombuffer(offsets, dtype="<u8").astype(np.int64))
        if encoded.ids.max(initial=0) >= self.vocab_size:
            raise Mismatch(f"{ACCELERATOR} gave token {encoded.ids.max()} of a vocabulary of {self.vocab_size}")
        if numbers := disputed(texts):
            exact = self.encode_by_reference([texts[number] for number in numbers])
            pieces = [encoded.text(number) for number in range(len(texts))]
            for place, number in enumerate(numbers):
                pieces[number] = exact.text(place)
            return Encoded.join(pieces)
        return encoded

    def encode_by_reference(self, texts: list[str]) -> Encoded:
        encodings = self.reference.encode_batch_fast(texts, add_special_tokens=False)
        return Encoded.join([np.array(encoding.ids, dtype=np.uint32) for encoding in encodings])

    def verify(self, texts: list[str], encoded: Encoded, numbers: range | list[int]) -> None:
        """Encode the texts of these numbers by the reference as well; raises Mismatch at the first difference."""
        if self.accelerator is None:
            return
        expected = self.encode_by_reference([texts[number] for number in numbers])
        for place, number in enumerate(numbers):
            if not np.array_equal(encoded.text(number), expected.text(place)):
                raise Mismatch(f"{ACCELERATOR} and {REFERENCE} differ on {texts[number][:80]!r}")


@functools.cache
def load(folder: str) -> Encoder:
    """The encoder of a tokenizer folder, kept: a worker encodes many parts."""
    return Encoder(Path(folder))


def accelerate(definition: dict[str, Any]) -> Any:
    """The accelerator for a `tokenizer.json`. Raises ValueError where it is not of a kind that it knows.

    It would take special tokens in a text for such, so it is not told of them.
    """
    import snaptokens

    ordinary = [token for token in definition["added_tokens"] if not token["special"]]
    return snaptokens.Tokenizer.from_json_str(
        json.dumps(definition | {"added_tokens": ordinary, "post_processor": None})
    )


def disputed(texts: list[str]) -> list[int]:
    """The numbers of the texts that hold a character which accelerator and reference take for different kinds."""
    numbers = [number for number, text in enumerate(texts) if not text.isascii()]
    found = pc.match_substring_regex(pa.array([texts[number] for number in numbers], pa.large_string()), _DISPUTED)
    return [number for number, holds in zip(numbers, found.to_pylist(), strict=True) if holds]


def sample(shard: str, first: int, count: int, fraction: float) -> list[int]:
    """Which of `count` documents to verify, counted from 0; `first` is the number of the first one in its shard.

    Keyed by shard and number alone, so that the same documents are verified wherever and whenever a shard is encoded.
    """
    key = int.from_bytes(hashlib.blake2b(f"verify/{shard}".encode(), digest_size=8).digest(), "big")
    chosen = np.random.default_rng([key, first]).random(count) < fraction
    chosen[: max(0, ALWAYS_VERIFIED - first)] = True
    return [int(number) for number in np.flatnonzero(chosen)]


def _definition(folder: Path) -> dict[str, Any]:
    """`tokenizer.json` without what would cut, pad or vary a text."""
    path = folder / "tokenizer.json"
    try:
        definition = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", "Give a tokenizer in the format of Hugging Face.") from None
    definition |= {"truncation": None, "padding": None, "added_tokens": definition.get("added_tokens") or []}
    if definition["model"].get("dropout"):
        definition["model"] = definition["model"] | {"dropout": None}
    return dict(definition)


def _eos_token_id(folder: Path, tokenizer: Tokenizer) -> int:
    path = folder / "tokenizer_config.json"
    token = json.loads(path.read_bytes()).get("eos_token") if path.is_file() else None
    token = token["content"] if isinstance(token, dict) else token
    found = tokenizer.token_to_id(token) if token else None
    if found is None:
        raise InputError(f"{path}: no eos_token that the tokenizer knows", "Name the token that ends a text in it.")
    return int(found)


def battery(added: list[str]) -> list[str]:
    """Texts on which encoders have been known to differ, the tokenizer's own `added` tokens among them.

    The same in every process.
    """
    rng = random.Random(0)
    planes = [(0x20, 0x7F), (0x80, 0x250), (0x300, 0x370), (0x590, 0x700), (0x900, 0xE80), (0x2000, 0x2100)]
    planes += [(0x3040, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xE000, 0xF900), (0x1F300, 0x1FB00)]
    points = [(0, 0xD800), (0xE000, 0x110000)]
    one_script = ["".join(chr(rng.randrange(*plane)) for _ in range(200)) for plane in planes]
    any_script = ["".join(chr(rng.randrange(*rng.choice(points))) for _ in range(200)) for _ in range(8)]
    mixed = ["".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(200)) for _ in range(8)]
    spaces = ["".join(rng.choice(" \t\n\r\x0b\x0c\x85\xa0\u2003\u2028\u3000") for _ in range(100)) for _ in range(4)]
    around = [f"{left}{token}{right}" for token in added for left in ("", "a", " ", "\n") for right in ("", "b", "  ")]
    return [
        *one_script, *any_script, *mixed, *spaces, *around, "".join(added * 2), *(token[:-1] for token in added),
        "", " ", "\n", "a", "\x00", "a\x00b\x00\x00", "\ufeffbegins with a mark", "\ufffd\ufffe\uffff", "\x7f\x1b[0m",
        " " * 1000 + "x", "x" + " " * 1000, "\n" * 500, "\r\n" * 300, " \n \n\n  \n\t\t\n" * 50, "a \u200b \u200d b",
        "x" * 5000, "ab" * 3000, "é" * 2000, "中" * 2000, "=" * 3000, "-*" * 2000, "0" * 3000, "aA1" * 2000,
        "3.14159 1,000,000 12345678901234567890 0x7fff_ffff 1e-10 ½ ² ٣٤٥ ١٢٣ Ⅷ", "don't we'll I'M THEY'RE 'tis ''s 'S",
        "e\u0301a\u0308o\u0302\u0323 Z\u0351\u036b\u0343 \u1100\u1161\u11a8 \u0627\u0644\u0652 ｶﾞ ﬁ Å \u212b",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e8\U0001f1f3",
        "1\ufe0f\u20e3 \U0001f44d\U0001f3fd", "自然语言处理，是人工智能的一个方向。他说：“你好！”２０２６年",
        "吾輩は猫である。名前はまだ無い。한국어 ไทย עברית العربية",
        '<?xml version="1.0"?><article xml:lang="en"><p id="p1">a &lt; b &amp; c</p><!-- x --></article>',
        "def f(x):\n\treturn {'a': [x] * 2}  # 注释\n\n\nclass A:\n    pass\n",
        "C:\\Users\\x\\n \\u0041 https://a.b/c?d=e&f=%20#g",
        "  leading, trailing  ", "CamelCaseAndSNAKE_CASE and-dashes__dunder__",
        "naïve façade Straße İstanbul ĲSSEL ǅ ŉ",
    ]  # fmt: skip
