"""The script that a text is written in, and the languages of lid.176 that are written in it.

Sources: blocks of Unicode 15; CLDR's table of languages and scripts, for the 176 labels of the model. A letter of
Chinese is about half a word, so the letters of mixed texts (`用iPhone拍照`) are weighed, not counted.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

HAN, KANA, LATIN = "Han", "Kana", "Latin"
WEIGHTS = {HAN: 3, KANA: 2, "Hangul": 2}

_RANGES: dict[str, tuple[tuple[int, int], ...]] = {
    LATIN: (
        (0x41, 0x5B), (0x61, 0x7B), (0xAA, 0xAB), (0xBA, 0xBB), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x2B0),
        (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA722, 0xA800), (0xFB00, 0xFB07), (0xFF21, 0xFF3B), (0xFF41, 0xFF5B),
    ),
    "Greek": ((0x370, 0x375), (0x376, 0x37E), (0x37F, 0x380), (0x386, 0x387), (0x388, 0x400), (0x1F00, 0x2000)),
    "Cyrillic": ((0x400, 0x483), (0x48A, 0x530), (0x1C80, 0x1C90), (0xA640, 0xA66F), (0xA680, 0xA6A0)),
    "Armenian": ((0x531, 0x557), (0x561, 0x588)),
    "Hebrew": ((0x5D0, 0x5F3), (0xFB1D, 0xFB50)),
    "Arabic": ((0x620, 0x660), (0x66E, 0x6D4), (0x6FA, 0x700), (0x750, 0x780), (0x8A0, 0x900), (0xFB50, 0xFE00),
               (0xFE70, 0xFEFF)),
    "Thaana": ((0x780, 0x7B2),),
    "Devanagari": ((0x900, 0x964), (0x971, 0x980)),
    "Bengali": ((0x980, 0x9E6), (0x9F0, 0x9F2)),
    "Gurmukhi": ((0xA00, 0xA66), (0xA70, 0xA80)),
    "Gujarati": ((0xA80, 0xAE6),),
    "Oriya": ((0xB00, 0xB66),),
    "Tamil": ((0xB80, 0xBE6),),
    "Telugu": ((0xC00, 0xC66),),
    "Kannada": ((0xC80, 0xCE6),),
    "Malayalam": ((0xD00, 0xD66),),
    "Sinhala": ((0xD80, 0xDE6),),
    "Thai": ((0xE01, 0xE3B), (0xE40, 0xE4F)),
    "Lao": ((0xE80, 0xED0), (0xEDC, 0xEE0)),
    "Tibetan": ((0xF40, 0xFBD),),
    "Myanmar": ((0x1000, 0x1040), (0x1050, 0x10A0)),
    "Georgian": ((0x10A0, 0x10FB), (0x10FC, 0x1100), (0x1C90, 0x1CC0), (0x2D00, 0x2D30)),
    "Hangul": ((0x1100, 0x1200), (0x3131, 0x318F), (0xA960, 0xA980), (0xAC00, 0xD800)),
    "Ethiopic": ((0x1200, 0x1361), (0x1380, 0x13A0), (0x2D80, 0x2DE0)),
    "Khmer": ((0x1780, 0x17D4),),
    "Mongolian": ((0x1820, 0x18AB),),
    KANA: ((0x3041, 0x3097), (0x309D, 0x30A0), (0x30A1, 0x30FB), (0x30FD, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFF9E)),
    HAN: ((0x3005, 0x3006), (0x3007, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00),
          (0x20000, 0x323B0)),
}  # fmt: skip

_ALL = frozenset(
    """af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
    diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io
    is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt
    mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd
    sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue
    zh""".split()  # noqa: SIM905 - else a page long
)
# The scripts that they are commonly written in; those that are missing here are written in Latin letters alone. The
# first of a script stands for it where the model has no opinion.
_LANGUAGES = {
    "Greek": "el",
    "Cyrillic": "ru av ba be bg bs bxr ce cv kk krc ku kv ky lez mhr mk mn mrj myv os rue sah sh sr tg tk tt tyv uk uz "
    "xal",
    "Armenian": "hy",
    "Hebrew": "he yi",
    "Arabic": "ar arz az azb ckb fa kk ku ky lrc mzn pnb ps sd tg tk ug ur uz",
    "Thaana": "dv",
    "Devanagari": "hi bh dty gom mai mr ne new sa sd",
    "Bengali": "bn as bpy",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Georgian": "ka xmf",
    "Hangul": "ko",
    "Ethiopic": "am",
    "Khmer": "km",
    "Mongolian": "mn",
    KANA: "ja",
    HAN: "zh wuu yue ja",
}
_IN_LATIN_TOO = frozenset("az bs gom ku sh sr tk tt uz".split())  # noqa: SIM905 - written in both
LANGUAGES = {script: frozenset(codes.split()) for script, codes in _LANGUAGES.items()}
LANGUAGES[LATIN] = _ALL - (frozenset().union(*LANGUAGES.values()) - _IN_LATIN_TOO)
DEFAULTS = {script: codes.split()[0] for script, codes in _LANGUAGES.items()}  # where the model has no opinion

_BOUNDS = sorted((start, end, script) for script, ranges in _RANGES.items() for start, end in ranges)
_NAMES = ("", *_RANGES)
_STARTS = np.array([bound for start, end, _ in _BOUNDS for bound in (start, end)])
_SCRIPTS = np.array([0] + [name for _, _, script in _BOUNDS for name in (_NAMES.index(script), 0)])
_NO_LETTERS = bytes(code for code in range(256) if not (code < 128 and chr(code).isalpha()))
_NO_CAPITALS = bytes(code for code in range(256) if not (code < 128 and chr(code).isupper()))


def weights(text: str) -> Counter[str]:
    """Letters of each script, weighed by how much of a word they are.

    Digits, punctuation and scripts that no language of lid.176 is written in are left out.
    """
    if text.isascii():
        count = len(text.encode().translate(None, _NO_LETTERS))
        return Counter(Latin=count) if count else Counter()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    counts = np.bincount(_SCRIPTS[np.searchsorted(_STARTS, codes, "right")], minlength=len(_NAMES))
    return Counter({_NAMES[i]: int(counts[i]) * WEIGHTS.get(_NAMES[i], 1) for i in np.flatnonzero(counts) if i})


def is_upper_case(text: str) -> bool:
    """Whether more letters are upper-case than are not."""
    if text.isascii():
        return 2 * len(text.encode().translate(None, _NO_CAPITALS)) > len(text.encode().translate(None, _NO_LETTERS))
    lowered = text.lower()
    if lowered == text:
        return False
    if len(lowered) != len(text):  # `İ` becomes two
        upper = sum(map(str.isupper, text))
    else:
        before, after = (np.frombuffer(part.encode("utf-32-le"), np.uint32) for part in (text, lowered))
        upper = int(np.count_nonzero(before != after))
    return 2 * upper > sum(map(str.isalpha, text))
