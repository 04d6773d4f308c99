"""The guide to data knows every reader and every rule, and its example of a rule works."""

from __future__ import annotations

import ast
import inspect
import re
import typing

import pytest

from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec, LineDedup, MinHash
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.readers import AnySource
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.rules import AnyRule
from pipelines.stages.corpus.rules.rule import Rule, apply
from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "data.md").read_text()


def tag(cls: type) -> str:
    return str(cls.__struct_config__.tag)  # type: ignore[attr-defined]


def structs() -> list[type]:
    return [*typing.get_args(AnySource), *typing.get_args(AnyRule), MinHash, LineDedup]


def test_every_reader_and_rule_is_described() -> None:
    for cls in (*typing.get_args(AnySource), *typing.get_args(AnyRule)):
        assert f"`{tag(cls)}`" in GUIDE, tag(cls)


def test_every_reader_and_rule_is_listed_and_does_something() -> None:
    """A file of a rule that the list forgets would never be imported; a struct without its method never be found."""
    for base, union, method in ((Source, AnySource, "read"), (Rule, AnyRule, "apply")):
        folder = ROOT.joinpath(*base.__module__.split(".")[:-1])
        struct = re.compile(rf"^class (\w+)\({base.__name__}, ", re.MULTILINE)
        found = {name for path in folder.rglob("*.py") for name in struct.findall(path.read_text())}
        assert found == {cls.__name__ for cls in typing.get_args(union)}
        for cls in typing.get_args(union):
            assert method in vars(cls), cls


@pytest.mark.parametrize("cls", [*structs(), Source], ids=lambda cls: cls.__name__)
def test_every_field_is_described(cls: type) -> None:
    (body,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(body, ast.ClassDef)
    for field, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
            assert isinstance(following, ast.Expr), f"{cls.__name__} has an undescribed field: {ast.unparse(field)}"


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
