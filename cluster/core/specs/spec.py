"""The base of all specs: what is wanted, as frozen literals that YAML, the command line and a hash agree on.

A spec names its stage by an import string (`"pipelines.stages.corpus.stage:build"`), so that reading, planning and
validating one needs neither Ray nor torch. Its identity is the canonical JSON of its fields, its kind and `revision`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import msgspec
import msgspec.inspect
import msgspec.structs

from cluster.core.errors import SpecError
from cluster.core.specs import overlay

S = TypeVar("S", bound="Spec")

ANY = "*"  # in `inputs`: as many more inputs of a kind as there are, under any names


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all specs. Subclasses set the class variables and document every field in the line below it.

    `inputs` maps each input to its kind, or to several: `"pretrain|sft"`; `ANY` stands for one or more of any name.
    """

    kind: ClassVar[str]
    stage: ClassVar[str]
    revision: ClassVar[int] = 1
    inputs: ClassVar[dict[str, str]] = {}
    optional_inputs: ClassVar[tuple[str, ...]] = ()
    measured_inputs: ClassVar[tuple[str, ...]] = ()
    """Inputs that are only measured on or compared with: the artifact does not come from them."""
    trains: ClassVar[bool] = False
    """Whether the stage trains a model, and its metrics are those of a run (cluster/core/metrics.py)."""
    sizing: ClassVar[str] = ""
    """Import string of what predicts the stage's memory and time (cluster/control/planning/prediction.py)."""
    later_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that artifacts were built without: at its default such a field is no part of the identity, so that what
    was built before keeps its fingerprint. A struct within a spec may have such fields, too."""
    readable_early: ClassVar[bool] = False
    """Whether the stage leaves what is finished of its output readable while it still builds the rest."""

    def check(self) -> None:
        """Raise SpecError where fields contradict each other; bounds of single fields belong into their types."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Raise SpecError where fields do not fit the inputs: steps or artifacts, which have a `kind`, by name."""

    def check_scaling(self, scaling: Any) -> None:
        """Raise SpecError where the stage could not run on a ScalingSpec; asked before the first step of a pipeline."""

    @classmethod
    def measures(cls, name: str) -> bool:
        """Whether an input is only measured on."""
        return (name if name in cls.inputs else ANY) in cls.measured_inputs

    def unused_inputs(self) -> Collection[str]:
        """The optional inputs that the stage, with these fields, has no use for."""
        return ()

    def reads_early(self) -> Collection[str]:
        """The inputs that the stage can begin with while they are still being built."""
        return ()


def fields(spec: Spec) -> dict[str, Any]:
    """The fields of a spec by name, as JSON gives them back (tuples are lists), so that old and new compare."""
    return dict(msgspec.json.decode(msgspec.json.encode(spec)))


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no blanks; floats in their shortest form that reads back the same."""
    return msgspec.json.encode(value, order="deterministic").decode()


def fingerprint(spec: Spec, inputs: dict[str, str], named: dict[str, str] | None = None) -> str:
    """SHA-256 (hex) of kind, revision, literals and the fingerprints of the inputs (`inputs`: name to fingerprint).

    `named`: the digests of the files and functions that the spec names, by field (cluster/core/identity/references.py).
    """
    identity = {"kind": spec.kind, "revision": spec.revision, "spec": _identifying(spec), "inputs": inputs}
    if named:
        identity["named"] = named
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def _identifying(spec: Spec) -> Any:
    """The fields of a spec without those that came later and are at their default, of structs within it, too."""
    return _without_idle(spec, fields(spec))


def _without_idle(value: Any, plain: Any) -> Any:
    """`plain` is the value as JSON gives it back."""
    if isinstance(value, msgspec.Struct):
        usual = {field.name: field.default for field in msgspec.structs.fields(value)}
        later = getattr(value, "later_fields", ())
        idle = {name for name in later if getattr(value, name) == usual[name]}
        kept = {name: inner for name, inner in plain.items() if name not in idle}
        return {name: _without_idle(getattr(value, name, None), inner) for name, inner in kept.items()}
    if isinstance(value, Mapping):
        return {name: _without_idle(value[name], inner) for name, inner in plain.items()}
    return plain


def convert(data: dict[str, Any], cls: type[S], where: str) -> S:
    """Build a spec from plain data, or raise a SpecError that names `where.field` and the remedy."""
    overlay.check(cls, data, where)
    try:
        spec = msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise SpecError(f"{where}{path.rstrip('`')}: {message}", _remedy(message, cls)) from None
    spec.check()
    return spec


def _remedy(message: str, cls: type[Spec]) -> str:
    wanted, _, got = message.partition(", got ")
    if re.search(r"\bstr\b", wanted) and got.strip("`") in ("int", "float", "bool"):
        return "Put it into quotes, so that it is text (after --set into two pairs: \"'2024'\")."
    if "`bool`" in wanted and got == "`str`":
        return "Write true or false."
    return f"See `ctl spec schema {_kind(cls)}`."


def override(spec: S, changes: dict[str, Any], where: str) -> S:
    """A copy of `spec` with `changes` (nested plain data) laid over it, validated.

    See cluster/core/specs/overlay.py for what is merged and what is replaced.
    """
    overlay.check(type(spec), msgspec.to_builtins(spec), where)  # JSON would write an infinite number as null
    return convert(overlay.lay(type(spec), fields(spec), changes, where), type(spec), where)


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; anything that is not a mapping on both sides is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def diff(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Field-level difference of two plain specs, as lines `field: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += diff(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines


def field_docs(cls: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring line under each field of a struct and its bases, by field name."""
    import ast
    import inspect
    import textwrap

    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base in (Spec, msgspec.Struct) or not issubclass(base, msgspec.Struct):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, following in zip(body.body, body.body[1:], strict=False):
            field = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id
            if field and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[field] = " ".join(str(following.value.value).split())
    return docs


def schema(cls: type[Spec]) -> dict[str, Any]:
    """JSON Schema of a spec, with the docstring of each field as its description: its own, and of what is in it."""
    root = msgspec.json.schema(cls)
    for struct in _structs(msgspec.inspect.type_info(cls)):
        properties = root["$defs"][struct.__name__]["properties"]
        for name, text in field_docs(struct).items():
            if name in properties:  # class variables may have a line of their own
                properties[name]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": _kind(cls), **root}


def _structs(info: Any, found: dict[type[msgspec.Struct], None] | None = None) -> Iterable[type[msgspec.Struct]]:
    """Every struct that a type is made of."""
    found = {} if found is None else found
    if isinstance(info, msgspec.inspect.StructType):
        if info.cls in found:
            return found
        found[info.cls] = None
    for part in getattr(info, "__struct_fields__", ()):
        value = getattr(info, part)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, msgspec.inspect.Type | msgspec.inspect.Field):
                _structs(inner, found)
    return found


def _kind(cls: type[Spec]) -> str:
    return getattr(cls, "kind", cls.__name__)
