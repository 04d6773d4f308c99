"""docs/first-change.md: each change is as small as it says, applies to this code, and does what it is for.

A section is a heading, a block of `diff`, and a program here that runs in a copy of the packages to which the diff was
applied.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUIDE = (ROOT / "docs" / "first-change.md").read_text()
PACKAGES = ("cluster", "pipelines", "serving")

READER = """
from pathlib import Path

from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec, CsvSource

Path("in").mkdir()
Path("in/a.csv").write_text('id,text,stars\\n1,"Good, and\\ncheap.",5\\n2\\n')
Path("in/b.txt").write_text("no table")
(source,) = convert({"sources": [{"reader": "csv", "path": "in"}]}, CorpusSpec, "corpus").sources
assert source == CsvSource(path="in")
(file,) = source.list_files()
good, broken = source.read(file)
assert (good.id, good.text, good.metadata) == ("a.csv#1", "Good, and\\ncheap.", {"id": "1", "stars": "5"})
assert (broken.position, broken.reason.partition(":")[0]) == ("row 2", "no_text")
"""

RULE = """
from cluster.core.specs.spec import convert
from pipelines.specs import CorpusSpec, UpperCase
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import apply

given = [{"rule": "not_empty"}, {"rule": "upper_case", "max_fraction": 0.5}]
rules = convert({"rules": given}, CorpusSpec, "corpus").rules
assert rules[1] == UpperCase(max_fraction=0.5)
assert [apply(rules, Document("d", text))[1] for text in ("FREE MONEY, now!", "A big SALE for all.", "1984", "")] == [
    "upper_case",
    "",
    "",
    "empty",
]
"""

SECTIONS = {"A reader": READER, "A rule": RULE}


def diff_of(section: str) -> str:
    """The change that a section of the guide shows."""
    found = re.search(rf"^## {re.escape(section)}\n(?:(?!^## ).*\n)*?```diff\n((?:.*\n)*?)```$", GUIDE, re.MULTILINE)
    assert found, section
    return found[1]


def test_every_change_is_run() -> None:
    assert GUIDE.count("```diff") == len(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_change_is_one_file_and_one_line(section: str) -> None:
    files = diff_of(section).split("diff --git ")[1:]
    (listing,) = [file for file in files if "\nnew file mode " not in file]
    assert len(files) == 2
    assert re.findall(r"^-(?!-- )|^\+(?!\+\+ )", listing, re.MULTILINE) == ["+"]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_change_does_what_it_says(section: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    apply = ["git", "apply", "--whitespace=error", "-"]
    done = subprocess.run(apply, input=diff_of(section), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    program = f"import cluster\nassert cluster.__file__.startswith({str(tmp_path)!r})\n{SECTIONS[section]}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
