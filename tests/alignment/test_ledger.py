"""The ledger accounts for every prompt through crashes at any point."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import JobError
from cluster.core.storage.location import Location
from pipelines.stages.alignment.ledger import LEDGER_FILE, Account, Ledger, account, read

PER_STEP = 3


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
            ledger.skipped(step, "loss nan")
        else:
            ledger.consumed(step)

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


def test_a_line_cut_off_in_writing_is_dropped(tmp_path: Path) -> None:
    place = Location(tmp_path)
    ledger = Ledger(place)
    ledger.issued(0, 0, prompts(0))
    with (tmp_path / LEDGER_FILE).open("ab") as file:
        file.write(b'{"event": "consu')
    again = Ledger(place)
    again.resumed(0)
    again.issued(0, 0, prompts(0))
    again.consumed(0)
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
            ledger.consumed(step)
        elif event == "skipped":
            ledger.skipped(step, "loss nan")
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
