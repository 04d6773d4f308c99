"""Laying changes over a spec, by the types of its fields, and naming what does not belong there.

One rule says what merges. A spec, or a struct within one, has fields: what is given of them is laid over, the others
stay. A mapping with names of the user's own (`rlhf.rewards`, `mixture.weights`) is a value: what is given replaces it,
as it would a list. A path that goes on into a value (`--set mixture.weights.web=2`) sets that one name of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect

from cluster.core.errors import SpecError, nearest


class At(dict[Any, Any]):
    """What a path, or a level that has fields anyway, says of a mapping: of some of its names, not of the whole."""


class Layers(list[Any]):
    """What several places say of one field, the later ones over the earlier ones."""


def steps(changes: dict[str, Any]) -> At:
    """Changes as a file holds them, `{step: {field: value}}`; a step's inputs have names, too."""

    def fields(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return At({name: At(value) if _is_inputs(name, value) else value for name, value in given.items()})

    return At({step: fields(given) for step, given in changes.items()})


def _is_inputs(name: Any, value: Any) -> bool:
    return name == "inputs" and isinstance(value, dict)


def combine(base: Any, over: Any) -> Any:
    """Two changes as one, before it is known what they are laid over."""
    if isinstance(base, At) and isinstance(over, At):
        return At({**base, **{key: combine(base[key], value) if key in base else value for key, value in over.items()}})
    if isinstance(over, dict):
        return Layers([*(base if isinstance(base, Layers) else [base]), over])
    return over


def lay(cls: type[msgspec.Struct], base: dict[str, Any], changes: dict[str, Any], where: str = "") -> dict[str, Any]:
    """The fields of a spec, as plain data, with changes laid over them; `where`: what errors call it."""
    return dict(_lay(_type(cls), base, changes, where))


def _lay(kind: inspect.Type, base: Any, over: Any, where: str) -> Any:
    if isinstance(over, Layers):
        return functools.reduce(lambda laid, layer: _lay(kind, laid, layer, where), over, base)
    if not isinstance(over, dict):
        return over
    kinds = _alternatives(kind)
    if isinstance(base, list) and isinstance(over, At):
        return _lay_items(kinds, base, over, where)
    if not isinstance(base, dict):
        base = {}
    elif structs := [kind for kind in kinds if isinstance(kind, inspect.StructType)]:
        struct = _struct(structs, base)
        if struct and (struct.tag_field is None or over.get(struct.tag_field, struct.tag) == struct.tag):
            types = {field.encode_name: field.type for field in struct.fields}
            return {
                **base,
                **{
                    key: _lay(types.get(key, inspect.AnyType()), base.get(key), value, f"{where}.{key}")
                    for key, value in over.items()
                },
            }
        base = {}
    elif not isinstance(over, At):
        base = {}
    values = next((kind.value_type for kind in kinds if isinstance(kind, inspect.DictType)), inspect.AnyType())
    return {**base, **{key: _lay(values, base.get(key), value, f"{where}.{key}") for key, value in over.items()}}


def _lay_items(kinds: list[inspect.Type], base: list[Any], over: At, where: str) -> list[Any]:
    """Single items of a list, by their numbers from 0."""
    laid = list(base)
    item = next((kind.item_type for kind in kinds if isinstance(kind, _LISTS)), inspect.AnyType())
    for key, value in over.items():
        if not (str(key).isdecimal() and int(key) < len(base)):
            raise SpecError(
                f"{where}: no item {key!r}: there are {len(base)}, counted from 0", "Give the whole list as [...]."
            )
        laid[int(key)] = _lay(item, base[int(key)], value, f"{where}[{key}]")
    return laid


def check(cls: type[msgspec.Struct], data: Any, where: str) -> None:
    """Raise SpecError, with the nearest name, for an unknown field, kind or choice at any depth of plain data, and for
    a number that is none."""
    _check(_type(cls), data, where)


def _check(kind: inspect.Type, data: Any, where: str) -> None:
    kinds = _alternatives(kind)
    if isinstance(data, float) and not math.isfinite(data):
        raise SpecError(f"{where}: {data} is not a finite number", "Give one that is.")
    if isinstance(data, str):
        _check_choice(kinds, data, where)
    elif isinstance(data, dict):
        _check_mapping(kinds, data, where)
    elif isinstance(data, list | tuple):
        item = next((kind.item_type for kind in kinds if isinstance(kind, _LISTS)), inspect.AnyType())
        for number, value in enumerate(data):
            _check(item, value, f"{where}[{number}]")


def _check_choice(kinds: list[inspect.Type], data: str, where: str) -> None:
    choices = [value for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]
    if any(isinstance(kind, inspect.StrType | inspect.AnyType) for kind in kinds) or data in choices or not choices:
        return
    raise SpecError(f"{where}: Invalid enum value {data!r}", nearest(data, [str(value) for value in choices]))


def _check_mapping(kinds: list[inspect.Type], data: dict[Any, Any], where: str) -> None:
    structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
    if not structs:
        mapping = next((kind for kind in kinds if isinstance(kind, inspect.DictType)), None)
        for key, value in data.items():
            if mapping and isinstance(key, str):
                _check_choice(_alternatives(mapping.key_type), key, where)
            _check(mapping.value_type if mapping else inspect.AnyType(), value, f"{where}.{key}")
        return
    struct, tag_field = _struct(structs, data), structs[0].tag_field
    if struct is None:
        tags = [str(kind.tag) for kind in structs]
        if tag_field not in data:
            raise SpecError(f"{where}: {tag_field!r} is missing", f"One of {', '.join(sorted(tags))}.")
        given = data[tag_field]
        raise SpecError(f"{where}.{tag_field}: there is no {given!r}", nearest(str(given), tags))
    types = {field.encode_name: field.type for field in struct.fields}
    for key, value in data.items():
        if key in types:
            _check(types[key], value, f"{where}.{key}")
        elif key != struct.tag_field:
            raise SpecError(f"{where}.{key}: unknown field", nearest(str(key), list(types)))


_LISTS = inspect.VarTupleType | inspect.ListType


@functools.cache
def _type(cls: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(cls)


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return [bare for each in kind.types for bare in _alternatives(each)]
    return [kind]


def _struct(structs: Iterable[inspect.StructType], data: dict[Any, Any]) -> inspect.StructType | None:
    """The struct that plain data are of: the one there is, or the one of their tag."""
    for struct in structs:
        if struct.tag_field is None or data.get(struct.tag_field) == struct.tag:
            return struct
    return None
