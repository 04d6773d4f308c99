"""The ledger accounts for every prompt through crashes at any point."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import JobError
from cluster.core.storage.location import Location
from pipelines.stages.alignment.ledger import LEDGER_FILE, Account, Ledger, account, read

PER_STEP = 3


EVERY = list(range(PER_STEP))


def prompts(step: int) -> list[str]:
    return [f"prompt-{step * PER_STEP + i}" for i in range(PER_STEP)]


@given(
    attempts=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["issued", "consumed"]), st.integers(0, 6))),
    steps=st.integers(1, 8),
    bad=st.sets(st.integers(0, 8)),
)
def test_each_prompt_once_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, str, int]], steps: int, bad: set[int]
) -> None:
    """Every attempt goes on from a checkpoint at or before where the one before it died, and dies in turn. Bad steps
    are left out."""

    def end(step: int) -> None:
        if step in bad:
            ledger.skipped(step, "loss nan", EVERY)
        else:
            ledger.consumed(step, EVERY)

    place = Location(tmp_path_factory.mktemp("ledger"))
    reached = 0
    for more, died_after, behind in [*attempts, (steps, "consumed", 0)]:
        start = max(0, reached - behind)
        ledger = Ledger(place)
        ledger.resumed(start)
        last = steps if more == steps else min(steps, start + more)
        for step in range(start, last):
            ledger.issued(step, step * PER_STEP, prompts(step))
            if step == last - 1 and died_after == "issued" and last < steps:
                last = step
                break
            end(step)
        reached = last
    for step in range(reached, steps):
        ledger.issued(step, step * PER_STEP, prompts(step))
        end(step)
    found = account(read(place))
    assert found.consumed == [prompt for step in range(steps) if step not in bad for prompt in prompts(step)]
    assert found.skipped == [prompt for step in range(steps) if step in bad for prompt in prompts(step)]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.sets(st.integers(0, 40)), st.integers(0, 36))
def test_several_steps_may_learn_from_a_rollout(
    parts: int, epochs: int, rollouts: int, bad: set[int], crash: int
) -> None:
    """Each epoch has every prompt once; a crash in the middle of a rollout goes on in it. A prompt counts as learned
    from when one step was."""
    per_part, steps = 2, parts * epochs
    size = per_part * parts
    names = [[f"prompt-{number * size + i}" for i in range(size)] for number in range(rollouts)]

    def play(ledger: Ledger, first: int, last: int) -> None:
        for step in range(first, last):
            number, update = divmod(step, steps)
            if update == 0:
                ledger.issued(step, number * size, names[number], steps)
            part = update % parts
            places = list(range(part * per_part, (part + 1) * per_part))
            if step in bad:
                ledger.skipped(step, "loss nan", places)
            else:
                ledger.consumed(step, places)

    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Location(folder))
        end = rollouts * steps
        play(ledger, 0, min(crash, end))
        again = Ledger(Location(folder))
        again.resumed(min(crash, end) // 2)
        play(again, min(crash, end) // 2, end)
        found = account(read(Location(folder)))
    learned = {
        (step // steps, place)
        for step in range(end)
        if step not in bad
        for place in range(step % parts * per_part, (step % parts + 1) * per_part)
    }
    every = [(number, place) for number in range(rollouts) for place in range(size)]
    assert found.consumed == [names[n][p] for n, p in every if (n, p) in learned]
    assert found.skipped == [names[n][p] for n, p in every if (n, p) not in learned]


def test_a_rollout_that_is_used_in_part_does_not_add_up(tmp_path: Path) -> None:
    ledger = Ledger(Location(tmp_path))
    ledger.issued(0, 0, prompts(0), 2)
    ledger.consumed(0, [0, 1])
    with pytest.raises(JobError, match="do not use all of their prompts alike"):
        account(ledger.events)
    ledger.consumed(1, [1, 2])
    with pytest.raises(JobError, match="do not use all of their prompts alike"):
        account(ledger.events)


def test_a_line_cut_off_in_writing_is_dropped(tmp_path: Path) -> None:
    place = Location(tmp_path)
    ledger = Ledger(place)
    ledger.issued(0, 0, prompts(0))
    with (tmp_path / LEDGER_FILE).open("ab") as file:
        file.write(b'{"event": "consu')
    again = Ledger(place)
    again.resumed(0)
    again.issued(0, 0, prompts(0))
    again.consumed(0, EVERY)
    assert [event["event"] for event in read(place)] == ["issued", "resumed", "issued", "consumed"]
    assert account(read(place)) == Account(prompts(0), [])


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([("consumed", 0)], "without being issued"),
        ([("issued", 0), ("consumed", 0), ("consumed", 0)], "each once"),
        ([("issued", 1), ("consumed", 1)], "0, 1, 2"),
        ([("skipped", 0)], "step 0 was skipped without being issued"),
        ([("issued", 0), ("skipped", 0), ("consumed", 0)], "each once"),
        ([("issued", 0), ("skipped", 0), ("shifted", 1), ("consumed", 1)], "not at 3"),
        ([("issued", 0), ("consumed", 0), ("shifted", 1), ("consumed", 1)], "not at 3"),
    ],
)
def test_a_ledger_that_does_not_add_up_is_refused(tmp_path: Path, events: list[tuple[str, int]], words: str) -> None:
    ledger = Ledger(Location(tmp_path))
    for event, step in events:
        if event == "consumed":
            ledger.consumed(step, EVERY)
        elif event == "skipped":
            ledger.skipped(step, "loss nan", EVERY)
        else:
            ledger.issued(step, step * PER_STEP + (event == "shifted"), prompts(step))
    with pytest.raises(JobError, match=words):
        account(ledger.events)


def test_a_ledger_of_before_is_read(tmp_path: Path) -> None:
    """It knew no steps that were left out."""
    Location(tmp_path).write_bytes(
        LEDGER_FILE,
        b'{"event": "issued", "step": 0, "first_position": 0, "prompts": ["a"]}\n{"event": "consumed", "step": 0}\n',
    )
    assert account(read(Location(tmp_path))) == Account(["a"], [])
