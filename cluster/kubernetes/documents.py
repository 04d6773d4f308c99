"""Manifests from files, read as the API server reads them: a key given twice is an error, dates and `on` are text."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.core.errors import InputError

STDIN = "-"


@dataclass(frozen=True)
class Document:
    """One manifest of a file."""

    file: str
    index: int
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.body.get("kind", ""))

    @property
    def name(self) -> str:
        """`RayJob/pretrain`, or the position in the file where it says not what it is."""
        metadata = self.body.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return f"{self.kind}/{name}" if self.kind and name else f"document {self.index + 1}"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":bool"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def load(text: str, file: str) -> Iterator[Document]:
    """The documents of a text. Raises InputError, with the line, for what is no YAML or no mapping."""
    try:
        bodies = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    for index, body in enumerate(bodies):
        if body is None:
            continue
        if not isinstance(body, dict):
            raise InputError(f"{file}: document {index + 1} is not a manifest", "A manifest is a mapping.")
        items = body.get("items")
        many = items if body.get("kind") == "List" and isinstance(items, list) else [body]
        yield from (Document(file, index, one) for one in many)


def read(path: Path) -> Iterator[Document]:
    """The manifests of a file, of every YAML file below a folder, or (`-`) of the standard input.

    Kustomizations and CRDs are passed over: they are not what is checked.
    """
    if str(path) == STDIN:
        found = list(load(sys.stdin.read(), STDIN))
    else:
        found = [document for file in _files(path) for document in load(_text(file), str(file))]
    yield from (document for document in found if document.kind not in ("Kustomization", "CustomResourceDefinition"))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml"))
    if not files:
        raise InputError(f"{path} holds no YAML files")
    return files


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
