"""What lies beside a script: found by `python script.py` and by every command, in this process and in the workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.core.errors import InputError, NotReadyError
from cluster.core.identity import usercode
from cluster.core.storage.store import Store
from cluster.pipeline import load_script
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

SCRIPT = '''
"""A pipeline with helpers beside it."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import my_helper
from cluster.pipeline import main, pipeline
from pipelines.specs import CorpusSpec, Python, Spec, TextSource
from my_parts import names


@dataclass
class Options:
    share: float = 0.5


class NoteSpec(Spec, frozen=True):
    """A spec of the user's."""

    kind: ClassVar[str] = "note"
    stage: ClassVar[str] = "my_stage:build"

    text: str = my_helper.TEXT
    """What is noted."""


@pipeline
def helped(step):
    step(NoteSpec())
    rule = Python(function="my_rules:no_poems", options={"word": names.WORD})
    step(CorpusSpec(sources=(TextSource(path=my_helper.DATA),), rules=(rule,), heldout_fraction=Options().share))


if __name__ == "__main__":
    main(helped)
'''
FILES = {
    "helped.py": SCRIPT,
    "my_helper.py": "from pathlib import Path\n\nTEXT = 'hello'\nDATA = str(Path(__file__).parent / 'texts')\n",
    "my_parts/__init__.py": "",
    "my_parts/names.py": "from .word import WORD\n",
    "my_parts/word.py": "WORD = 'rose'\n",
    "my_rules.py": "import my_helper\n\n\ndef no_poems(document, word):\n"
    "    return 'poem' if word in document.text and my_helper.TEXT else ''\n",
    "my_stage.py": "import multiprocessing\n\nimport my_helper\n\n\n"
    "def build(ctx):\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
    "        found = pool.apply(my_helper.Path, (ctx.spec.text,))\n"
    "    ctx.output.write_bytes('note.txt', str(found).encode())\n    return {}\n",
    # Neither is imported by the user's code; both stand where Python would look first.
    "queue.py": "raise RuntimeError('not this one')\n",
    "statistics.py": "raise RuntimeError('not this one')\n",
}  # fmt: skip


def write(folder: Path, **changes: str) -> Path:
    """The script and its helpers in a folder; `changes` by the file's stem."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(changes.get(Path(name).stem, text))
    for number in range(8):
        (folder / "texts").mkdir(exist_ok=True)
        (folder / "texts" / f"{number}.txt").write_text(
            f"text {number} of a {'rose' if number % 4 == 0 else 'stone'}\n"
        )
    return folder / "helped.py"


def ctl(*arguments: object, cwd: Path) -> str:
    code = "from cluster.cli.app import run; run()"
    return execute(sys.executable, "-c", code, *arguments, cwd=cwd)


def execute(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_finds_what_python_finds(tmp_path: Path) -> None:
    script, elsewhere = write(tmp_path / "user"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    store = ("--store", tmp_path / "artifacts")
    planned = json.loads(ctl("plan", script, *store, "--json", cwd=elsewhere))
    assert [item["built"] for item in planned] == [False, False]
    ctl("run", os.path.relpath(script, elsewhere), *store, cwd=elsewhere)
    (corpus,) = Store(tmp_path / "artifacts").list("corpus")
    assert (corpus.metrics["documents"]["train"] + corpus.metrics["documents"]["heldout"]) == 6
    said = execute(sys.executable, script, *store, cwd=elsewhere)
    assert said.count("is there") == 2, said


def test_each_script_has_helpers_of_its_own(tmp_path: Path, store: Store) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two", my_helper="TEXT, DATA = 'other', '/nowhere'\n")
    texts = [load_script(script).graph(store).steps[0].spec.text for script in (one, two, one)]
    assert texts == ["hello", "other", "hello"]
    (tmp_path / "one" / "my_helper.py").write_text("TEXT, DATA = 'mended', '/nowhere'\n")
    assert load_script(one).graph(store).steps[0].spec.text == "mended"


@pytest.mark.parametrize("module", ["queue", "statistics"])
def test_a_name_that_means_two_modules_is_refused(tmp_path: Path, module: str) -> None:
    script = write(tmp_path, my_helper=f"import {module}\n\nTEXT = DATA = ''\n")
    with pytest.raises(InputError, match=rf"my_helper.py:1: '{module}' is a module of Python's own.*Rename"):
        load_script(script)


@pytest.mark.parametrize("name", ["pipelines.py", "serving/__init__.py", "cluster.py"])
def test_the_name_of_a_package_of_ours_is_refused(tmp_path: Path, name: str) -> None:
    script = write(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(NotReadyError, match=rf"{name} has the name of Trunkline's package.*Rename"):
        load_script(script)


def test_the_sources_of_a_module(tmp_path: Path) -> None:
    script = write(tmp_path)
    assert list(usercode.sources(script, tmp_path)) == [
        *("helped.py", "my_helper.py", "my_parts/__init__.py", "my_parts/names.py", "my_parts/word.py")
    ]
    assert list(usercode.sources(tmp_path / "my_rules.py", tmp_path)) == ["my_helper.py", "my_rules.py"]
    assert list(usercode.sources(tmp_path / "my_parts" / "word.py", tmp_path)) == [
        *("my_parts/__init__.py", "my_parts/word.py")
    ]
    (tmp_path / "loose" / "deep").mkdir(parents=True)  # a package without __init__.py
    (tmp_path / "loose" / "deep" / "part.py").write_text("from ..other import x\nimport json, numpy.linalg\n")
    (tmp_path / "loose" / "other.py").write_text("x = 1\n")
    (tmp_path / "json").mkdir()  # a folder of data, no module
    (tmp_path / "user.py").write_text("def f():\n    from loose.deep.part import x\n    return x\n")
    assert list(usercode.sources(tmp_path / "user.py", tmp_path)) == [
        *("loose/deep/part.py", "loose/other.py", "user.py")
    ]
