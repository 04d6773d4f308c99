"""The guide to data knows every reader and every rule, and its example of a rule works."""

from __future__ import annotations

import re
import typing

import pytest

from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.readers import READERS, load
from pipelines.stages.corpus.readers.sources import AnySource
from pipelines.stages.corpus.rules import RULES, apply
from pipelines.stages.corpus.spec import AnyRule
from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "data.md").read_text()


def tag(cls: type) -> str:
    return str(cls.__struct_config__.tag)  # type: ignore[attr-defined]


def test_every_reader_and_rule_is_there_and_described() -> None:
    assert set(typing.get_args(AnySource)) == set(READERS)
    assert set(typing.get_args(AnyRule)) == set(RULES)
    for cls in (*READERS, *RULES):
        assert f"`{tag(cls)}`" in GUIDE, tag(cls)
        assert callable(load(RULES[cls] if cls in RULES else READERS[cls].place))


def test_every_field_is_described() -> None:
    import ast

    for name in ("sources", "filters", "cleaners", "rules", "dedup"):
        tree = ast.parse((ROOT / "cluster" / "specs" / f"{name}.py").read_text())
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            for field, following in zip(cls.body, [*cls.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(following, ast.Expr), f"{name}.py: {cls.name} has an undescribed field"


def test_the_guides_rule(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    code = re.search(r"```python\n(def no_recipes.*?)```", GUIDE, re.DOTALL)
    config = re.search(r"```yaml\nrules: (.*?)\n```", GUIDE)
    assert code and config
    (tmp_path / "my_rules.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    import yaml

    rules = convert({"rules": yaml.safe_load(config[1])}, CorpusSpec, "corpus").rules
    assert apply(rules, Document("a", "One tablespoon of oil."))[1] == "recipe: tablespoon"
    assert apply(rules, Document("b", "Preheat the oven."))[1] == ""
