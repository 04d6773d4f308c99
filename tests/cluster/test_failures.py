"""What a worker raises arrives as itself: from Ray Data, from actors that cannot begin, fail or die, from a corpus."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.control.failures import Failure, explained, original
from cluster.control.screen.console import as_sentence
from cluster.core.build import build
from cluster.core.errors import InputError, JobError, LostNodeError, NotReadyError, TrunklineError
from cluster.core.storage.store import Store
from pipelines.specs import BadWords, CorpusSpec, Python, TextSource
from pipelines.stages.ordered import ordered_map


class TwoPart(Exception):
    """Can be pickled and not be made again: what it was given is not what it keeps."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def fail(kind: str) -> None:
    match kind:
        case "ours":
            raise InputError("/data/words.txt: no such list", "Give its path.")
        case "not ready":
            raise NotReadyError("no room", "Free some.")
        case "python":
            raise KeyError("text")
        case "odd":
            raise TwoPart("a hole", "the file")
        case "exit":
            sys.exit(3)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)


def task(item: dict[str, Any]) -> dict[str, Any]:
    if item["number"] == 2:
        fail(item["kind"])
    return item


CASES: dict[str, tuple[type[Exception], str]] = {
    "ours": (InputError, "/data/words.txt: no such list. Give its path."),
    "not ready": (NotReadyError, "no room. Free some."),
    "python": (KeyError, "'text'"),
    "odd": (JobError, "TwoPart: a hole in the file"),
    "exit": (JobError, "SystemExit: 3"),
    "killed": (JobError, "a data worker died: its process was killed or crashed"),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_a_data_task_raises(ray_cluster: None, kind: str) -> None:
    cls, message = CASES[kind]
    found = []
    with pytest.raises(cls) as caught:
        for result in ordered_map(task, [{"number": number, "kind": kind} for number in range(6)], 2):
            found.append(result["number"])
    assert type(caught.value) is cls
    assert str(caught.value).startswith(message)
    assert found == [0, 1] or kind == "killed"  # what came before it is there
    if kind == "python":
        assert "in fail" in "".join(traceback.format_exception(caught.value))  # for --debug


class Actor:
    def __init__(self, kind: str = "") -> None:
        fail(kind)

    def fail(self, kind: str) -> None:
        fail(kind)


@pytest.mark.parametrize(
    ("kind", "cls", "message"),
    [
        ("ours", InputError, "/data/words.txt: no such list. Give its path."),
        ("python", JobError, "the engine failed: KeyError: 'text'"),
        ("killed", JobError, "the engine died: its process was killed or crashed"),
    ],
)
@pytest.mark.parametrize("call", [lambda kind: ray.remote(Actor).remote(kind), lambda _: ray.remote(Actor).remote()])
def test_what_an_actor_raises(
    ray_cluster: None, kind: str, cls: type[TrunklineError], message: str, call: Callable[[str], Any]
) -> None:
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(call(kind).fail.remote(kind))
    error = explained(caught.value, "the engine")
    assert isinstance(error, cls) and error.exit_code == cls.exit_code
    assert str(error).startswith(message)


def test_layers_come_off_and_circles_end() -> None:
    inner = InputError("x", "y")
    inner.__cause__ = KeyError("a detail of ours")
    outer = RuntimeError("Ray says")
    outer.__cause__ = inner
    assert original(outer) is inner
    inner.__cause__ = outer
    assert original(outer) is inner
    plain, other = ValueError("a"), ValueError("b")
    plain.__cause__, other.__cause__ = other, plain
    assert original(plain) is other
    assert isinstance(explained(ray.exceptions.OutOfMemoryError("lots"), "a data worker"), JobError)
    assert "memory ran out" in str(explained(ray.exceptions.OutOfMemoryError("lots"), "a data worker"))


def test_a_lost_node_is_told_from_a_lost_process() -> None:
    """By its exit code a job gets another attempt."""
    from ray import exceptions as ray_errors
    from ray.core.generated.common_pb2 import ActorDiedErrorContext

    lost = explained(ray_errors.NodeDiedError("raylet gone"), "a data worker")
    assert isinstance(lost, LostNodeError) and (lost.exit_code, lost.message) == (
        75,
        "a data worker is gone with its node",
    )
    context = ActorDiedErrorContext(actor_id=b"0" * 16, error_message="The actor died because its node has died.")
    actor = ray_errors.ActorDiedError(context)
    assert isinstance(explained(actor, "rollout engine 3"), LostNodeError)
    assert not isinstance(explained(ray_errors.WorkerCrashedError(), "a data worker"), LostNodeError)
    context = ActorDiedErrorContext(
        actor_id=b"0" * 16, error_message="The actor is dead because its worker process has died."
    )
    assert explained(ray_errors.ActorDiedError(context), "rollout engine 3").exit_code == 5


def test_an_error_is_a_value() -> None:
    try:
        fail("ours")
    except InputError as error:
        failure = Failure.of(error)
    again = failure.error()
    assert isinstance(again, InputError) and (again.message, again.remedy) == (
        "/data/words.txt: no such list",
        "Give its path.",
    )
    assert str(failure._replace(pickled=b"nonsense").error()).startswith("InputError: /data/words.txt: no such list")


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (BadWords(path="/no/such/words"), "bad_words: path: no file at /no/such/words"),
        (Python(function="os:no_such_rule"), "os:no_such_rule cannot be imported: AttributeError: "),
        (Python(function="operator:index"), "operator:index failed on a.txt: TypeError: "),
    ],
)
def test_a_rule_that_fails_ends_a_corpus_with_one_sentence(
    tmp_path: Path, ray_cluster: None, rule: Any, told: str
) -> None:
    (tmp_path / "a.txt").write_text("one text")
    corpus = CorpusSpec(sources=(TextSource(path=str(tmp_path)),), rules=(rule,))
    with pytest.raises(InputError) as caught:
        build(corpus, {}, store=Store(tmp_path / "artifacts"), name="x")
    sentence = as_sentence(caught.value)
    assert told in str(sentence) and sentence.remedy and sentence.exit_code == 3
