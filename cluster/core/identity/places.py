"""Where a path of a spec leads, from whichever process: from where the user gave the command, not from where it runs.

A submitted job runs elsewhere. It is told where it was submitted and which folder travelled with it (`ORIGIN`): what
lay in that folder is read from the copy, in the folder that every worker begins in; everything else by its full path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

ORIGIN = "TRUNKLINE_ORIGIN"  # JSON: `cwd` of the submitting side, and the `root` of what travelled
PACKAGE = "package:"  # a file that a Python package carries
PREFIXES = ("llama2c:",)  # before a folder
ELSEWHERE = ("hub:",)  # no path at all
GLOB = re.compile(r"[*?\[]")


def is_path(text: str) -> bool:
    """Whether a text names files that can be looked for: here, in a package, or at a URL."""
    return not text.startswith(ELSEWHERE) and (not text.startswith(PACKAGE) or "/" in text)


def locate(text: str) -> str:
    """A path as processes in other folders and on other machines understand it; what is not there stays as it is."""
    prefix = next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")
    path = text.removeprefix(prefix)
    if "://" in path or path.startswith((PACKAGE, *ELSEWHERE)):
        return text
    told = os.environ.get(ORIGIN)
    if not told:
        there = os.path.join(os.getcwd(), path)
        return prefix + there if exists(there) else text
    origin = json.loads(told)
    there = os.path.join(origin["cwd"], path)
    travelled = os.path.relpath(there, origin["root"])
    if not travelled.startswith("..") and exists(travelled):
        return prefix + travelled
    return prefix + there if exists(there) else text


def exists(path: str) -> bool:
    """Whether there is a local file, folder or start of a glob."""
    if "://" in path:
        return True
    path = next((path.removeprefix(prefix) for prefix in PREFIXES if path.startswith(prefix)), path)
    if path.startswith(PACKAGE):
        return carried(path) is not None
    root = None if os.path.lexists(path) else before_glob(path)
    return os.path.lexists(path) if root is None else root.is_dir()


def before_glob(path: str | Path) -> Path | None:
    """The folder that a glob starts in; None where the path is no glob."""
    text = str(path)
    if not (magic := GLOB.search(text)):
        return None
    root = text[: magic.start()].rpartition("/")[0]
    return Path(root or ("/" if text.startswith("/") else "."))


def carried(path: str) -> Path | None:
    """The file of `package:NAME/FILE`, where the package is installed. It is not imported."""
    if not path.startswith(PACKAGE):
        return None
    name, _, file = path.removeprefix(PACKAGE).partition("/")
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = found.submodule_search_locations if found else None
    return next((Path(place, file) for place in places or [] if Path(place, file).exists()), None)
