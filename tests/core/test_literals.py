"""YAML as people mean it: what is quoted is text, and text that YAML 1.1 takes for something else stays text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.graph import read_changes
from cluster.core.specs import literals
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline, pipeline
from tests.core.toys import CountSpec, WordsSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("2e6", 2_000_000), ("2_000", 2000), ("1.5", 1.5), ("true", True), ("null", None),
        ("abc", "abc"), ("'3'", "3"), ("[1, 2e3]", [1, 2000]), ("", None), ("{a: 1e2}", {"a": 100}), ("0x1F", 31),
        ('"20220301"', "20220301"), ("'12e4567'", "12e4567"), ('["100", "1e3", 7]', ["100", "1e3", 7]), ("'on'", "on"),
        ("2022-03-01", "2022-03-01"), ("no", "no"), ("off", "off"), ("1:30", "1:30"), ("017", "017"), ("0o17", "0o17"),
        ("1__0", "1__0"), ("=", "="), ("{no: 1, '1': 2}", {"no": 1, "1": 2}), ("-.5", -0.5), ("1e30", 1e30),
    ],
)  # fmt: skip
def test_values_as_typed(text: str, value: object) -> None:
    found = literals.parse(text)
    assert (found, type(found)) == (value, type(value))


scalars = st.one_of(
    st.text(max_size=8),
    st.from_regex(r"[-+]?[0-9][0-9_]{0,3}(\.[0-9]*)?([eE:][-+]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(["yes", "NO", "~", "null", "1e3", "0x10", "2024-01-01", "<<", "=", ".inf", "1_0", "017", "true"]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)


@given(st.dictionaries(st.text(max_size=5), st.lists(scalars, max_size=4), max_size=4))
def test_what_is_dumped_is_read_as_it_was(value: dict) -> None:
    text = literals.dump(value)
    assert literals.parse(text) == value
    assert yaml.safe_load(text) == value or any(isinstance(x, float) for v in value.values() for x in v)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", [":3:", "'a' is given twice"]),
        ("words:\n  words: [a]\n  words: [b]\n", [":3:", "'words' is given twice"]),
        ("a: 1\nb: 12e4567\n", [":2:", "12e4567 is larger"]),
        ("a: [1\n", ["not YAML"]),
        ("a: !!python/name:os.system\n", [":1:", "not YAML"]),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        literals.read(file)
    for word in words:
        assert word in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        literals.read(tmp_path / "none.yaml")


@pipeline
def toy(step):  # type: ignore[no-untyped-def]
    step(CountSpec(), words=step(WordsSpec()))


def graph(store: Store, tmp_path: Path, config: str = "", *sets: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "run.yaml"
    file.write_text(config)
    return toy.graph(store, read_changes(file, list(sets)))


def test_quoted_digits_reach_a_spec_as_text(tmp_path: Path, store: Store) -> None:
    config = 'words: {words: ["100", "1e3", \'12e4567\', 2022-03-01, no], log: "2024"}\n'
    found = graph(store, tmp_path, config).step("words").spec
    assert (found.words, found.log) == (("100", "1e3", "12e4567", "2022-03-01", "no"), "2024")
    assert graph(store, tmp_path, "", "words.log='2024'").step("words").spec.log == "2024"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("words.log=2024", "words.log: Expected `str`, got `int`. Put it into quotes"),
        ("words.words=[a, 1e3]", r"words.words\[1\]: Expected `str`, got `int`"),
        ("words.log=12e4567", "--set words.log: .*12e4567 is larger"),
        ("count.factor=.inf", "count.factor: inf is not a finite number"),
        ("count.factor=.nan", "count.factor: nan is not a finite number"),
        ("count.factor=1:30", "count.factor: Expected `int`, got `str`"),
        ("scaling.compile=yes", "scaling.compile: Expected `bool`, got `str`. Write true or false"),
    ],
)
def test_what_a_field_cannot_take_is_refused_with_the_field(
    tmp_path: Path, store: Store, sets: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words):
        graph(store, tmp_path, "", sets)


def test_a_number_that_is_none_is_refused_in_a_script_too(store: Store) -> None:
    from cluster.core.specs.spec import override
    from pipelines.specs import PretrainSpec, ScalingSpec, TokensSpec

    for spec in (PretrainSpec(learning_rate=float("inf")), PretrainSpec(model_overrides={"a": [float("nan")]})):
        with pytest.raises(SpecError, match=r"pretrain\.\S+: (inf|nan) is not a finite number"):
            override(spec, {}, "pretrain")
    assert override(ScalingSpec(), {}, "scaling") == ScalingSpec()
    assert Pipeline(lambda step: step(WordsSpec())).graph(store).steps
    assert TokensSpec()


def test_files_in_utf16_are_read_and_others_say_where_they_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("corpus:\n  name: Łódź\n".encode("utf-16"))
    assert literals.read(path) == {"corpus": {"name": "Łódź"}}
    path.write_bytes("corpus:\n  name: Müller\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.yaml:2: not UTF-8: .* Save the file as UTF-8"):
        literals.read(path)
    with pytest.raises(InputError, match="is a folder"):
        literals.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"corpus": {"seed": 1, "seed": 2}}', "the key 'seed' is given twice"),
        ("a.json", '{"corpus": {"seed": NaN}}', "NaN is not a finite number"),
        ("a.json", '{"corpus": {"seed": -Infinity}}', "-Infinity is not a finite number"),
        ("a.json", '{"corpus": {"rate": 1e999}}', "1e999 is not a finite number"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.yaml", "corpus: &a {seed: 3, x: [*a]}", r":1: not YAML: \*a stands within what it refers to"),
        ("a.yaml", "a:\n  - &l [1, *l]", r":2: not YAML: \*l stands within"),
    ],
)
def test_what_no_configuration_can_say_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=words):
        literals.read(tmp_path / name)


def test_an_alias_of_what_is_whole_is_what_it_refers_to(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &x {seed: 3}\nb: [*x, *x]\nc: {<<: *x, y: 1}\n")
    assert literals.read(tmp_path / "a.yaml") == {"a": {"seed": 3}, "b": [{"seed": 3}] * 2, "c": {"seed": 3, "y": 1}}
