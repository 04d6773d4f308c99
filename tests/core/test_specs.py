"""Specs: identity, overriding, errors that name the field, and documentation of every field."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import SpecError
from cluster.core.specs import literals
from cluster.core.specs import spec as specs
from pipelines.specs import SPECS, CorpusSpec, PretrainSpec, ScalingSpec


@pytest.mark.parametrize("kind", SPECS)
def test_every_field_is_documented(kind: str) -> None:
    cls = SPECS[kind]
    assert set(specs.field_docs(cls)) == {field.name for field in msgspec.structs.fields(cls)}
    assert all(len(text) > 10 for text in specs.field_docs(cls).values())
    assert cls.__doc__


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind != "endpoint"])
def test_schema_accepts_the_defaults_and_refuses_a_typo(kind: str) -> None:
    schema = specs.schema(SPECS[kind])
    defaults = json.loads(specs.canonical(specs.fields(SPECS[kind]())))
    jsonschema.validate(defaults, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**defaults, "typpo": 1}, schema)


@pytest.mark.parametrize("kind", SPECS)
def test_the_schema_describes_every_field_of_what_is_in_a_spec_too(kind: str) -> None:
    """But for the one that names a rule or a source, which is what the description of the whole says."""
    for name, definition in specs.schema(SPECS[kind])["$defs"].items():
        assert definition["description"], name
        for field, property_ in definition["properties"].items():
            assert field in ("rule", "reader", "maker", "type") or property_.get("description"), f"{name}.{field}"


def test_stages_can_be_loaded() -> None:
    from cluster.core.build import load_stage

    for cls in SPECS.values():
        if hasattr(cls, "stage"):
            assert callable(load_stage(cls()))


numbers = st.floats(min_value=1e-9, max_value=1e3, allow_nan=False)


@pytest.mark.heavy
@given(rate=numbers, tokens=st.integers(1, 10**15), seed=st.integers(0, 2**31))
def test_yaml_round_trip_keeps_the_fingerprint(rate: float, tokens: int, seed: int) -> None:
    import yaml

    spec = PretrainSpec(learning_rate=rate, total_tokens=tokens, seed=seed)
    again = specs.convert(literals.parse(literals.dump(specs.fields(spec))), PretrainSpec, "pretrain")
    assert again == specs.convert(literals.parse(yaml.safe_dump(specs.fields(spec))), PretrainSpec, "pretrain")
    assert again == spec
    assert specs.fingerprint(again, {"tokens": "x"}) == specs.fingerprint(spec, {"tokens": "x"})


@given(st.integers(2, 10**9))
def test_fingerprint_depends_on_literals_inputs_and_revision(tokens: int) -> None:
    spec = PretrainSpec(total_tokens=tokens)
    print_ = specs.fingerprint(spec, {"tokens": "a"})
    assert print_ != specs.fingerprint(PretrainSpec(total_tokens=tokens - 1), {"tokens": "a"})
    assert print_ != specs.fingerprint(spec, {"tokens": "b"})

    class Revised(PretrainSpec, frozen=True):
        revision = 2

    assert print_ != specs.fingerprint(Revised(total_tokens=tokens), {"tokens": "a"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lerning_rate": 1.0}, ["pretrain.lerning_rate", "unknown field", "learning_rate"]),
        ({"total_tokens": "many"}, ["pretrain.total_tokens", "int", "str"]),
        ({"total_tokens": 0}, ["pretrain.total_tokens", ">= 1"]),
        ({"schedule": "cosin"}, ["pretrain.schedule", "cosin"]),
        ({"beta2": 1.0}, ["pretrain.beta2", "< 1"]),
    ],
)
def test_a_wrong_field_is_named_with_a_remedy(changes: dict, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        specs.override(PretrainSpec(), changes, "pretrain")
    for word in words:
        assert word in str(error.value)
    assert error.value.remedy


def test_merge_and_diff() -> None:
    old = specs.fields(CorpusSpec())
    new = specs.merge(old, {"max_bytes": 5, "near_duplicates": "keep"})
    assert specs.diff(old, new) == ["max_bytes: 0 -> 5"]
    assert specs.merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_scaling_is_not_part_of_any_identity() -> None:
    scaling = {field.name for field in msgspec.structs.fields(ScalingSpec)}
    for kind, cls in SPECS.items():
        if kind not in ("scaling", "endpoint"):
            assert not scaling & {field.name for field in msgspec.structs.fields(cls)}
