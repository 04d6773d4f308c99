"""PPO with real vLLM rollouts: it learns, its engines hold the learner's weights, and no kill changes a bit of it."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.metrics import read
from cluster.core.specs.spec import convert, fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, JudgeModel, NormalizedBatch, ProcessReward, RlhfSpec, Tools
from pipelines.stages.alignment import curve, ledger
from pipelines.stages.alignment.advantages import Distillation
from pipelines.stages.alignment.kl_control import AdaptiveKl
from pipelines.stages.alignment.scoring import FAILURES_FILE
from pipelines.stages.alignment.watching import transcripts
from pipelines.stages.tokens.order import Order
from pipelines.stages.tuning.conversations import read_conversations
from tests.alignment.tiny_chat import SCALING, ppo, rlhf, source_of
from tests.conftest import ROOT
from tests.made import make

STEPS = 24  # two of each rollout
SCRIPT = Path(__file__).with_name("tiny_chat.py")

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def inputs(chat_inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    return chat_inputs


def run(inputs: dict[str, Artifact], root: Path, steps: int = STEPS, **scaling: Any) -> Artifact:
    """Train in a store of its own, from the shared inputs."""
    scaled = msgspec.structs.replace(SCALING, **scaling)
    return build(ppo(steps), inputs, store=Store(root), scaling=scaled, name="tiny")


@pytest.fixture(scope="module")
def undisturbed(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A run that nothing happens to; after every sync four greedy completions are compared with transformers'."""
    return run(inputs, tmp_path_factory.mktemp("undisturbed"), verify_rollout_prompts=4)


def test_parsing_rises_on_heldout_prompts_and_kl_stays_bounded(undisturbed: Artifact) -> None:
    metrics = undisturbed.metrics
    assert metrics["heldout_python_parses"] >= metrics["first_heldout_python_parses"] + 0.15
    assert metrics["heldout_kl"] <= undisturbed.spec["max_kl"]
    assert metrics["first_heldout_kl"] == pytest.approx(0, abs=1e-4)


def test_every_sync_was_verified_and_both_sides_agree(undisturbed: Artifact) -> None:
    lines = read(undisturbed.location)
    assert lines[-1]["verified_syncs"] == STEPS / 2  # one before each rollout; the one after the last follows
    fresh, moved = ([row["rollout_logprob_gap"] for row in lines if row["staleness_steps"] == n] for n in (0, 1))
    assert max(fresh) < 1e-4 < min(moved)  # the second step of a rollout finds other weights than drew it


