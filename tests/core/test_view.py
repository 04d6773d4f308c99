"""What a person sees while a stage runs: figures as people write them, on a terminal and in a log."""

from __future__ import annotations

import pytest

from cluster.control.screen.forecast import Forecast
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
    with view.running(graph.steps, graph.steps):
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
    graph = record("mine", lambda step: step(WordsSpec(words=("a",))), {}, store)
    with view.running(graph.steps, graph.steps):
        view.progress("words", 340, 1000, "steps", STATS)
    said = " ".join(capsys.readouterr().out.split())
    for part in ("340/1,000", "2.346", "1:02:05", "12,346", "0.5"):
        assert part in said


@pytest.mark.parametrize("make", [View, LiveView])
def test_the_stages_are_shown_before_the_first_begins(
    make: type[View], store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    graph = record("mine", lambda step: step(WordsSpec(words=("a",))), {}, store)
    with make({"words": 200.0}).running(graph.steps, graph.steps):
        said = capsys.readouterr().out if make is View else ""
    said = said or capsys.readouterr().out
    assert "words" in said and "Words, one a line" in said
    assert "about 3 min left" in said


def test_where_nothing_is_to_be_built_there_is_no_list(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    graph = record("mine", lambda step: step(WordsSpec(words=("a",))), {}, store)
    with View().running(graph.steps, []):
        pass
    assert capsys.readouterr().out == ""


def test_what_is_left_follows_the_pace_of_what_is_done() -> None:
    forecast = Forecast(["a", "b", "c", "unknown"], {"a": 60.0, "b": 120.0, "c": 60.0, "of another run": 1e6})
    assert forecast.left_seconds() == 240.0
    forecast.finished("a", 120.0)  # this machine takes twice as long
    assert forecast.left_seconds() == 2 * (120.0 + 60.0)
    forecast.progressed("b", 0.5)
    assert forecast.left_seconds() == 2 * (60.0 + 60.0)
    assert forecast.told() == "about 4 min left"
    forecast.finished("b", 240.0)
    forecast.progressed("c", 0.9)
    assert forecast.told() == "less than a minute left"
    forecast.finished("c", 120.0)
    assert forecast.left_seconds() is None and forecast.told() == ""
