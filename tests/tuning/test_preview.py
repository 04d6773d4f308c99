"""`ctl tune preview`: what is learned, to read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.encoding import encode
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec, SyntheticSpec
from pipelines.stages.tuning.preview import Preview, page, pieces, preview, rows_of
from pipelines.stages.tuning.templates import TURN_END, prepare
from tests.cli.command import ctl
from tests.made import make
from tests.tuning.tokenizers import by_hand, llama

SCRIPT = "</pre><script>document.title = 'taken over'</script>"
ASK, YES = {"role": "user", "content": f"ask 你好 {SCRIPT}"}, {"role": "assistant", "content": "  好, yes\nno"}
HANDMADE = by_hand()
prepare(HANDMADE, "chatml")


@given(asked=st.text(max_size=8), said=st.text(max_size=8))
def test_pieces_are_the_whole_example(asked: str, said: str) -> None:
    example = encode(HANDMADE, [{"role": "user", "content": asked}, {"role": "assistant", "content": said}])
    found = list(pieces(HANDMADE, example))
    assert [id for piece in found for id in piece.ids] == example.tokens
    assert [piece.learned for piece in found for _ in piece.ids] == example.learn
    assert "".join(piece.text for piece in found) == HANDMADE.decode(example.tokens)
    assert "".join(piece.text for piece in found if piece.learned) == said + TURN_END
    assert [piece.text for piece in found if piece.control and piece.learned] == [TURN_END]


def test_blanks_are_not_lost_where_a_tokenizer_hides_them() -> None:
    tokenizer = llama()
    prepare(tokenizer, "vicuna")
    found = list(pieces(tokenizer, encode(tokenizer, [ASK, YES])))
    learned = "".join(piece.text for piece in found if piece.learned)
    assert learned == f" {YES['content']}</s>"


def test_a_page_shows_text_as_text() -> None:
    rows = [
        {"id": "<one>", "messages": [ASK, YES]},
        {"id": "two", "messages": [ASK, {**YES, "reasoning_content": "hm"}]},
        {"id": "three", "messages": [ASK, YES, ASK, YES]},
    ]
    found: Preview = preview(HANDMADE, rows, 1)
    assert (found.conversations, found.refused) == (3, {"has no place for the assistant's thoughts": 1})
    assert [sample.id for sample in found.samples] == ["<one>"]
    text = page(found, "chats", "a & b", "chatml")
    assert "<script" not in text and "&lt;script&gt;" in re.sub(r"</span><span[^>]*>", "", text)
    assert "&lt;one&gt;" in text and "a &amp; b" in text and "{{" not in text
    shown = re.findall(r'<span class="([^"]*)" title="([^"]*)">', text)
    assert [int(id) for _, ids in shown for id in ids.split()] == encode(HANDMADE, [ASK, YES]).tokens


def test_conversations_are_found_by_their_bare_name(store: Store) -> None:
    """Those that a model wrote, too; never the model of that name."""
    row = {"id": "1", "messages": [ASK, YES]}
    train = {"train.jsonl": json.dumps(row).encode()}
    make(store, SyntheticSpec(), {}, train, "made")
    make(store, PretrainedSpec(), {}, {"config.json": b"{}"}, "made")
    assert list(rows_of("made", store, "train", "auto")) == list(rows_of("synthetic/made", store, "train", "auto"))
    assert [found["id"] for found in rows_of("made", store, "train", "auto")] == ["1"]


@pytest.mark.heavy  # two processes
def test_it_is_shown_in_a_terminal(tmp_path: Path) -> None:
    HANDMADE.save_pretrained(tmp_path / "model")
    file = tmp_path / "chats.jsonl"
    file.write_text(
        json.dumps({"messages": [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}]})
    )
    asked = ("tune", "preview", file, "--model", tmp_path / "model")
    said = ctl(*asked, "--html", tmp_path / "page.html")
    assert said.returncode == 0, said.stderr
    assert "<|im_start|>assistant\n⟦yes<|im_end|>⟧" in said.stdout and "of these learned 16.7 %" in said.stdout
    assert "yes" in (tmp_path / "page.html").read_text()
    said = ctl(*asked, "--template", "chatmi")
    assert (said.returncode, said.stderr) == (
        2,
        "ctl: --template chatmi: there is no such template. Did you mean 'chatml'?\n",
    )