def test_the_critic_learns_and_the_kl_coefficient_moves(undisturbed: Artifact) -> None:
    lines = read(undisturbed.location)[::2]  # of each rollout's first step
    assert lines[0]["explained_variance"] == 0 and lines[0]["value_loss"] > 0  # a head of zeros
    assert max(line["explained_variance"] for line in lines[len(lines) // 2 :]) > 0.05
    control = AdaptiveKl(**undisturbed.spec["kl_coef"])
    coefficients = [line["kl_coef"] for line in lines]
    assert coefficients[:2] == [control.start, control.after(control.start, 0.0, 64)]  # no KL yet: it falls
    assert all(abs(b / a - 1) <= 0.2 * 64 / control.horizon + 1e-9 for a, b in itertools.pairwise(coefficients))
    assert len(set(coefficients)) == len(coefficients)


def test_the_curve_is_part_of_the_artifact(undisturbed: Artifact) -> None:
    points = curve.read(undisturbed.location)
    assert [point["step"] for point in points] == [0, 10, 20, STEPS]
    for share, deviation in ((point["heldout_reward"], point["heldout_reward_deviation"]) for point in points):
        assert deviation == pytest.approx((share * (1 - share)) ** 0.5, abs=1e-5)  # of rewards that are 0 or 1
    picture = undisturbed.location.read_bytes(curve.PICTURE_FILE)
    assert picture.startswith(b"\x89PNG")
    assert picture == curve.in_png(points, undisturbed.name)
    lines = undisturbed.location.read_bytes(curve.TEXT_FILE).decode().splitlines()
    parses = next(line for line in lines if line.startswith("heldout_python_parses"))
    first, last = (f"{points[end]['heldout_python_parses']:.3f}" for end in (0, -1))
    assert parses.split()[1:] == [first, parses.split()[2], last]
    assert len(parses.split()[2]) == len(points)


def test_what_was_said_is_part_of_the_artifact(undisturbed: Artifact) -> None:
    found = transcripts.read(undisturbed.location)
    assert [one.step for one in found if not one.heldout] == list(range(0, STEPS, 2))
    assert {one.step for one in found if one.heldout} == {0, 10, 20, STEPS}
    for one in found:
        assert len(one.answers) == (1 if one.heldout else undisturbed.spec["group_size"])
        for answer in one.answers:
            assert answer.reward == pytest.approx(answer.by_name["python_parses"])
            assert one.heldout == (answer.pieces[0].advantage is None)
    page = undisturbed.location.read_bytes(transcripts.PAGE_FILE).decode()
    assert page.count("<article") == len(found) and found[0].answers[0].finish_reason in page
    assert isinstance(undisturbed.metrics["alarms"], list)


def test_the_ledger_is_the_order(undisturbed: Artifact, inputs: dict[str, Artifact]) -> None:
    events = ledger.read(undisturbed.location)
    assert sum(event["event"] == "issued" for event in events) == STEPS / 2
    found = ledger.account(events)
    ids = [row["id"] for row in read_conversations(inputs["prompts"].local(), "train")]
    spec = undisturbed.spec
    count = STEPS * spec["global_batch_size"] // spec["group_size"]
    assert len(found.consumed) == count and undisturbed.metrics["prompts_dropped"] == len(found.dropped) > 0
    issued = [name for event in events if "prompts" in event for name in event["prompts"]]
    assert issued == [ids[i] for i in Order(len(ids), spec["seed"]).samples(0, len(issued))]
    assert sorted(issued) == sorted([*found.consumed, *found.dropped])
    assert len(set(issued)) == len(issued)  # less than an epoch: none twice
    lines = read(undisturbed.location)[::2]
    assert sum(line["dropped_groups"] for line in lines) == len(found.dropped)
    assert all(line["zero_variance_fraction"] > 0 for line in lines if line["dropped_groups"])


def same(artifact: Artifact, reference: Artifact) -> None:
    """The same weights, held-out figures, curve and prompts, to the bit."""
    kept = [name for name in reference.metrics if not name.startswith("verified")]
    assert {name: artifact.metrics[name] for name in kept} == {name: reference.metrics[name] for name in kept}
    said = (transcripts.TRANSCRIPTS_FILE, transcripts.PAGE_FILE)
    for name in ("model.safetensors", curve.CURVE_FILE, curve.PICTURE_FILE, curve.TEXT_FILE, *said):
        assert artifact.record.files[name] == reference.record.files[name], name
    assert ledger.account(ledger.read(artifact.location)) == ledger.account(ledger.read(reference.location))


def staging(root: Path) -> Path | None:
    return next(root.glob(".staging/rlhf-*"), None)


def await_that(what: Callable[[], bool], error: str) -> None:
    """Return once something holds that no one tells of."""
    pause, deadline = threading.Event(), time.monotonic() + 900
    while not what():
        assert time.monotonic() < deadline, error
        pause.wait(0.1)


def consumed_steps(root: Path) -> int:
    place = staging(root)
    path = place / ledger.LEDGER_FILE if place else None
    return path.read_text().count('"consumed"') if path and path.exists() else 0


def resumed_steps(root: Path) -> int:
    """The step that the last attempt went on from; 0 before there is one that did."""
    place = staging(root)
    events = ledger.read(Location(place)) if place and (place / ledger.LEDGER_FILE).exists() else []
    return max((event["step"] for event in events if event["event"] == "resumed"), default=0)


def has_checkpoint(root: Path) -> bool:
    place = staging(root)
    return bool(place and any(place.glob(".train/checkpoints/step-*/*.part")))


def family(pid: int, name: str = "") -> list[psutil.Process]:
    """The descendants of a process, those whose title begins with `ray::NAME` where a name is given."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if not name or (process.cmdline() or [""])[0].startswith(f"ray::{name}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_kills_of_engine_learner_and_driver_change_no_bit(
    undisturbed: Artifact, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    for artifact in (*inputs.values(), inputs["model"].parent("model")):
        copied = root / artifact.kind / artifact.record.folder
        artifact.location.get(copied)
    driver = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(root), str(source_of(inputs["model"].store_url)), str(STEPS)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_that(lambda: consumed_steps(root) >= 3, "no step was taken")
        family(driver.pid, "GenerationEngine")[0].kill()
        await_that(lambda: has_checkpoint(root) and consumed_steps(root) >= 7, "no checkpoint")
        family(driver.pid, "RayTrainWorker")[0].kill()
        await_that(lambda: resumed_steps(root) > 0, "the learner did not go on")
        await_that(lambda: consumed_steps(root) >= 13, "no step was taken after the learner's death")
        everyone = family(driver.pid)
    finally:
        for process in [*family(driver.pid), psutil.Process(driver.pid)]:
            with suppress(psutil.NoSuchProcess):  # some end when another one has
                process.kill()
        driver.wait()
    assert len(everyone) > 4
    assert not Store(root).list("rlhf"), "it had finished before it was killed"
    found = run(inputs, root)
    same(found, undisturbed)
    resumed = [event["step"] for event in ledger.read(found.location) if event["event"] == "resumed"]
    assert len(resumed) > 1 and resumed[-1] > 0, "it began anew"


def test_a_teacher_is_followed_on_the_students_own_answers(
    undisturbed: Artifact, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """The tuned model as the teacher of the one that it began from: no reward, and no groups."""
    spec = rlhf(6, advantage=Distillation(), rewards={}, group_size=1, kl_coef=0.0, max_kl=0.0)
    given = {"model": inputs["model"], "teacher": undisturbed}
    found = build(spec, inputs | given, store=Store(tmp_path), scaling=SCALING, name="tiny").metrics
    assert found["first_heldout_teacher_kl"] > 0.05
    assert "heldout_kl" not in found, "no model that training starts from was asked"
    assert found["heldout_teacher_kl"] < 0.6 * found["first_heldout_teacher_kl"]
    assert found["heldout_completion_tokens"] < found["first_heldout_completion_tokens"]  # as the teacher's are


def test_what_is_wrong_with_the_rewards_is_said_before_any_work(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    for rewards, words in (({"reward_model": 1.0}, "go together"), ({"python_parse": 1.0}, "python_parses")):
        with pytest.raises(SpecError, match=words):
            build(rlhf(2, rewards=rewards), inputs, store=Store(tmp_path), scaling=SCALING, name="tiny")


OWN = "tests.alignment.own_rewards"


def test_a_reward_that_fails_on_some_samples_costs_those(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Beside others of whole numbers, truth values and numpy's; each part has its figure, each failure its line. The
    answers are of two turns: what stands between them was not drawn, and what was, engine and learner agree on."""
    none = {"type": "python", "function": f"{OWN}:none", "on_failure": "skip"}
    environment = {"type": "python", "function": f"{OWN}:asks_on", "turn_tokens": 24}
    rewards = {f"{OWN}:letters": 0.01, f"{OWN}:ended": 1.0, f"{OWN}:share": 0.5, "none": none}
    spec = convert(
        fields(rlhf(2, evaluation_prompts=16)) | {"rewards": rewards, "environment": environment}, RlhfSpec, "rlhf"
    )
    artifact = build(spec, inputs, store=Store(tmp_path), scaling=SCALING, name="tiny")
    lines = [json.loads(line) for line in artifact.location.read_bytes(FAILURES_FILE).splitlines()]
    assert {line["why"] for line in lines} == {"returned None of type NoneType"}
    assert all(line["reward"] == "none" and len(line["answer"]) % 2 == 0 for line in lines)
    fresh, figures = read(artifact.location)
    heldout = artifact.metrics
    assert fresh["rollout_logprob_gap"] < 1e-4 < figures["rollout_logprob_gap"] and 1 < figures["turns"] <= 2
    assert figures["reward_failures"] == sum(not line["heldout"] for line in lines) > 0
    assert heldout["heldout_reward_failures"] == sum(line["heldout"] and line["step"] == 2 for line in lines) > 0
    assert figures["reward_none"] == heldout["heldout_none"] == 0.5
    assert 0 < figures[f"reward_{OWN}:ended"] <= 1


@pytest.mark.exhaustive
def test_steps_are_rewarded_beside_a_tool_that_searches(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """The whole way: the corpus's index, an environment's process that opens it, rewards of words, their advantages;
    and a judge that only watches, whose questions are longer than the model takes that it is."""
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "Adding numbers."}]), table)
    store = Store(tmp_path)
    corpus = make(store, CorpusSpec(), {}, {"train/part-0.parquet": table.getvalue()}, "c")
    steps = ProcessReward(function=f"{OWN}:each_line", ends=r"\s+", weight=0.01)
    watched = JudgeModel(weight=0, on_failure="score", failure_score=0.25)
    spec = rlhf(
        2,
        evaluation_prompts=16,
        rewards={"steps": steps, f"{OWN}:ended": 1.0, "watched": watched},
        advantage=NormalizedBatch(),
        environment=Tools(tools=("search",), turn_tokens=24),
    )
    given = inputs | {"corpus": corpus, "judge": inputs["model"]}
    artifact = build(spec, given, store=store, scaling=SCALING, name="tiny")
    assert artifact.metrics["heldout_watched"] == 0.25 and artifact.metrics["heldout_reward_failures"] == 16
    first, _ = read(artifact.location)
    ended, lines = first[f"reward_{OWN}:ended"], first["reward_steps"]
    assert first["reward"] == pytest.approx(ended + 0.01 * lines, abs=1e-4) and lines > 1
    assert first["reward_failures"] == 0 and "reward_watched" not in first
    drawn = next(each for each in transcripts.read(artifact.location) if not each.heldout)
    assert any(len({piece.advantage for piece in answer.pieces}) > 2 for answer in drawn.answers), "told apart by word"


@pytest.mark.exhaustive
def test_each_worker_may_have_an_engine_beside_it(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Two workers, two engines, which hold what is learned after each sync and rest between rollouts."""
    found = run(inputs, tmp_path, steps=4, colocated_fraction=0.3, verify_rollout_prompts=4)
    lines = read(found.location)
    assert lines[-1]["verified_syncs"] == 2 and lines[0]["rollout_logprob_gap"] < 1e-4
    assert len(ledger.account(ledger.read(found.location)).consumed) == 4 * 4


def test_a_reward_that_compares_wants_references(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    """Before an engine starts: here the references are the answers of conversations, which have no number."""
    with pytest.raises(InputError, match=r"rlhf.rewards: gsm8k compares .* that of train prompt \S+ has no number"):
        build(rlhf(2, rewards={"gsm8k": 1.0}), inputs, store=Store(tmp_path), scaling=SCALING, name="tiny")
