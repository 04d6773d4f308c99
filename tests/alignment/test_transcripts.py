"""Transcripts: what was said, with its advantages, readable and in order after a resume; and as a page in a browser."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cluster.core.storage.location import Location
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.watching.transcripts import Said, Transcripts, page, pieces, read
from pipelines.stages.generation.engine import Completion

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCRIPT = "</script><script>document.title = 'taken over'</script>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte: a character of Chinese is three of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bytes_)


def said(tokenizer: PreTrainedTokenizerFast, answers: list[str], advantages: list[float | list[float]]) -> Said:
    prompts = [Prompt("p1", [{"role": "user", "content": f"say {SCRIPT}"}], [1, 2], "42")] * len(answers)
    completions = [Completion(ids, [0.0] * len(ids), True) for ids in (tokenizer(a)["input_ids"] for a in answers)]
    rewards = [float(number) for number in range(len(answers))]
    return Said(prompts, completions, rewards, {"mine": rewards}, advantages)


@pytest.mark.parametrize("text", ["plain words", "字符 and 😀", "a\n\tb  c", ""])
def test_pieces_are_the_whole_answer_in_readable_parts(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = tokenizer(text)["input_ids"]
    found = list(pieces(tokenizer, [1], tokens, [float(i) for i in range(len(tokens))]))
    assert "".join(piece.text for piece in found) == text
    assert [piece.text for piece in found] == list(text)
    assert all(piece.advantage is not None for piece in found)


def test_advantages_are_of_tokens_or_of_answers(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    kept = Transcripts(Location(tmp_path), tokenizer, rollouts=1)
    kept.add_rollout(0, 0, 2, said(tokenizer, ["字a", "bc"], [[3.0, 3.0, 6.0, -1.0], 0.5]))
    (found,) = read(Location(tmp_path))
    assert [[p.advantage for p in answer.pieces] for answer in found.answers] == [[4.0, -1.0], [0.5, 0.5]]
    assert [(a.reward, a.by_name, a.finish_reason) for a in found.answers][1] == (1.0, {"mine": 1.0}, "stop")
    assert (found.prompt, found.reference, found.heldout) == ("p1", "42", False)


def test_what_an_environment_said_has_no_advantage(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    turns = said(tokenizer, ["abcd"], [[1.0, -1.0]])
    mine = Completion(turns.completions[0].tokens, [0.0, 0.0], True, mine=[True, False, False, True])
    kept = Transcripts(Location(tmp_path), tokenizer, rollouts=1)
    kept.add_rollout(0, 0, 1, dataclasses.replace(turns, completions=[mine]))
    (answer,) = read(Location(tmp_path))[0].answers
    assert [piece.advantage for piece in answer.pieces] == [1.0, None, None, -1.0] and answer.tokens == 2


def test_a_reward_that_failed_is_told_so(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    failed = said(tokenizer, ["x"], [0.0])
    failed.by_name["judge"] = [float("nan")]
    Transcripts(Location(tmp_path), tokenizer, rollouts=1).add_heldout(5, failed)
    found = read(Location(tmp_path))
    assert found[0].answers[0].by_name == {"mine": 0.0, "judge": None}
    assert "judge failed" in page(found, "x")


def test_what_is_said_again_after_a_resume_stands_there_once(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    kept = Transcripts(Location(tmp_path), tokenizer, rollouts=4)
    for step in range(4):
        kept.add_rollout(step, step, 1, said(tokenizer, [f"s{step}"], [1.0]))
    whole = (tmp_path / "transcripts.jsonl").read_bytes()
    again = Transcripts(Location(tmp_path), tokenizer, rollouts=4)
    again.cut(2)
    assert [one.step for one in read(Location(tmp_path))] == [0, 1]
    for step in (2, 3):
        again.add_rollout(step, step, 1, said(tokenizer, [f"s{step}"], [1.0]))
    assert (tmp_path / "transcripts.jsonl").read_bytes() == whole


def test_of_a_long_run_some_are_kept(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    kept = Transcripts(Location(tmp_path), tokenizer, rollouts=1000)
    for number in range(0, 1000, 10):
        kept.add_rollout(number, number, 1, said(tokenizer, ["x"], [1.0]))
    assert 40 <= len(read(Location(tmp_path))) <= 50


@pytest.mark.heavy
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_in_a_browser(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Nothing that was said runs; the page's own script does, and says how many prompts are shown."""
    kept = Transcripts(Location(tmp_path), tokenizer, rollouts=1)
    kept.add_rollout(0, 0, 2, said(tokenizer, [f"good {SCRIPT}", "bad"], [1.0, -0.5]))
    kept.add_heldout(10, said(tokenizer, ["held out"], [0.0]))
    place = tmp_path / "page.html"
    place.write_text(page(read(Location(tmp_path)), "rlhf/mine"), encoding="utf-8")
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*command, "--dump-dom", place.as_uri()], capture_output=True, text=True, timeout=240, check=True
    )
    assert "<title>rlhf/mine</title>" in done.stdout
    assert re.search(r'id="count">2 shown<', done.stdout)
    assert 'class="up s10" title="+1"' in done.stdout and 'class="down s5" title="-0.5"' in done.stdout
