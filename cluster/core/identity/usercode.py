"""A user's own code: what lies beside a script can be imported, in this process and in every worker of its run.

`python script.py` puts the script's folder first on the path. So that `ctl` and the workers find the same modules, the
folder is put there by us: behind Python's own library, which a `queue.py` of the user's must not replace for everybody,
and before installed packages.
"""

from __future__ import annotations

import ast
import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.core import import_strings
from cluster.core.errors import InputError, NotReadyError

PROJECT_ROOT = Path(__file__).resolve().parents[3]
OURS = ("cluster", "pipelines", "serving")
SCRIPT = "_pipeline_"  # before the stem of a script that was loaded, in the names of modules

_folder: Path | None = None  # of the script that this process runs
_script: Path | None = None


def folder() -> Path | None:
    """The folder of this process's script, once there is one."""
    return _folder


def script() -> Path | None:
    """This process's script, once there is one."""
    return _script


def use(script: Path) -> None:
    """Make what lies beside the script importable here, as it is now on disk; what another script brought goes.

    Raises NotReadyError where the folder has a module of the name of one of Trunkline's packages.
    """
    global _folder, _script
    new = script.resolve().parent
    for name in OURS:
        importlib.import_module(name)  # found before the user's folder is on the path, and never looked for again
        if new != PROJECT_ROOT and (found := module_file(new, name)):
            raise NotReadyError(f"{found} has the name of Trunkline's package {name!r}", "Rename your own.")
    if _folder is not None:
        _forget(_folder)
    if _folder != new:
        if _folder is not None and str(_folder) in sys.path:
            sys.path.remove(str(_folder))
        if sys.path[:1] == [str(new)]:  # where Python has put it
            del sys.path[0]
        if str(new) not in sys.path:
            sys.path.insert(_behind_python(), str(new))
    _folder, _script = new, script.resolve()
    importlib.invalidate_caches()


def _behind_python() -> int:
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    places = [number for number, entry in enumerate(sys.path) if entry in own or entry.endswith("lib-dynload")]
    return max(places, default=-1) + 1


def _forget(root: Path) -> None:
    """Let the modules below a script's folder be imported anew."""
    if root == PROJECT_ROOT:
        return
    for name, module in list(sys.modules.items()):
        if (file := getattr(module, "__file__", None)) and module_file(root, name) == Path(file):
            del sys.modules[name]


def load(name: str) -> Any:
    """What an import string names, `module:function`. Raises InputError, which says where in a module it went wrong."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InputError(f"{name!r} is not of the form module:function", "Write it as `my_module:my_function`.")
    try:
        return import_strings.import_string(name)
    except (Exception, SystemExit) as error:  # a module of one's own may raise anything when it is imported
        raise InputError(
            f"{name} cannot be imported: {told(error)}", "Put it into a module beside the script."
        ) from error


def told(error: BaseException) -> str:
    """An error of a user's code in a line, with the place in the source where it was raised."""
    ours = (__file__, import_strings.__file__)
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename not in ours and "importlib" not in f.filename
    ]
    says_where = isinstance(error, ImportError | SyntaxError)
    at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and not says_where else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}{at}"


def module_file(root: Path, module: str) -> Path | None:
    """The source of a module below a folder of the path, where it is there."""
    place = root.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_name(f"{place.name}.py")) if file.is_file()), None)


def sources(file: Path, root: Path, within: str = "") -> dict[str, Path]:
    """A source file and all that it imports from the same folder of the path, by their names below it.

    `within`: a package, outside of which nothing counts.
    Raises InputError where an import may mean a module of Python's own library or the user's file of the same name.
    """
    found: dict[str, Path] = {}
    todo = [file]
    while todo:
        path = todo.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found[name] = path
        above = [folder / "__init__.py" for folder in path.parents if folder != root and folder.is_relative_to(root)]
        todo += [package for package in above if package.is_file()]  # imported before what is in it
        for line, module in _imports(path, root):
            top, _, rest = module.partition(".")
            if top in OURS or (within and top != within):
                continue
            if top in sys.stdlib_module_names and (own := module_file(root, top)):
                raise InputError(f"{path}:{line}: {top!r} is a module of Python's own, and {own}", "Rename your file.")
            parts = [top, *filter(None, rest.split("."))]
            packages = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
            todo += [place for package in packages if (place := module_file(root, package))]
    return dict(sorted(found.items()))


def _imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Names that a source file imports, absolute, with their lines; of `from a import b` both `a` and `a.b`."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # said by Python, with the line, when it is imported
        return
    package = path.relative_to(root).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}".strip(".")) for alias in node.names)
