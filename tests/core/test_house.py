"""The house rules that no reviewer should have to check: arrows of imports, module sizes, names, error pickling."""

from __future__ import annotations

import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.core import errors
from tests.conftest import ROOT

# Floors of the house: what is imported stands on the same floor in the same room, or on a lower one.
FLOORS = {
    "cluster.core": 0,
    "cluster.control": 1,
    "pipelines.specs": 2,
    "pipelines.stages": 2,
    "serving": 2,
    "cluster.kubernetes": 3,
    "cluster.cli": 4,
    "cluster": 5,  # the package itself, and `cluster.pipeline`, which scripts import
    "pipelines": 6,  # scripts
}
PACKAGES = ("cluster", "pipelines", "serving")
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
EVERYBODYS = {"cluster", "cluster.moved"}  # the version, and the names of before


def _imports(path: Path) -> set[str]:
    """Our modules that a file imports, at its top, within functions, or for its types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    modules = found & SOURCES.keys()
    return {name for name in modules if not any(other.startswith(f"{name}.") for other in modules)} - EVERYBODYS


def _room(module: str) -> str:
    return max((room for room in FLOORS if f"{module}.".startswith(f"{room}.")), key=len)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_run_downwards(module: str) -> None:
    room = _room(module)
    for imported in _imports(SOURCES[module]):
        other = _room(imported)
        # `pipelines.specs` lists what the stages' own specs are
        same = other == room or {room, other} == {"pipelines.specs", "pipelines.stages"}
        assert FLOORS[other] < FLOORS[room] or same, f"{module} imports {imported}"


def test_no_circle_of_imports() -> None:
    left = {module: _imports(path) for module, path in SOURCES.items()}
    while free := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def test_the_core_needs_neither_ray_nor_torch() -> None:
    modules = [module for module in SOURCES if _room(module) == "cluster.core"]
    code = f"import sys\nfor name in {modules}: __import__(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"ray", "torch", "pandas"} & set(done.stdout.split())


def test_specs_import_nothing_heavy() -> None:
    """With all rules, readers and the like that they are made of: `ctl plan` imports them."""
    code = "import sys\nfrom pipelines.specs import CorpusSpec\nprint(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"ray", "torch", "transformers", "pandas", "lxml", "pyarrow", "numpy"}
    assert not heavy & set(done.stdout.split())


def test_modules_stay_small() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in SOURCES.items()}
    assert not {module: count for module, count in lines.items() if count > 400}


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


SCRIPTS = sorted(path.name for path in (ROOT / "pipelines").glob("*.py") if "@pipeline" in path.read_text())


# Each in a process of its own that has what `ctl` is made of, and what `ctl plan` imports besides.
PLANS = """
import io, json, os, sys
import pipelines.specs
from cluster.cli.app import run

store, *scripts = sys.argv[1:]
for script in scripts:
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        print(open(reader).read())
        os.wait()
        continue
    sys.argv = ["ctl", "plan", f"pipelines/{script}", "--store", store]
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    code = 0
    try:
        run()
    except SystemExit as end:
        code = end.code or 0
    said = {"code": code, "out": sys.stdout.getvalue(), "error": sys.stderr.getvalue()}
    os.write(writer, json.dumps({**said, "modules": sorted({name.split(".")[0] for name in sys.modules})}).encode())
    os._exit(0)
"""


def plan_scripts(store: Path, *scripts: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", PLANS, str(store), *scripts]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_light(plan: dict[str, Any]) -> None:
    ended = ("no artifact", "a tokenizer to extend is needed")
    assert plan["code"] == 0 or any(reason in plan["error"] for reason in ended), plan["error"]
    assert not {"ray", "torch", "transformers", "pandas", "lxml"} & set(plan["modules"])
    assert {"msgspec", "cluster"} <= set(plan["modules"])


@pytest.mark.heavy
def test_ctl_plan_imports_nothing_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sizes, it has sized by another process."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    (plan,) = plan_scripts(tmp_path, "quickstart.py")
    assert_light(plan)
    assert plan["code"] == 0
    assert "tokens a second" in plan["out"]


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of a cluster whose sizes this machine does not know."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", "elsewhere:6379")
        return dict(zip(SCRIPTS, plan_scripts(tmp_path_factory.mktemp("store"), *SCRIPTS), strict=True))


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctl_plan_of_a_script_imports_nothing_heavy(script: str, plans: dict[str, dict[str, Any]]) -> None:
    """One whose inputs are not in the store ends before."""
    assert_light(plans[script])


def test_errors_survive_pickling() -> None:
    for name in ("UsageError", "SpecError", "InputError", "NotReadyError", "JobError", "InterruptedRun"):
        error = getattr(errors, name)("what", "remedy")
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.exit_code) == (type(error), "what. remedy", error.exit_code)
    codes = [getattr(errors, n).exit_code for n in ("UsageError", "SpecError", "NotReadyError", "JobError")]
    assert codes == [2, 3, 4, 5]


def test_nothing_names_one_machine() -> None:
    for path in [*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py")), ROOT / "README.md", ROOT / "Makefile"]:
        text = path.read_text()
        for banned in ("/" + "work/", "/" + "root/", "/" + "opt/"):
            assert banned not in text, f"{path} names {banned}"
