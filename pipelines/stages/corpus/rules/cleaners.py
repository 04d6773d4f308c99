"""Rules that change a document's text, or judge it by its language or by a list of the user's.

The line below a field names the published source of its default; `ours` says that the value was chosen here. Rules
that only judge quality are in `filters.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from cluster.core.specs.naming import File
from pipelines.stages.corpus.rules.rule import Count, Fraction, Rule

Positive = Annotated[int, Meta(ge=1)]
Sha256 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]


class RepairUnicode(Rule, frozen=True):
    """Repair wrongly decoded characters (ftfy), normalize Unicode and remove characters that say nothing."""

    mojibake: bool = True
    """Undo decoding by the wrong encoding, such as `donâ€™t` for `don’t` (ftfy's `fix_encoding`)."""
    normalization: Literal["", "NFC", "NFKC"] = "NFC"
    """Unicode normalization; NFKC also folds full-width letters, ligatures and superscripts (`10⁶` to `10^6`);
    empty does none.
    """
    control_characters: bool = True
    """Remove control characters, byte-order marks, zero-width spaces and soft hyphens; tabs and line ends stay."""
    max_replacement_fraction: Fraction = 0.01
    """Reject a text with a larger share of U+FFFD, which stands where a character was lost (ours)."""


class NormalizeWhitespace(Rule, frozen=True):
    """One form of line ends and blanks. Indentation stays as it is."""

    unicode_spaces: bool = True
    """Turn no-break, thin, ideographic and other Unicode spaces into plain ones."""
    collapse_spaces: bool = False
    """Turn a run of blanks inside a line into one space; it ruins tables and aligned comments."""
    max_blank_lines: Count = 2
    """Shorten longer runs of blank lines."""


class RemoveGutenbergBoilerplate(Rule, frozen=True):
    """Cut what Project Gutenberg puts before and after a book; a text without its marks stays whole."""


class RemoveLicenseHeader(Rule, frozen=True):
    """Cut the licence and copyright notice from the comments at the head of a source file."""


class RemoveWebBoilerplate(Rule, frozen=True):
    """Drop lines of cookie notices, sharing buttons and newsletter forms, by a short fixed list."""

    max_line_characters: Positive = 300
    """Longer lines are text and stay (ours)."""


class Language(Rule, frozen=True):
    """Identify the language, write `language` and `language_score`, and keep the chosen ones.

    The script of most of the text decides which languages come into question, fastText's lid.176 among them.
    """

    languages: tuple[str, ...] = ()
    """ISO 639 codes to keep, as lid.176 says them (`en`, `zh`, `wuu`); empty keeps every language."""
    min_score: Fraction = 0.65
    """Reject where the best language has a lower score among those of its script (FineWeb: 0.65); 0 only labels."""
    max_characters: Positive = 10_000
    """How much of the beginning is looked at (FineWeb: everything)."""


class RemovePersonalData(Rule, frozen=True):
    """Replace mail addresses, telephone, card and identity numbers, public IP addresses and secrets by placeholders.

    Counts go to the metadata as `personal_data`. An empty placeholder leaves that kind as it is.
    """

    email: str = "email@example.com"
    """Stands for a mail address (FineWeb)."""
    ip_address: str = "192.0.2.1"
    """Stands for a public IPv4 or IPv6 address; private ones stay (FineWeb, which writes real addresses instead)."""
    phone: str = "<PHONE>"
    """Stands for a telephone number in international, North American or Chinese notation (ours)."""
    credit_card: str = "<CARD>"
    """Stands for a card number of a known issuer with a right Luhn digit (ours)."""
    identity_number: str = "<ID>"
    """Stands for a Chinese identity number with a right check digit (MNBVC removes them)."""
    secret: str = "<KEY>"
    """Stands for an API key, token or private key (patterns of gitleaks; the placeholder of StarCoder)."""


class ConvertChinese(Rule, frozen=True):
    """Convert between traditional and simplified characters (OpenCC); WuDaoCorpora and MNBVC convert to simplified."""

    config: Literal[
        "t2s", "s2t", "s2tw", "s2twp", "tw2s", "tw2sp", "s2hk", "s2hkp", "hk2s", "hk2sp", "t2tw", "tw2t", "t2hk", "hk2t"
    ] = "t2s"
    """OpenCC's configuration: s simplified, t traditional, tw Taiwan, hk Hong Kong, final p with their words."""


class HalfWidth(Rule, frozen=True):
    """Turn full-width ASCII letters and digits into half-width ones."""

    punctuation: bool = False
    """Turn full-width punctuation too, which Chinese text uses rightly."""


class ChineseLines(Rule, frozen=True):
    """Drop lines of Chinese pages that are no sentences, and reject a page of which little remains.

    Source: Chinese-C4 (shjwudp/c4-dataset-script, `filter_out_bad_lines.py`); `min_han` is MNBVC's.
    """

    min_line_characters: Count = 5
    """Drop shorter lines (Chinese-C4)."""
    max_line_characters: Positive = 500
    """Drop longer lines (Chinese-C4); books and papers have longer paragraphs."""
    sentence_end: bool = True
    """Drop lines that do not end as a sentence does, with one of 。！？……”： (Chinese-C4)."""
    cut_unfinished: bool = False
    """Where a line has an end of a sentence inside, keep it up to there instead of dropping it (MNBVC)."""
    min_han: Count = 0
    """Drop lines with fewer Chinese characters (MNBVC: 10)."""
    min_lines: Count = 6
    """Reject where fewer lines remain (Chinese-C4 keeps more than 5)."""


class ChineseQuality(Rule, frozen=True):
    """Judge Chinese text by its characters. Source: EvalWeb (ChineseWebText, arXiv 2311.01149), where not said else."""

    min_characters: Count = 201
    """Reject shorter texts (EvalWeb keeps more than 200)."""
    min_mean_line_characters: Annotated[float, Meta(ge=0)] = 10.0
    """Reject texts with shorter lines on average, the blank ones counted (EvalWeb: 10)."""
    min_han_fraction: Fraction = 0.3
    """Reject a smaller share of Chinese characters in all characters (EvalWeb: 0.3; MNBVC: 0.7)."""
    min_punctuation_fraction: Fraction = 0.01
    """Reject a smaller share of punctuation, as in lists of keywords (ours)."""
    max_punctuation_fraction: Fraction = 0.35
    """Reject a larger share of punctuation (ours)."""
    min_stop_characters: Count = 2
    """Reject fewer different ones of the common characters 的一是了不在有和人这 (ours, after Gopher's stop words)."""


class ChineseRepetition(Rule, frozen=True):
    """Reject text that repeats itself: the share of runs of characters that occur more than once (EvalWeb)."""

    ngram_characters: Annotated[int, Meta(ge=2, le=100)] = 13
    """Characters in a run, white space left out (EvalWeb: 13)."""
    max_fraction: Fraction = 0.5
    """Reject a larger share (EvalWeb: 0.5)."""


class UrlBlockList(Rule, frozen=True):
    """Reject documents by their address: lists of domains and addresses, and words in it (FineWeb's URL filter).

    A document without an address stays.
    """

    path: File = ""
    """A file of domains and addresses, one a line, or a folder with UT1's `domains` and `urls`; compressed too."""
    sha256: Sha256 = ""
    """SHA-256 of the file as it lies there (of a folder: of its lists in the order of their paths); empty: any."""
    words: tuple[str, ...] = ()
    """Reject an address with one of these between its separators."""
    soft_words: tuple[str, ...] = ()
    """Reject an address with several of these between its separators."""
    min_soft_words: Positive = 2
    """How many different soft words (FineWeb: 2)."""
    subwords: tuple[str, ...] = ()
    """Reject an address that holds one of these anywhere, its separators left out."""


class BadWords(Rule, frozen=True):
    """Reject documents that hold a word of a list (C4, with the lists of LDNOOBW): whole words, in any case.

    Words with Chinese, Japanese or Thai letters are found inside other text too, as in mC4.
    """

    path: File
    """The list: one word or phrase a line; compressed too."""
    sha256: Sha256 = ""
    """SHA-256 of the file as it lies there; empty: any."""
    allowed: tuple[str, ...] = ("sm", "グロ", "女の子", "性")
    """Words of the list to pass over (mC4's exceptions: parts of common words)."""


class Decontaminate(Rule, frozen=True):
    """Reject or cut what overlaps evaluation data by n-grams of words (GPT-3, Brown et al. 2020, appendix C).

    Words are split at white space, lower-cased, without punctuation. Every Chinese, Japanese or Thai letter is a word,
    and strings of them need twice as many (ours): 13 letters are a phrase. GPT-3 also spared n-grams that are common
    in the training data, which a stream cannot know; `max_items` spares those common in the evaluation data instead,
    and n-grams that are numbers for the most part are passed over (ours).
    """

    paths: Annotated[tuple[File, ...], Meta(min_length=1)]
    """Files, folders or globs: .jsonl, .json, .csv, .tsv, .txt (an item a line), compressed, or .zip of these."""
    ngram_words: Annotated[int, Meta(ge=2, le=100)] = 13
    """Words in an n-gram (GPT-3: 13 at most)."""
    min_words: Positive = 8
    """Shorter strings of the evaluation data are passed over; from here to `ngram_words` all must match (GPT-3: 8)."""
    max_items: Positive = 10
    """An n-gram that more items hold is a template and no overlap (ours)."""
    action: Literal["reject", "cut"] = "reject"
    """`cut` removes the overlap and `margin_characters` around it, and rejects what is cut too often."""
    margin_characters: Count = 200
    """Text cut on each side of an overlap (GPT-3: 200)."""
    min_fragment_characters: Count = 200
    """Shorter fragments between cuts are dropped (GPT-3: 200)."""
    max_fragments: Positive = 10
    """A document cut into more fragments is rejected (GPT-3: 10)."""
