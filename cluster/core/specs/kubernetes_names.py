"""What Kubernetes takes for a name, a label, a port, an image or a schedule: the patterns of its own validation
(k8s.io/apimachinery/pkg/util/validation), so that a spec is refused where it is read and not where it is applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_WORD = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
LABEL_CHARS, NAME_CHARS, PORT_NAME_CHARS = 63, 253, 15
PORTS = range(1, 65536)
SYSTEM_PREFIX = "kube-"  # namespaces that Kubernetes keeps for itself

_HOST = r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_REGISTRY = re.compile(rf"{_HOST}(:\d+)?(/[a-z0-9._-]+)*")
_IMAGE = re.compile(
    rf"({_HOST}(:\d+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_PASSWORD_IN_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:?#]*:[^\s/@?#]+@")

CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
CRON_WORDS = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def is_label(text: str) -> bool:
    """A DNS-1123 label, as namespaces and container ports' names are."""
    return len(text) <= LABEL_CHARS and re.fullmatch(_LABEL, text) is not None


def is_name(text: str) -> bool:
    """A DNS-1123 subdomain, as most objects' names are."""
    return len(text) <= NAME_CHARS and _SUBDOMAIN.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """What can stand in the path of a URL, as the few names are that have no other rule."""
    return text not in ("", ".", "..") and not set(text) & {"/", "%"}


def is_key(text: str) -> bool:
    """The key of a label or an annotation: a word, with a domain and a slash before it or not."""
    prefix, slash, word = text.rpartition("/")
    return (is_name(prefix) if slash else True) and len(word) <= LABEL_CHARS and _WORD.fullmatch(word) is not None


def is_value(text: str) -> bool:
    """The value of a label."""
    return len(text) <= LABEL_CHARS and (not text or _WORD.fullmatch(text) is not None)


def is_port_name(text: str) -> bool:
    """An IANA service name."""
    return (
        len(text) <= PORT_NAME_CHARS
        and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", text) is not None
        and re.search("[a-z]", text) is not None
        and "--" not in text
    )


def is_image(text: str) -> bool:
    """`[REGISTRY/]NAME[:TAG][@DIGEST]`."""
    return _IMAGE.fullmatch(text) is not None


def is_registry(text: str) -> bool:
    """`HOST[:PORT][/PATH]`."""
    return _REGISTRY.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """`host:port`."""
    host, _, port = text.rpartition(":")
    return re.fullmatch(_HOST, host) is not None and port.isascii() and port.isdecimal() and int(port) in PORTS


def is_store(text: str) -> bool:
    """Whether a URL names a bucket or container, or what stands below one, rather than files of one machine."""
    of_a_pod = text.partition("://")[0] in ("file", "local", "memory", "http", "https")
    return not of_a_pod and re.fullmatch(r"[a-z][a-z0-9+.-]*://[!-.0-~]+(/[!-~]*)?", text) is not None


def is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # what stands for the port is none
        return False


def has_password(text: str) -> bool:
    """Whether a URL with a password stands anywhere in the text."""
    return _PASSWORD_IN_URL.search(text) is not None


def passwords(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a document a URL with a password stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from passwords(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from passwords(inner, (*path, index))
    elif isinstance(value, str) and has_password(value):
        yield path


def is_schedule(text: str) -> bool:
    """Five fields of cron, or one of its words."""
    fields = text.split()
    if len(fields) != len(CRON_FIELDS):
        return text in CRON_WORDS
    names = ((), (), (), MONTHS, WEEKDAYS)
    return all(_is_cron(f, *bounds, known) for f, bounds, known in zip(fields, CRON_FIELDS, names, strict=True))


def _is_cron(text: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    """One field: parts with commas between, each `*`, a number or a range, with `/step` behind it or not."""

    def number(word: str) -> int | None:
        if word.upper() in names:
            return names.index(word.upper()) + low
        return int(word) if word.isascii() and word.isdecimal() and low <= int(word) <= high else None

    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdecimal() and int(step) > 0):
            return False
        if span in ("*", "?"):
            continue
        first, dash, last = span.partition("-")
        ends = [number(first), number(last)] if dash else [number(first)]
        if None in ends or (dash and ends[0] > ends[1]):  # type: ignore[operator]
            return False
    return True
