"""The house rules that no reviewer should have to check: arrows of imports, module sizes, names, error pickling."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys

import pytest

from cluster.core import errors
from tests.conftest import ROOT

FORBIDDEN = {"cluster": {"pipelines", "serving"}, "pipelines": {"serving"}, "serving": {"pipelines"}}
SOURCES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def _imports(path) -> set[str]:  # type: ignore[no-untyped-def]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path) -> None:  # type: ignore[no-untyped-def]
    package = path.relative_to(ROOT).parts[0]
    assert not {name.split(".")[0] for name in _imports(path)} & FORBIDDEN[package]


def test_the_core_does_not_import_upwards() -> None:
    order = [
        "errors",
        "spec",
        "specs",
        "location",
        "artifact",
        "lease",
        "store",
        "context",
        "graph",
        "build",
        "pipeline",
    ]
    for rank, module in enumerate(order):
        path = ROOT / "cluster" / f"{module}.py"
        path = path if path.exists() else ROOT / "cluster" / module / "__init__.py"
        tree = ast.parse(path.read_text())
        at_top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        higher = {f"cluster.{name}" for name in order[rank + 1 :]}
        assert not {node.module for node in at_top} & higher, path


def test_modules_stay_small() -> None:
    large = {
        str(path.relative_to(ROOT)): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not large


def test_no_pipeline_shadows_a_module() -> None:
    """`python pipelines/x.py` puts that folder first on the path: a `tokenize.py` there breaks `import ray`."""
    import importlib.metadata

    installed = set(importlib.metadata.packages_distributions())
    names = {path.stem for path in (ROOT / "pipelines").iterdir() if not path.name.startswith((".", "_"))}
    assert not names & (set(sys.stdlib_module_names) | installed) - {"pipelines"}


def test_ctl_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['ctl', '--help']\n"
        "from cluster.cli.app import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {
        "ray",
        "torch",
        "pandas",
        "transformers",
        "numpy",
        "pyarrow",
        "fsspec",
        "rich",
        "msgspec",
        "yaml",
        "openai",
    }
    assert "demo" in done.stdout
    assert not heavy & set(done.stderr.split())


def test_errors_survive_pickling() -> None:
    for name in ("UsageError", "SpecError", "InputError", "NotReadyError", "JobError", "InterruptedRun"):
        error = getattr(errors, name)("what", "remedy")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.exit_code) == (type(error), "what. remedy", error.exit_code)
    codes = [getattr(errors, n).exit_code for n in ("UsageError", "SpecError", "NotReadyError", "JobError")]
    assert codes == [2, 3, 4, 5]


def test_nothing_names_one_machine() -> None:
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text()
        for banned in ("/" + "work/", "/" + "root/", "/" + "opt/"):
            assert banned not in text, f"{path} names {banned}"
