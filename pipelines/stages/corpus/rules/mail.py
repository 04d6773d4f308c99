"""Mail addresses in running text, also beyond ASCII (RFC 6531): where each begins and ends.

Narrower than FineWeb's pattern: a domain must end in a known top-level domain, for `icon@2x.png` and `a@b.T` are none.
The search starts at the sign and looks back a bounded way, since a search for local parts would be quadratic in long
runs of letters (base64). Scripts without blanks between words stand glued to an address of Latin letters and stay;
where the local part itself is in one, it begins behind what is no letter or behind a word that leads up to an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Two letters are a country. Of the rest those in common use for mail: most others are attributes and file endings.
_DOMAINS = (
    "com|org|net|edu|gov|mil|int|info|biz|name|pro|aero|coop|museum|jobs|mobi|tel|asia|cat|post|xyz|online|site|shop|"
    "store|tech|club|email|agency|group|global|international|foundation|institute|university|academy|school|health|"
    "hospital|clinic|consulting|company|solutions|services|systems|network|digital|cloud|africa|berlin|london|swiss|"
    "example|xn--[a-z0-9-]{2,59}"
)
# Internationalized ones of countries, and those open to all (IANA's root zone; 广告 is common in examples).
_DOMAINS_BEYOND_ASCII = (
    "中国|中國|香港|台湾|台灣|新加坡|澳門|公司|网络|網絡|网址|网站|在线|中文网|商城|商店|企业|集团|我爱你|政务|公益|机构|移动|广告|"
    "みんな|コム|한국|닷컴|닷넷|ไทย|คอม|"
    "рф|рус|москва|дети|онлайн|сайт|орг|ком|укр|бел|бг|срб|мкд|мон|қаз|ею|ελ|ευ|հայ|გე|ישראל|קום|"
    "الاردن|السعودية|امارات|مصر|ایران|المغرب|تونس|قطر|عمان|فلسطين|سورية|العراق|الجزائر|پاکستان|شبكة|موقع|بھارت|بازار|"
    "भारत|नेट|कॉम|संगठन|ভারত|বাংলা|ਭਾਰਤ|ભારત|இந்தியா|இலங்கை|சிங்கப்பூர்|భారత్|ලංකා"
)
_FORMS = "\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff"  # ligatures, full width, bold
_INVISIBLE = "\u00ad\u200b-\u200d\u2060"  # hyphens and joints that a page has put in
_LATIN = f"{_FORMS}a-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff"
_SPACED = (  # letters and marks of scripts that write blanks between words
    f"{_LATIN}\u0250-\u02af\u0370-\u0373\u0376-\u037d\u037f-\u0386\u0388-\u052f\u0531-\u0556\u0561-\u0587\u05b0-\u05bd"
    "\u05d0-\u05f2\u0620-\u0669\u066e-\u06d3\u06d5-\u06dc\u06ee-\u06ff\u0750-\u077f\u0900-\u0963\u0966-\u0dff"
    "\u10a0-\u10fa\u10fc-\u10ff\u1200-\u135f\u1f00-\u1fff"
)
_GLUED = (  # of those that do not, and of Korean, which adds particles
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0edf\u1000-\u1049\u1780-\u17d3\u3005-\u3007\u3041-\u3096\u30a1-\u30fa"
    "\u30fc-\u30fe\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U000323af"
)
_LEADING_UP = "是为為到给給至箱址系繫件寄发發于於は"  # `邮箱`, `联系`, `写信给`

_LABEL = rf"(?:[{_SPACED}](?:[{_SPACED}{_INVISIBLE}-]{{0,62}}[{_SPACED}])?|[{_GLUED}]{{1,20}})"
_IPV6_LITERAL = r"IPv6:[0-9a-f:.]{2,45}"
_AT = re.compile(
    rf"[@＠](?<=[{_SPACED}{_GLUED}_+\"-][@＠])"
    rf"(?:(?:{_LABEL}[.．]){{1,8}}"
    rf"(?:(?:{_DOMAINS}|[a-z]{{2}})(?![{_LATIN}_@(\[]|[.-][a-z0-9_])|(?:{_DOMAINS_BEYOND_ASCII})(?![{_SPACED}_@(\[]))"
    rf"|\[(?:\d{{1,3}}(?:\.\d{{1,3}}){{3}}|{_IPV6_LITERAL})\])",
    re.IGNORECASE,
)
_LOCAL_PART = re.compile(
    rf"(?<![{_SPACED}_.%+@-])[{_SPACED}_][{_SPACED}{_INVISIBLE}_.%+'-]{{0,63}}\Z"
    r'|"(?:[^"\\\n]|\\[^\n]){1,62}"\Z'
    rf"|(?:(?<=[{_LEADING_UP}])|(?<![{_SPACED}{_GLUED}_.%+@-]))(?:(?![{_LEADING_UP}])[{_GLUED}]){{1,8}}\Z",
    re.IGNORECASE,
)
_LOCAL_CHARACTERS = 66


def find(text: str) -> Iterator[tuple[int, int]]:
    """Beginning and end of each address."""
    if "@" not in text and "＠" not in text:
        return
    done = 0
    for sign in _AT.finditer(text):
        local = _LOCAL_PART.search(text, max(done, sign.start() - _LOCAL_CHARACTERS), sign.start())
        if local is None or local[0] == "git":  # `git@github.com:owner/name` is an address of a repository
            continue
        done = sign.end()
        yield local.start(), done
