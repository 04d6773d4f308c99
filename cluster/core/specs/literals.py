"""YAML as people mean it: what is quoted is text, what looks like a number is one, and everything else is text.

YAML 1.1, which PyYAML reads, takes `no` for false, `2022-03-01` for a date, `012` for ten, `1:30` for ninety, and
`3e-4` for text. Here only `true`, `false`, `null`, decimal and hexadecimal numbers are not text, as in YAML 1.2.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from cluster.core.errors import InputError, SpecError

EXACT = 1 << 53  # up to here a float holds every whole number

_TAG = "tag:yaml.org,2002:"
_DIGITS = r"(0|[1-9][0-9]*(_[0-9]+)*)"
_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (rf"[-+]?({_DIGITS}|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        rf"[-+]?({_DIGITS}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            node = self.anchors.get(event.anchor)
            if node is not None and node.end_mark is None:  # not read to its end
                raise yaml.composer.ComposerError(
                    None, None, f"*{event.anchor} stands within what it refers to", event.start_mark
                )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if key.tag != f"{_TAG}merge" and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(name)
        return dict(super().construct_mapping(node, deep))

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(node.value).replace("_", "")
        if "x" in text:
            return int(text, 16)
        if re.fullmatch(r"[-+]?[0-9]{1,4000}", text):  # Python reads no longer ones
            return int(text)
        if text.lower().lstrip("+-") in (".inf", ".nan"):
            return float(text.replace(".", "", 1))
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is larger than any number here; quote it if it is text", node.start_mark
            )
        # `1e6` is a count as often as a rate; `1.0` was written as a float.
        whole = "e" in text.lower() and number.is_integer() and abs(number) <= EXACT
        return int(number) if whole else number


class Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or ours would not read as text."""

    def represent_text(self, value: str) -> yaml.Node:
        breaks = any(sign in value for sign in "\x85\u2028\u2029")  # PyYAML would write them as they are
        return self.represent_scalar(f"{_TAG}str", value, style='"' if breaks else None)


for _name, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)
Dumper.add_representer(str, Dumper.represent_text)
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_number)
    _pattern, _first = _RESOLVERS[_name]
    Dumper.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str) -> Any:
    """A value as typed after `--set a.b=`. Raises SpecError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{text!r} is not a value: {problem}", "Quote it, or write it as YAML.") from None


def read(path: Path) -> Any:
    """What a YAML (or `.json`) file holds. Raises InputError or SpecError with the line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder", "Give a file of YAML or JSON.") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    try:  # YAML may be UTF-16 as well, with a mark: so a PowerShell writes it
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{number}: not UTF-8: {error.reason}", "Save the file as UTF-8.") from None
    try:
        return _of_json(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    except json.JSONDecodeError as error:
        raise SpecError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: {'nested too deeply' if isinstance(error, RecursionError) else error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from None


def _of_json(text: str) -> Any:
    """JSON with what is refused in YAML: a key that is given twice, a number that is none."""

    def whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"not JSON: the key {twice!r} is given twice")
        return dict(pairs)

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"not JSON: {number} is not a finite number")
        return value

    return json.loads(text, object_pairs_hook=whole, parse_float=finite, parse_constant=finite)


def dump(value: Any) -> str:
    """Plain data as YAML that `read` and `parse`, and any other reader of YAML, give back as it was."""
    return str(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True))
