"""What a spec names is part of its identity: the content of files, the source of functions of the user's own.

A spec says by their types which of its fields name something (cluster/core/specs/naming.py). Of files the content
counts, under their names below the path; of more than CONTENT_BYTES at one path, and of object stores, what the file
system says of them instead (sizes, times, ETags). Of a function its module's source and all that this imports from the
same folder. What this machine does not see counts by its name alone.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from cluster.core.identity import digests, places, usercode
from cluster.core.specs import naming
from cluster.core.specs.spec import Spec
from cluster.core.storage.location import PACKED, UNREAD_PACKED, Location, stamp_of

S = TypeVar("S", bound=Spec)
Visit = Callable[[str, str, dict[str, Any], Any], str]  # where, text, mark, struct -> text

CONTENT_BYTES = 1 << 30
STAGE = "stage"


def named(spec: Spec, skip: Path | None = None) -> dict[str, str]:
    """SHA-256 (hex) of all that a spec names and this machine sees, by field. `skip`: a folder that is no data."""
    found: dict[str, str] = {}

    def visit(where: str, text: str, mark: dict[str, Any], struct: Any) -> str:
        is_file = mark[naming.NAMES] == naming.FILES
        digest = of_files(text, _suffixes(mark, struct), mark["beside"], skip) if is_file else of_function(text)
        if digest:
            found[where] = digest
        return text

    _visit(spec, visit)
    if (stage := getattr(spec, "stage", "")) and (digest := of_function(stage)):
        found[STAGE] = digest
    return dict(sorted(found.items()))


def functions(spec: Spec) -> dict[str, str]:
    """The functions of the user's own that a spec names, `module:function` by field."""
    found: dict[str, str] = {}

    def visit(where: str, text: str, mark: dict[str, Any], struct: Any) -> str:
        if mark[naming.NAMES] == naming.FUNCTION and ":" in text:
            found[where] = text
        return text

    _visit(spec, visit)
    return found


def located(spec: S) -> S:
    """The spec with every relative path made one that workers understand, whatever folder they run in."""

    def visit(where: str, text: str, mark: dict[str, Any], struct: Any) -> str:
        return places.locate(text) if mark[naming.NAMES] == naming.FILES else text

    changed: S = _visit(spec, visit)
    return changed


def missing(spec: Spec) -> list[str]:
    """The fields that name local files which are not here."""
    found: list[str] = []

    def visit(where: str, text: str, mark: dict[str, Any], struct: Any) -> str:
        if mark[naming.NAMES] == naming.FILES and places.is_path(text) and not places.exists(places.locate(text)):
            found.append(where)
        return text

    _visit(spec, visit)
    return found


def _visit(spec: Any, visit: Visit) -> Any:
    cls: type[msgspec.Struct] = type(spec)
    return _walk(_type(cls), spec, "", {}, spec, visit)


