"""Personal data and secrets, replaced by placeholders.

Sources: FineWeb's PIIFormatter in datatrove (mail, public IPv4), gitleaks (secrets, with its entropy threshold), Luhn's
and ISO 7064's check digits. Code and papers are full of look-alikes, so each kind is narrower than its source: a dotted
quad of small numbers, or one after a word like `version`, is no address. A kind costs one search for a literal where a
text has none of it.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules import mail
from pipelines.stages.corpus.rules.rule import Rule

Accept = Callable[[re.Match[str]], bool]

# Each pattern stands behind a guard that the regex engine finds quickly, since few texts hold what it looks for.
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"(?<![\w.-])(?<![^/]/)(?<![=~<>^]=)(?<![~^]){_OCTET}(?:\.{_OCTET}){{3}}(?![\w-]|\.\w)"
_IPV6 = r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:.])"
_SMALL_OCTET = 32
_BEFORE_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|rev|revision|build|firmware|section|sec|sect|chapter|table|fig|figure|ec)\.?|§)"
    r"[\s:=\"']{0,4}\Z",
    re.IGNORECASE,
)
_INTERNATIONAL = (
    r"(?<![\w+.])\+(?:[1-9]\d{9,13}|[1-9]\d{0,2}[ -](?:\(\d{1,4}\)[ -]?)?\d{1,4}(?:[ -]\d{2,5}){1,4})(?![\w.-]?\d)"
)
_NORTH_AMERICAN = r"(?<![\w.+/-])(?<!\d )(?:1-)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}(?![\w-]|\.\d)"
_CHINESE_LANDLINE = r"(?<![\w.+/-])0\d{2,3}-[1-9]\d{6,7}(?![\w-]|\.\d)"
_CHINESE_MOBILE = r"(?<![\w.+/-])1[3-9]\d{9}(?![\w-]|\.\d)"
_CARD = (
    r"(?<![\w.+/-])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d|62\d\d|35\d\d)(?P<gap>[ -]?)\d{4}(?:(?P=gap)\d{4}){2}"
    r"(?![\w-]|\.\d| \d)"
    r"|(?<![\w.+/-])3[47]\d\d(?P<amex>[ -]?)\d{6}(?P=amex)\d{5}(?![\w-]|\.\d| \d)"
)
_IDENTITY = r"(?<![\w.-])[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![\w-]|\.\d)"
_HAN = re.compile("[\u4e00-\u9fff]")
_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)

# A literal that must be in the text, and the whole.
_SECRETS = tuple(
    (literal, re.compile(pattern, re.ASCII))
    for literal, pattern in (
        ("PRIVATE KEY", r"-----BEGIN[ A-Z0-9_-]{0,100}PRIVATE KEY(?: BLOCK)?-----[^!]{64,20000}?KEY(?: BLOCK)?-----"),
        ("AKIA", r"\bAKIA[A-Z2-7]{16}\b"),
        ("ASIA", r"\bASIA[A-Z2-7]{16}\b"),
        ("LTAI", r"\bLTAI[A-Za-z0-9]{20}\b"),
        ("AIza", r"\bAIza[\w-]{35}(?![\w-])"),
        *((f"gh{kind}_", rf"\bgh{kind}_[A-Za-z0-9]{{36}}\b") for kind in "pousr"),
        ("github_pat_", r"\bgithub_pat_\w{82}\b"),
        ("glpat-", r"\bglpat-[\w-]{20}(?![\w-])"),
        ("xox", r"\bxox[abeoprs]-(?:\d+-)?[A-Za-z0-9-]{20,200}\b"),
        ("hooks.slack.com", r"\bhooks\.slack\.com/services/[\w/+]{40,60}"),
        ("T3BlbkFJ", r"\bsk-(?:[\w-]{1,20}-)?[\w-]{20,74}T3BlbkFJ[\w-]{20,74}"),
        ("sk-ant-", r"\bsk-ant-(?:api|admin)\d\d-[\w-]{80,100}"),
        ("sk-", r"\bsk-[A-Za-z0-9]{48}\b"),
        *((f"k_{mode}_", rf"\b[rs]k_{mode}_[A-Za-z0-9]{{10,99}}\b") for mode in ("live", "test", "prod")),
        ("SG.", r"\bSG\.[\w-]{22}\.[\w-]{43}(?![\w-])"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
        ("pypi-", r"\bpypi-AgEIcHlwaS5vcmc[\w-]{50,1000}"),
        ("hf_", r"\bhf_[A-Za-z]{34}\b"),
        ("_v1_", r"\bdo[opr]_v1_[a-f0-9]{64}\b"),
        (".ey", r"\bey[A-Za-z0-9]{17,2000}\.ey[\w-]{17,8000}\.[\w-]{10,2000}={0,2}"),
    )
)
_MIN_ENTROPY_BITS = 3.0


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

    def apply(self, document: Document) -> str:
        """Replace what is found, and add to the counts in the metadata. Never rejects."""
        text = document.text
        found: Counter[str] = Counter()
        for literal, pattern in _SECRETS if self.secret else ():
            if literal in text:
                text = _replace(text, "secret", self.secret, pattern, _is_secret, found)
        if self.email:
            text = _replace_mail(text, self.email, found)
        for kind, guard, pattern, accept in _NUMBERS:
            placeholder: str = getattr(self, kind)
            if placeholder and guard.search(text):
                text = _replace(text, kind, placeholder, pattern, accept, found)
        if found:
            document.text = text
            before: dict[str, int] = document.metadata.get("personal_data", {})
            document.metadata["personal_data"] = {
                kind: before.get(kind, 0) + found[kind] for kind in sorted(before.keys() | found.keys())
            }
        return ""


def _replace(
    text: str, kind: str, placeholder: str, pattern: re.Pattern[str], accept: Accept, found: Counter[str]
) -> str:
    def one(match: re.Match[str]) -> str:
        if match[0] == placeholder or not accept(match):
            return match[0]
        found[kind] += 1
        return placeholder

    return pattern.sub(one, text)


def _replace_mail(text: str, placeholder: str, found: Counter[str]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in mail.find(text):
        if text[start:end] != placeholder:
            pieces += [text[done:start], placeholder]
            done = end
            found["email"] += 1
    return "".join([*pieces, text[done:]])


def _is_secret(match: re.Match[str]) -> bool:
    """Not a stand-in of a manual: `AKIAIOSFODNN7EXAMPLE`, `ghp_xxxx...`."""
    value = match[0]
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return bits >= _MIN_ENTROPY_BITS and not value.endswith("EXAMPLE")


def _is_public(match: re.Match[str]) -> bool:
    try:
        return ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return False


def _is_public_ipv4(match: re.Match[str]) -> bool:
    """Three numbers below 32 make a version or a section: of random addresses one in 146 has them."""
    if sum(int(octet) < _SMALL_OCTET for octet in match[0].split(".")) >= 3:
        return False
    before = match.string[max(0, match.start() - 16) : match.start()]
    return not _BEFORE_VERSION.search(before) and _is_public(match)


def _digits(value: str) -> list[int]:
    return [int(character) for character in value if character.isdigit()]


def _is_phone(match: re.Match[str]) -> bool:
    """E.164 allows 15 digits; with a country or area code hardly any number has fewer than 9."""
    return 9 <= len(_digits(match[0])) <= 15


def _is_chinese_mobile(match: re.Match[str]) -> bool:
    """Eleven digits alone say little: only where Chinese text stands around them."""
    return bool(_HAN.search(match.string, max(0, match.start() - 100), match.end() + 100))


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])[::-1]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + doubled) % 10 == 0


def _is_identity(match: re.Match[str]) -> bool:
    """GB 11643: the last character is the check digit of ISO 7064 MOD 11-2."""
    total = sum(weight * int(digit) for weight, digit in zip(_IDENTITY_WEIGHTS, match[0][:17], strict=True))
    return "10X98765432"[total % 11] == match[0][-1].upper()


_NUMBERS: tuple[tuple[str, re.Pattern[str], re.Pattern[str], Accept], ...] = tuple(
    (kind, re.compile(guard), re.compile(pattern, re.ASCII), accept)
    for kind, guard, pattern, accept in (
        ("ip_address", r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", _IPV4, _is_public_ipv4),
        ("ip_address", r":[0-9A-Fa-f]{0,4}:", _IPV6, _is_public),
        ("identity_number", r"[0-9]{17}", _IDENTITY, _is_identity),
        ("credit_card", r"[0-9]{4}[ -]?[0-9]{4,6}[ -]?[0-9]{4}", _CARD, _is_card),
        ("phone", r"\+[1-9][0-9 -]", _INTERNATIONAL, _is_phone),
        ("phone", r"[-.)] ?[2-9][0-9]{2}[-.][0-9]{4}", _NORTH_AMERICAN, _is_phone),
        ("phone", r"-[1-9][0-9]{6}", _CHINESE_LANDLINE, _is_phone),
        ("phone", r"[\u4e00-\u9fff]", _CHINESE_MOBILE, _is_chinese_mobile),
    )
)
