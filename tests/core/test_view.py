"""What a person sees while a stage runs: figures as people write them, on a terminal and in a log."""

from __future__ import annotations

import pytest

from cluster.control.screen.view import LiveView, View, figures
from cluster.core.graph import record
from cluster.core.storage.store import Store
from tests.core.toys import WordsSpec

STATS = {"loss": 2.3456789, "eta_seconds": 3725.4, "tokens_per_second": 12345.6, "grad_norm": 0.5, "mfu": None}
LINE = "loss 2.346  ETA 1:02:05  12,346 tokens/s  grad_norm 0.5"


def test_figures_are_written_as_people_write_them() -> None:
    assert figures(STATS) == LINE


@pytest.mark.parametrize("view", [View(), LiveView()])
def test_a_person_sees_step_loss_rate_and_what_is_left(
    view: View, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.control.screen.view.LINE_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "140")
    graph = record("mine", lambda step: step(WordsSpec(words=("a",))), {}, store)
    with view.running(graph):
        view.started("words")
        view.progress("words", 340, 1000, "steps", STATS)
        view.notice("words", "step 340 was skipped: loss nan")
    said = capsys.readouterr().out
    assert f"34% 340/1,000 steps  {LINE}" in said
    assert said.count("words: step 340 was skipped: loss nan") == 1


def test_a_narrow_terminal_loses_no_figure(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    view = LiveView()
    with view.running(record("mine", lambda step: step(WordsSpec(words=("a",))), {}, store)):
        view.progress("words", 340, 1000, "steps", STATS)
    said = " ".join(capsys.readouterr().out.split())
    for part in ("340/1,000", "2.346", "1:02:05", "12,346", "0.5"):
        assert part in said