@functools.cache
def _type(cls: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(cls)


def _walk(kind: inspect.Type, value: Any, where: str, mark: dict[str, Any], struct: Any, visit: Visit) -> Any:
    """The value, with every text that is marked as a name replaced by what `visit` makes of it."""
    if isinstance(kind, inspect.Metadata):
        return _walk(kind.type, value, where, {**mark, **(kind.extra or {})}, struct, visit)
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            value = _walk(each, value, where, mark, struct, visit)
        return value
    if isinstance(kind, inspect.StrType) and isinstance(value, str) and naming.NAMES in mark and value:
        return visit(where, value, mark, struct)
    if isinstance(kind, inspect.StructType) and type(value) is kind.cls:
        dot = f"{where}." if where else ""
        old = {field.name: getattr(value, field.name) for field in kind.fields}
        new = {f.name: _walk(f.type, old[f.name], f"{dot}{f.name}", {}, value, visit) for f in kind.fields}
        changed = {name: given for name, given in new.items() if given is not old[name]}
        return msgspec.structs.replace(value, **changed) if changed else value
    if isinstance(kind, inspect.VarTupleType) and isinstance(value, tuple):
        items = (_walk(kind.item_type, item, f"{where}[{n}]", {}, struct, visit) for n, item in enumerate(value))
        walked = tuple(items)
        return value if all(a is b for a, b in zip(walked, value, strict=True)) else walked
    if isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for key, item in value.items():
            _walk(kind.key_type, key, f"{where}.{key}", {}, struct, visit)
            _walk(kind.value_type, item, f"{where}.{key}", {}, struct, visit)
    return value


def _suffixes(mark: dict[str, Any], struct: Any) -> tuple[str, ...]:
    method = mark["suffixes"]
    return tuple(getattr(struct, method)()) if method else ()


def of_files(text: str, suffixes: tuple[str, ...] = (), beside: tuple[str, ...] = (), skip: Path | None = None) -> str:
    """SHA-256 (hex) over the files at a path, by their names below it; empty where this machine sees none."""
    if not places.is_path(text):
        return ""
    path = places.locate(text)
    path = path.partition(":")[2] if path.startswith(places.PREFIXES) else path
    if "://" in path and not path.startswith("file://"):
        return _of_remote(path, suffixes)
    place = places.carried(path) or Path(path.removeprefix("file://"))
    if place.is_file():
        return _listed([(name, place.with_name(name)) for name in (place.name, *beside)])
    if not place.is_dir():
        return _of_glob(place, suffixes, skip)
    return _listed([(name, place / name) for name in _chosen(place, suffixes, skip)])


def _of_glob(place: Path, suffixes: tuple[str, ...], skip: Path | None) -> str:
    root = places.before_glob(place)
    if root is None or not root.is_dir():
        return ""
    from fsspec.utils import glob_translate

    matches = re.compile(glob_translate(place.relative_to(root).as_posix())).match
    return _listed([(name, root / name) for name in _chosen(root, suffixes, skip) if matches(name)])


def _chosen(root: Path, suffixes: tuple[str, ...], skip: Path | None) -> list[str]:
    try:
        return sorted(name for name in digests.walk(root, skip) if _counts(name, suffixes))
    except OSError:  # a folder that cannot be listed is said by the stage that reads it
        return []


def _counts(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name has one of the endings, also compressed, where any are wanted."""
    endings = tuple(suffix.lower() + packed for suffix in suffixes for packed in ("", *PACKED, *UNREAD_PACKED))
    return not endings or name.lower().endswith(endings)


def _listed(files: list[tuple[str, Path]]) -> str:
    there = [(name, path) for name, path in files if path.is_file()]
    if not there:
        return ""
    status = [path.stat() for _, path in there]
    if sum(each.st_size for each in status) > CONTENT_BYTES:
        told = [f"{each.st_size} {each.st_mtime_ns}" for each in status]
    else:
        told = digests.many([path for _, path in there])
    if len(there) == 1 and len(files) == 1:
        return told[0] if len(told[0]) == 64 else _sha256(told[0])
    return _sha256("".join(f"{name}\0{what}\n" for (name, _), what in zip(there, told, strict=True)))


def _of_remote(url: str, suffixes: tuple[str, ...]) -> str:
    """What an object store says of its files; empty where it does not answer, as the stage that reads it will tell."""
    root = url.rstrip("/") if not re.search(r"[*?\[]", url) else str(places.before_glob(url) or "")
    try:
        fs = Location(root).fs
        info = fs.info(root)
        found = {root: info} if info["type"] == "file" else fs.find(root, detail=True)
    except Exception:
        return ""
    lines = []
    for name, info in sorted(found.items()):
        if len(found) > 1 and not _counts(str(name), suffixes):
            continue
        lines.append(f"{str(name).removeprefix(str(fs._strip_protocol(root)))}\0{info.get('size')} {stamp_of(info)}\n")
    return _sha256("".join(lines)) if lines else ""


def of_function(name: str) -> str:
    """SHA-256 (hex) over the source of a function's module and all that it imports from the same folder; empty where
    it is ours, which commit and `revision` tell, Python's own, or not found."""
    module, colon, _ = name.partition(":")
    top = module.partition(".")[0]
    if not colon or not top or top in usercode.OURS or top in sys.stdlib_module_names:
        return ""
    try:
        found = importlib.util.find_spec(top) if top not in sys.modules else sys.modules[top].__spec__
    except (ImportError, ValueError):
        return ""
    if found is None or not (found.has_location or found.submodule_search_locations):
        return ""
    place = Path(next(iter(found.submodule_search_locations or []), None) or str(found.origin))
    root = place.parent
    file = usercode.module_file(root, module)
    if file is None:
        return ""
    installed = root.name in ("site-packages", "dist-packages")
    sources = usercode.sources(file, root, within=top if installed else "")
    told = digests.many(list(sources.values()))
    return _sha256("".join(f"{name}\0{what}\n" for name, what in zip(sources, told, strict=True)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
