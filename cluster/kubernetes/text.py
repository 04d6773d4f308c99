"""Manifests as text: YAML as people write it, with long strings as blocks and nothing by reference."""

from __future__ import annotations

from typing import Any

import yaml

from cluster.core.specs.literals import Dumper


class _Dumper(Dumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # list items are indented below their key


def _string(dumper: _Dumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _string)


def to_yaml(*documents: Any) -> str:
    """Documents as one text, keys in their own order."""
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True))


def block(value: Any) -> str:
    """YAML to stand as text within a manifest; without a last newline, which kustomize takes from patches."""
    return to_yaml(value).rstrip("\n")
