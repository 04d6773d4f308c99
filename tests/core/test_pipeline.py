"""Pipelines: what is planned, what is run again, what two runs at once and a kill do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.control.planning.plan import make_plan
from cluster.control.screen.view import View
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import read_changes
from cluster.core.storage.gc import collect
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline, load_script, pipeline, run
from pipelines.specs import (
    ConversationsSpec,
    CorpusSpec,
    PreferencesSpec,
    PretrainedSpec,
    Python,
    QLora,
    RewardSpec,
    RlhfSpec,
    SftSpec,
    Spec,
)
from tests.conftest import ROOT
from tests.core.toys import CountSpec, TotalSpec, WordsSpec
from tests.made import make

SCRIPT = '''
"""A toy."""
from cluster.pipeline import main, pipeline
from tests.core.toys import CountSpec, WordsSpec

@pipeline
def toy(step):
    words = step(WordsSpec(words=("a", "b", "c")))
    return step(CountSpec(), words=words)

if __name__ == "__main__":
    main(toy)
'''


@pipeline
def toy(step):  # type: ignore[no-untyped-def]
    words = step(WordsSpec(words=("a", "b", "c")))
    return step(CountSpec(), words=words)


def _run(store: Store, changes: dict | None = None) -> dict:
    return run(toy.graph(store, changes), store, View())


def test_nothing_is_built_twice_and_the_plan_says_why(store: Store) -> None:
    assert [item.reasons for item in make_plan(toy.graph(store), store)] == [
        ("no words have been built yet",),
        ("no count has been built yet",),
    ]
    built = _run(store)
    assert built["count"].metrics == {"count": 3}
    before = {a.record.ref: a.record for a in store.list()}
    assert {a.record.ref: a.record for a in _run(store).values()} == before

    plan = make_plan(toy.graph(store, {"count": {"factor": 5}}), store)
    assert (plan[0].artifact is not None, plan[1].reasons) == (True, ("factor: 1 -> 5",))
    plan = make_plan(toy.graph(store, {"words": {"words": ["x"]}}), store)
    assert plan[0].reasons == ("words: ['a', 'b', 'c'] -> ['x']",)
    assert plan[1].reasons[0].startswith("input words: ")
    assert _run(store, {"count": {"factor": 5}})["words"].record == built["words"].record


def test_what_was_built_under_another_name_gets_the_new_one_too(store: Store) -> None:
    first = run(toy.graph(store, name="first"), store, View())
    plan = make_plan(toy.graph(store, name="second"), store)
    assert [(item.artifact is not None, item.also_called) for item in plan] == [(True, "second")] * 2
    for name in ("second", "third", "second"):
        run(toy.graph(store, name=name), store, View())
    for name in ("first", "second", "third"):
        assert store.resolve(f"words/{name}").fingerprint == first["words"].fingerprint
        assert store.resolve(name, "count").fingerprint == first["count"].fingerprint
    newer = run(toy.graph(store, {"count": {"factor": 9}}, "second"), store, View())
    assert store.resolve("count/second").fingerprint == newer["count"].fingerprint
    run(toy.graph(store, name="other"), store, View())
    other = run(toy.graph(store, {"count": {"factor": 9}}, "other"), store, View())  # the newest of a name
    assert store.resolve("count/other").fingerprint == other["count"].fingerprint == newer["count"].fingerprint
    assert store.resolve("words/other").fingerprint == first["words"].fingerprint
    store.set_alias("kept", first["count"])
    assert collect(store, 0, dry_run=False)  # a name keeps nothing
    assert store.resolve("count/second").fingerprint == first["count"].fingerprint  # what it was before
    with pytest.raises(InputError, match="no artifact"):
        store.resolve("count/other")


def test_what_the_workers_cannot_share_is_refused_before_anything_is_built(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")  # of whose memory nothing is known
    model = make(store, PretrainedSpec(), {}, {}, "m")
    pairs, talks = (make(store, spec(), {}, {}, "m") for spec in (PreferencesSpec, ConversationsSpec))
    given = {"model": model.record.ref}
    for spec, inputs, scaling, words in (
        (RewardSpec(global_batch_size=32), {"preferences": pairs}, {"num_workers": 3}, "32 sequences do not divide"),
        (RlhfSpec(global_batch_size=32), {"prompts": talks}, {"num_workers": 3}, "32 sequences do not divide"),
        (SftSpec(), {"conversations": talks}, {"micro_batch_size": 5}, "5 does not divide the 16 sequences"),
        (SftSpec(method=QLora()), {"conversations": talks}, {"zero_stage": 3}, "ZeRO 3 cannot cut"),
        (RewardSpec(), {"preferences": pairs}, {"sequence_parallel_size": 2}, "reward does not share sequences"),
    ):

        def function(step, spec=spec, inputs=inputs):  # type: ignore[no-untyped-def]
            step(WordsSpec())
            step(spec, **given, **{name: artifact.record.ref for name, artifact in inputs.items()})

        graph = Pipeline(function).graph(store, {"scaling": scaling})
        for attempt in (lambda graph=graph: run(graph, store, View()), lambda graph=graph: make_plan(graph, store)):
            with pytest.raises(SpecError, match=words):
                attempt()
        assert store.list("words") == []


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (CorpusSpec(rules=(Python(function="rules_that_are_nowhere:no_poems"),)), r"corpus\.rules\[0\]\.function: "),
        (RlhfSpec(rewards={"os.path:no_such_reward": 1.0}), r"rlhf\.rewards\.os\.path:no_such_reward: "),
    ],
)
def test_a_function_that_cannot_be_imported_costs_no_step_before_it(store: Store, spec: Spec, words: str) -> None:
    def function(step):  # type: ignore[no-untyped-def]
        step(WordsSpec())
        step(spec, **inputs)

    inputs = {}
    if isinstance(spec, RlhfSpec):
        kinds = {"model": PretrainedSpec(), "prompts": ConversationsSpec()}
        inputs = {name: make(store, given, {}, {}, "m").record.ref for name, given in kinds.items()}
    with pytest.raises(SpecError, match=words + ".*cannot be imported"):
        run(Pipeline(function).graph(store), store, View())
    assert store.list("words") == []


def test_errors_of_a_pipeline(store: Store) -> None:
    for changes, words in (
        ({"cout": {"factor": 2}}, "Did you mean 'count'"),
        ({"count": {"factr": 2}}, "count.factr"),
        ({"count": 3}, "expected fields"),
        ({"scaling": {"num_worker": 2}}, "scaling.num_worker"),
    ):
        with pytest.raises(SpecError, match=words):
            toy.graph(store, changes)

    for function, words in (
        (lambda step: step(CountSpec()), "input 'words' is missing"),
        (lambda step: step(CountSpec(), word=step(WordsSpec())), "Did you mean 'words'"),
        (lambda step: (step(WordsSpec()), step(WordsSpec())), "two steps are called 'words'"),
        (lambda step: step(CountSpec(), words=step(CountSpec(), name="x", words=step(WordsSpec()))), "not a count"),
    ):
        with pytest.raises(SpecError, match=words):
            Pipeline(function).graph(store)
    with pytest.raises(InputError, match="no artifact 'nothing'"):
        Pipeline(lambda step: step(CountSpec(), words="nothing")).graph(store)


def test_precedence_of_config_and_set(tmp_path: Path, store: Store) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("count: {factor: 2}\nwords: {words: [q]}\nscaling: {num_workers: 7}\n")
    graph = toy.graph(store, read_changes(config, ["count.factor=3"]))
    assert graph.step("count").spec.factor == 3
    assert graph.step("words").spec.words == ("q",)
    assert graph.scaling.num_workers == 7
    assert (
        graph.step("count").fingerprint
        == toy.graph(store, {"count": {"factor": 3}, "words": {"words": ["q"]}}).step("count").fingerprint
    )


def test_a_file_may_hold_what_is_for_other_commands(tmp_path: Path, store: Store) -> None:
    config = tmp_path / "all.yaml"
    config.write_text("count: {factor: 2}\nendpoint: {max_replicas: 3}\ninfra: {namespace: lab}\n")
    assert toy.graph(store, read_changes(config, [])).step("count").spec.factor == 2
    for wrong, words in (("endpoint.max_replcas=3", "max_replicas"), ("infra.nmespace=x", "namespace")):
        with pytest.raises(SpecError, match=f"Did you mean '{words}'"):
            toy.graph(store, read_changes(config, [wrong]))


def test_scripts_that_cannot_be_loaded(tmp_path: Path) -> None:
    for text, words in (
        ("x = 1\n", "defines 0 pipelines"),
        ("x = 1\nimport nothing_like_it\n", ":2: ModuleNotFoundError"),
        ("x = \n", ":1: SyntaxError"),
    ):
        script = tmp_path / "script.py"
        script.write_text(text)
        with pytest.raises(InputError, match=words):
            load_script(script)


def test_a_script_that_ends_itself_says_so(tmp_path: Path) -> None:
    script = tmp_path / "ended.py"
    script.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(InputError, match=r"ended\.py: ends itself, by sys\.exit\(3\), before its pipeline is known"):
        load_script(script)


def _script(tmp_path: Path) -> Path:
    script = tmp_path / "toy.py"
    script.write_text(SCRIPT)
    return script


def _start(script: Path, store: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(script), "--store", str(store), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    script, store = _script(tmp_path), tmp_path / "artifacts"
    trap, log = tmp_path / "trap", tmp_path / "log"
    changes = ["--set", f"words.trap={trap}", "--set", f"words.log={log}"]
    trap.touch()
    killed = _start(script, store, *changes)
    killed.communicate(timeout=240)
    assert killed.returncode == -signal.SIGKILL
    assert Store(store).list() == []
    trap.unlink()
    again = _start(script, store, *changes)
    output = again.communicate(timeout=240)[0]
    assert again.returncode == 0, output
    assert log.read_text().split() == ["a", "b", "c"]  # the first word was not written a second time
    assert Store(store).resolve("count/toy").metrics == {"count": 3}


@pytest.mark.heavy
def test_of_two_runs_at_once_one_builds(tmp_path: Path) -> None:
    script, store, log = _script(tmp_path), tmp_path / "artifacts", tmp_path / "log"
    both = [_start(script, store, "--set", f"words.log={log}") for _ in range(2)]
    outputs = [run.communicate(timeout=240)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0], outputs
    assert log.read_text().split() == ["a", "b", "c"]
    assert len(Store(store).list()) == 2


def test_a_wrong_set_of_a_script_exits_3_in_one_sentence(tmp_path: Path) -> None:
    wrong = _start(_script(tmp_path), tmp_path / "artifacts", "--set", "count.factr=1")
    output = wrong.communicate(timeout=240)[0]
    assert wrong.returncode == 3
    assert output == "ctl: count.factr: unknown field. Did you mean 'factor'?\n"


def test_inputs_of_any_name(store: Store) -> None:
    def function(step):  # type: ignore[no-untyped-def]
        words = step(WordsSpec(words=("a", "b", "c")))
        one, two = step(CountSpec(), name="one", words=words), step(CountSpec(factor=2), name="two", words=words)
        return step(TotalSpec(), small=one, large=two)

    sums = Pipeline(function)
    built = run(sums.graph(store), store, View())
    assert built["total"].metrics == {"total": 9}
    assert set(built["total"].record.parents) == {"small", "large"}

    added = sums.graph(store, read_changes(None, [f"total.inputs.again={built['one'].record.ref}"]))
    short = built["one"].fingerprint[:12]
    assert make_plan(added, store)[-1].reasons == (f"input again: none -> {short}",)
    assert run(added, store, View())["total"].metrics == {"total": 12}

    store.set_alias("kept", built["total"])
    collect(store, 0, dry_run=False)
    assert {a.record.ref for a in store.list()} == {a.record.ref for a in built.values()}

    for wrong, words in (
        (lambda step: step(TotalSpec()), "no input.*count or total steps"),
        (lambda step: step(TotalSpec(), any=step(WordsSpec())), "'any' must be a count or total, not a words"),
        (lambda step: step(TotalSpec(without=("x",)), y=built["one"].record.ref), "'x' is no input"),
    ):
        with pytest.raises(SpecError, match=words):
            Pipeline(wrong).graph(store)
