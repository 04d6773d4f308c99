"""The page of answers side by side: whole, escaped, alone; and what cannot be laid side by side."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from pipelines.specs import BenchmarkSpec
from pipelines.stages.evaluation.side_by_side import gather, page, said, transcript
from tests.cli.command import ctl
from tests.evaluation.generations import answered
from tests.made import make

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> $models ${columns} &amp; \"'"


class Seen(HTMLParser):
    """The text and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_shows_every_answer_as_text_and_loads_nothing(store: Store) -> None:
    base = answered(store, "base", [HOSTILE, "", "same"], seed=1)
    tuned = answered(store, "tuned", ["第一行\n  second line", "better", "same"], seed=2)
    text = page([base, tuned])
    seen = Seen(text)
    for shown in (
        HOSTILE,
        "第一行\n  second line",
        "(nothing)",
        "better",
        "question 0 <b>&",
        "reference 2",
        "sft/tuned",
    ):
        assert shown in "\n".join(seen.text)
    assert "3 requests, 2 with different answers." in text and "0.2500 (0.1250 to 0.5000)" in text
    tags = {tag for tag, _ in seen.tags}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    loaded = [value for _, found in seen.tags for name, value in found.items() if name in ("src", "href")]
    assert loaded == ["data:,"] and not re.search(r"url\(|@import", text)
    assert "prefers-color-scheme: dark" in text
    kinds = [found["class"] for tag, found in seen.tags if tag == "article"]
    assert kinds == ["differs", "differs", "same"]
    assert [row.answers for row in gather([base, tuned])][1] == ["", "better"]


def test_thoughts_and_calls_are_shown() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"what": "雨"}}}
    message = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]}
    assert said(message) == 'Hm.\n\n{"name": "look", "arguments": {"what": "雨"}}'
    asked = {"role": "user", "content": "Look!"}
    assert transcript([asked]) == "Look!" and transcript([asked, message]).startswith("user: Look!\n\nassistant: Hm.")


@pytest.mark.heavy
def test_the_command(store: Store, tmp_path: Path) -> None:
    for name, seed in (("base", 1), ("tuned", 2)):
        answered(store, name, ["a", "b", "c"], seed=seed)
    place, out = ("--store", store.root.url), tmp_path / "page.html"
    done = ctl("eval", "side-by-side", "generation/base", "generation/tuned", "--html", out, "--prompts", "2", *place)
    assert done.returncode == 0, done.stderr
    assert str(out) in done.stdout and "The first 2 are shown." in out.read_text()
    assert "reference 1" in out.read_text() and "reference 2" not in out.read_text()
    assert ctl("eval", "side-by-side", "generation/base", *place).returncode == 2


def test_what_was_not_asked_the_same_is_told(store: Store) -> None:
    base = answered(store, "base", ["a", "b"], seed=1)
    with pytest.raises(InputError, match="1 requests are in both, 1 and 2 in each"):
        gather([base, answered(store, "short", ["a"], seed=2)])
    other = make(store, BenchmarkSpec(), {}, {"results.json": b"{}"}, "x")
    with pytest.raises(InputError, match=r"holds no answers\.jsonl"):
        gather([base, other])
