"""Answers as tokens: what is judged is the last answer, and what teaches no preference is set aside by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from pipelines.specs import DpoSpec, Kto, Lora, Orpo, ScalingSpec
from pipelines.stages.alignment.offline.answers import AnswerReader, AnswerSet, digest, last_answer
from pipelines.stages.alignment.offline.batches import alone
from pipelines.stages.alignment.offline.objective import BASELINE
from pipelines.stages.alignment.offline.spec import TooLong
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import prepare
from tests.tuning.tokenizers import by_hand


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASK = [user("ask")]
TALK = [user("ask"), assistant("yes"), user("ask more")]


def row(prompt: list[dict[str, str]] = ASK, chosen: str = "yes", rejected: str = "no", **more: Any) -> dict[str, Any]:
    return {"id": "x", "prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = by_hand()
    prepare(found, "chatml")
    return found


def reader(tokenizer: Any, longest: int = 200, policy: TooLong = "reject", paired: bool = True) -> AnswerReader:
    return AnswerReader(tokenizer, longest, policy, paired)


def test_of_several_turns_the_history_is_whole_and_the_last_answer_alone_is_judged(tokenizer: Any) -> None:
    _, [chosen, rejected] = reader(tokenizer).read([row(TALK)])
    for encoded, said in ((chosen, "yes"), (rejected, "no")):
        learned = [token for token, learn in zip(encoded.tokens, encoded.learn, strict=True) if learn]
        assert tokenizer.decode(learned) == f"{said}<|im_end|>"
        text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
        before = encoded.tokens[: encoded.learn.index(True)]
        assert tokenizer.decode(before) == text


def test_what_teaches_no_preference_is_counted_by_name(tokenizer: Any) -> None:
    rows = [
        row(),
        row(chosen="no", rejected="no"),
        row(rejected=" "),
        row(tie=True),
        {"id": "y", "prompt": ASK, "answer": "yes", "desirable": True},
        row(rejected="no " * 200),
        row([*ASK, assistant("yes") | {"reasoning_content": "Hm."}, *ASK]),
    ]
    found = reader(tokenizer)
    answers, encoded = found.read(rows)
    told = {"pairs": 1, "cut": 0, "same_answers": 1, "empty_answers": 1, "ties": 1, "unpaired": 1, "too_long": 1}
    assert dict(found.counts) == told | {"refused": 1}
    assert ([answer.text for answer in answers], len(encoded)) == (["yes", "no"], 2)
    alone = reader(tokenizer, paired=False)
    answers, _ = alone.read(rows)  # of a pair each answer for itself; of the empty and the long one, the other is left
    assert [(answer.text, answer.desirable) for answer in answers][:3] == [("yes", True), ("no", False), ("yes", True)]
    kept = {"answers": 5, "cut": 0, "same_answers": 1, "empty_answers": 1, "ties": 1, "unpaired": 0, "too_long": 1}
    assert dict(alone.counts) == kept | {"refused": 2}
    with pytest.raises(InputError, match=r"p, train: nothing is left .* 200 tokens: 1 ties"):
        empty = reader(tokenizer)
        empty.read([row(tie=True)])
        empty.require("p, train")


def test_long_pairs_by_policy(tokenizer: Any) -> None:
    whole = len(last_answer(tokenizer, TALK, "yes yes yes").tokens)
    given = [row(TALK, "yes yes yes", "no")]
    for policy, counts in (("reject", (0, 0, 1)), ("cut-turns", (1, 1, 0)), ("cut-end", (1, 1, 0))):
        found = reader(tokenizer, whole - 1, policy)  # type: ignore[arg-type]
        _, encoded = found.read(given)
        assert (found.counts["pairs"], found.counts["cut"], found.counts["too_long"]) == counts, policy
        if policy == "cut-turns":  # both lose the first turn, though one would fit
            assert encoded == [last_answer(tokenizer, TALK[2:], text) for text in ("yes yes yes", "no")]
        if policy == "cut-end":  # the end of turn is not learned
            assert encoded[0].tokens == last_answer(tokenizer, TALK, "yes yes yes").tokens[: whole - 1]
    same = reader(tokenizer, len(last_answer(tokenizer, ASK, "yes").tokens) - 2, "cut-end")
    same.read([row(chosen="yes yes", rejected="yes no")])
    assert same.counts["same_answers"] == 1  # once they are cut


def test_the_answers_to_other_requests_are_the_same_answers_again(tokenizer: Any) -> None:
    found = reader(tokenizer, paired=False)
    answers, _ = found.read([row([user(f"ask {number}")], f"yes {number}", f"no {number}") for number in range(3)])
    others = found.mismatched(answers)
    expected = [(0, "yes 1"), (0, "no 1"), (1, "yes 2"), (1, "no 2"), (2, "yes 0"), (2, "no 0")]
    assert others == [last_answer(tokenizer, [user(f"ask {number}")], text) for number, text in expected]
    with pytest.raises(InputError, match="all preferences answer one"):
        found.mismatched([answer for answer in answers if answer.prompt == answers[0].prompt])


def test_a_sequence_is_known_by_its_tokens_and_by_those_that_count(tokenizer: Any) -> None:
    one, other = (last_answer(tokenizer, prompt, "yes") for prompt in (ASK, TALK))
    assert len({digest(one), digest(other), digest(type(one)(one.tokens, [False] * len(one.learn)))}) == 3
    assert digest(one) == digest(last_answer(tokenizer, ASK, "yes"))


@pytest.mark.parametrize("desirable", [[True, False, False, True], [True] * 4, [False] * 4])
def test_of_single_answers_the_means_are_those_of_each_side(tokenizer: Any, desirable: list[bool]) -> None:
    """And none is infinite where a batch has one side only."""
    sequences = Sequences.collect([last_answer(tokenizer, ASK, "yes")] * 4)
    answers = AnswerSet(False, sequences, np.array(desirable), np.zeros(4))
    batch = alone(answers, [0, 1, 2, 3], answers.desirable, 0.5)
    assert batch[BASELINE].tolist() == [0.5] * 4
    for side in (True, False):
        if count := desirable.count(side):
            own = batch["weights"][batch["desirable"] == side]
            assert (own.sum() / 4).item() == pytest.approx(1.0) and len(own) == count
    assert np.isfinite(batch["weights"]).all()


def test_what_does_not_go_together_is_refused() -> None:
    model = {"model": None, "preferences": None}
    for loss, reference, words in ((Kto(), False, "measures from a reference"), (Orpo(), True, "has none")):
        spec = DpoSpec(loss=loss)
        assert ("reference" in spec.unused_inputs()) is reference
        with pytest.raises(SpecError, match=words):
            spec.check_inputs(model | ({"reference": None} if reference else {}))
    with pytest.raises(SpecError, match=r"dpo\.optimizer: muon trains whole matrices"):
        convert({"method": {"type": "lora"}, "optimizer": "muon"}, DpoSpec, "dpo")
    with pytest.raises(SpecError, match="ZeRO 3 cannot cut"):
        DpoSpec(method=Lora(dora=True)).check_scaling(ScalingSpec(zero_stage=3))
