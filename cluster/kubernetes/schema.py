"""A custom resource against the structural schema of its CRD, as strict as the API server with strict validation.

As there, nulls go and defaults come before anything is checked. CEL rules are not evaluated: KubeRay's few are also
its operator's rules (`cluster_rules`, `job_rules`), and a test says when a CRD brings one that is not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from cluster.core.errors import InputError, nearest
from cluster.kubernetes.findings import Path as FieldPath
from cluster.kubernetes.findings import Problem, Problems

Schema = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_BOUNDS = {"int32": 2**31, "int64": 2**63}
TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
NAMES = {dict: "a mapping", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
REMEDIES = {"string": "Put it in quotes.", "integer": "Write a whole number.", "boolean": "Write true or false."}
METADATA = (
    *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences"),
    *("uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "managedFields"),
    *("deletionGracePeriodSeconds", "selfLink"),
)


def read_crds(folder: Path) -> dict[tuple[str, str], Schema]:
    """The schemas of all CRDs below a folder, by `apiVersion` and kind. Raises InputError where there are none."""
    schemas = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else [folder]
    for file in files:
        try:
            documents = list(yaml.load_all(file.read_text(), Loader=loader))
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{file}: {str(error).splitlines()[0]}") from None
        for crd in (item for document in documents for item in _items(document)):
            if not isinstance(crd, dict) or crd.get("kind") != "CustomResourceDefinition":
                continue
            group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
            for version in crd["spec"]["versions"]:
                schemas[f"{group}/{version['name']}", kind] = version["schema"]["openAPIV3Schema"]
    if not schemas:
        raise InputError(f"{folder} holds no CRDs", "Write them there: `kubectl get crd rayjobs.ray.io -o yaml`.")
    return schemas


def _items(document: Any) -> list[Any]:
    """`kubectl get` makes one List of several."""
    items = document.get("items") if isinstance(document, dict) and document.get("kind") == "List" else None
    return items if isinstance(items, list) else [document]


def check(schema: Schema, body: dict[str, Any]) -> Problems:
    """All that the API server would refuse."""
    whole = {**schema, "properties": {**schema["properties"], "metadata": _metadata()}}
    yield from _check(whole, _default(whole, copy.deepcopy(body)), ())


def _metadata() -> Schema:
    """CRDs leave the metadata to the API server."""
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    known: dict[str, Schema] = {name: {} for name in METADATA}
    known |= {"name": {"type": "string"}, "namespace": {"type": "string"}, "labels": texts, "annotations": texts}
    return {"type": "object", "properties": known}


def _default(schema: Schema, value: Any) -> Any:
    """Nulls that are not allowed go, or become the default; missing fields get theirs."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name, inner in properties.items():
            if "default" in inner and (name not in value or (value[name] is None and not inner.get("nullable"))):
                value[name] = copy.deepcopy(inner["default"])
        for name in list(value):
            inner = properties.get(name, schema.get("additionalProperties"))
            if not isinstance(inner, dict):
                continue
            if value[name] is None and not inner.get("nullable"):
                del value[name]
            else:
                value[name] = _default(inner, value[name])
    elif isinstance(value, list) and "items" in schema:
        value = [_default(schema["items"], item) for item in value]
    return value


def _check(schema: Schema, value: Any, path: FieldPath) -> Problems:
    if schema.get("nullable") and value is None:
        return
    wanted = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        if not (TYPES["integer"](value) or TYPES["string"](value)):
            yield Problem(path, f"must be a whole number or text, not {_kind(value)}", "Write 8080 or '50%'.")
            return
    elif wanted and not TYPES[wanted](value):
        remedy = REMEDIES.get(wanted, "See `kubectl explain`.")
        yield Problem(path, f"must be of type {wanted}, not {_kind(value)} ({_short(value)})", remedy)
        return
    yield from _bounds(schema, value, path)
    if isinstance(value, dict):
        yield from _mapping(schema, value, path)
    elif isinstance(value, list):
        yield from _list(schema, value, path)


def _bounds(schema: Schema, value: Any, path: FieldPath) -> Problems:
    if "enum" in schema and value not in schema["enum"]:
        yield Problem(path, f"{_short(value)} is not allowed", nearest(str(value), [str(v) for v in schema["enum"]]))
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield Problem(path, f"{_short(value)} is not of the form {schema['pattern']}", "Write it so.")
    if TYPES["number"](value):
        low, high = schema.get("minimum"), schema.get("maximum")
        if bound := INT_BOUNDS.get(schema.get("format", "")):
            low, high = -bound if low is None else low, bound - 1 if high is None else high
        yield from _between(value, low, high, path, "is")
    for word, kind in (("Length", str), ("Items", list), ("Properties", dict)):
        if isinstance(value, kind):
            yield from _between(len(value), schema.get(f"min{word}"), schema.get(f"max{word}"), path, "has a length of")


def _between(number: float, low: float | None, high: float | None, path: FieldPath, verb: str) -> Problems:
    if low is not None and number < low:
        yield Problem(path, f"{verb} {number}, less than {low}", f"Give at least {low}.")
    if high is not None and number > high:
        yield Problem(path, f"{verb} {number}, more than {high}", f"Give at most {high}.")


def _mapping(schema: Schema, value: dict[str, Any], path: FieldPath) -> Problems:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem((*path, name), "is missing", "Add it.")
    others = schema.get("additionalProperties")
    for name, inner in value.items():
        if name in properties:
            yield from _check(properties[name], inner, (*path, name))
        elif isinstance(others, dict):
            yield from _check(others, inner, (*path, str(name)))
        elif schema.get("type") == "object" and not others and not schema.get(PRESERVE):
            yield Problem((*path, str(name)), "unknown field", nearest(str(name), list(properties)))


def _list(schema: Schema, value: list[Any], path: FieldPath) -> Problems:
    for index, item in enumerate(value):
        yield from _check(schema.get("items", {}), item, (*path, index))
    keys = schema.get("x-kubernetes-list-map-keys", ())
    kind = schema.get("x-kubernetes-list-type")
    seen: list[Any] = []
    for index, item in enumerate(value):
        if kind == "map" and isinstance(item, dict):
            identity: Any = {key: item.get(key) for key in keys}
        elif kind == "set":
            identity = item
        else:
            continue
        if identity in seen:
            yield Problem((*path, index), f"{_short(identity)} is there twice", "Keep one of them.")
        seen.append(identity)


def _kind(value: Any) -> str:
    return NAMES.get(type(value), "nothing")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
