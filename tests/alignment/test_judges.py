"""Judges: pairs are shown both ways, a model's marks are its probabilities, and one that only watches costs little."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.encoding import prompt_tokens
from cluster.core.errors import InputError, JobError, SpecError
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import Judge, JudgeModel, PairwiseJudge, PretrainedSpec, RlhfSpec
from pipelines.stages.alignment.judging import ScoreJudge, check_judge, mark_tokens, open_judge
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.pool import Failed
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.scoring import Scorer, Scores, summed
from pipelines.stages.generation.asking import Answer
from pipelines.stages.generation.endpoint import ChatEndpoint
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tuning.templates import prepare
from tests.alignment.test_reward_pool import Words
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.made import make
from tests.making.endpoint import Reply, last, serving

SAMPLE = Sample([{"role": "user", "content": "Add 2 and 3."}], "Five.", True, reference="5")


def said(text: str, refused: str = "") -> Answer:
    return Answer(key="", id="", seed=0, text=text, refused=refused)


@pytest.mark.parametrize(
    ("verdicts", "worth"),
    [
        (["[[1]]", "[[2]]"], 1.0),
        (["[[2]]", "[[1]]"], 0.0),
        (["[[1]]", "[[1]]"], 0.5),  # whatever stands first
        (["[[tie]]", "[[tie]]"], 0.5),
        (["The first.\n\n[[1]]\n", "[[tie]]"], 0.75),
    ],
)
def test_a_pair_is_worth_the_mean_of_both_orders(verdicts: list[str], worth: float) -> None:
    judge = PairwiseJudge(endpoint=ChatEndpoint(model="m"))
    first, second = judge.questions(SAMPLE)
    assert '<answer number="1">\nFive.\n' in first and '<answer number="2">\nFive.\n' in second
    assert judge.read([said(text) for text in verdicts]) == worth


def test_what_is_no_verdict_of_a_pair_is_told() -> None:
    judge = PairwiseJudge(endpoint=ChatEndpoint(model="m"))
    for wrong, words in ((said("[[1]] it is"), r"none of \[\[1\]\]"), (said("", "too long"), "too long")):
        for pair in ([wrong, said("[[1]]")], [said("[[1]]"), wrong]):
            with pytest.raises(ValueError, match=words):
                judge.read(pair)
    assert judge.questions(msgspec.convert(vars(SAMPLE) | {"answer": " 5\n"}, Sample)) == [] and judge.read([]) == 0.5


def scored(rewards: dict[str, Any], place: Path, heldout: bool, words: tuple[int, ...] = (1, 3)) -> Scores:
    """What answers of one word each, of `Words`, are worth."""
    spec = convert({"rewards": rewards}, RlhfSpec, "rlhf")
    scorer = Scorer(spec, Words(), None, ScalingSpec(reward_processes=1), Location(place))
    prompts = [Prompt(f"p{n}", [{"role": "user", "content": "Say."}], [1], "fine") for n in range(len(words))]
    completions = [Completion([word, 0], [0.0] * 2, True) for word in words]
    try:
        return scorer(prompts, completions, heldout)
    finally:
        scorer.pool.close()


def prefers_good(body: dict[str, Any], number: int) -> Reply:
    shown = last(body)
    if "<answer number" not in shown:
        return Reply("[[3]]")
    return Reply(f"Hm.\n[[{1 if shown.find('good') < shown.find('fine') else 2}]]" if "good" in shown else "Neither!")


def test_a_judge_that_weighs_nothing_is_asked_about_held_out_answers_alone(tmp_path: Path) -> None:
    """Each pair twice, once: a run that goes on asks nothing again. What cannot be read is counted, and no part of the
    sum."""
    rewards = {"python_parses": 1.0}
    with serving(prefers_good) as server:
        endpoint = msgspec.to_builtins(server.endpoint())
        rewards |= {"pairs": {"type": "pairwise_judge", "endpoint": endpoint, "weight": 0, "on_failure": "skip"}}  # type: ignore[dict-item]
        trained = scored(rewards, tmp_path, heldout=False)
        assert list(trained.by_name) == ["python_parses"] and not server.asked
        for _ in range(2):
            found = scored(rewards, tmp_path, heldout=True)
            assert len(server.asked) == 4
        assert found.by_name["pairs"][0] == 1 and math.isnan(found.by_name["pairs"][1])
        assert [line["reward"] for line in found.failures] == ["pairs"] and "Neither!" in found.failures[0]["why"]
        spec = convert({"rewards": rewards}, RlhfSpec, "rlhf")
        whole = summed(spec, 2, [found], {})
        assert whole.present.all() and whole.means()["pairs"] == 1 and list(summed(spec, 2, [trained], {}).by_name)
        weighed = {"pairs": rewards["pairs"] | {"weight": 1.0}}  # type: ignore[operator]
        scored(weighed, tmp_path, heldout=False)
        assert len(server.asked) == 4, "what was said is kept, whoever asks"
    with pytest.raises(JobError, match="pairs failed on a sample of every completion of a batch, the first: failed"):
        summed(spec, 1, [Scores({"python_parses": [1.0], "pairs": [math.nan]}, found.failures)], {})


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An untrained model that has a chat template."""
    folder = tmp_path_factory.mktemp("judge")
    write_conversations(folder / "functions.jsonl", 40)
    write_model(folder / "model", folder / "functions.jsonl", positions=1024)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prepare(tokenizer, "completion")
    tokenizer.save_pretrained(folder / "model")
    files = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    return make(Store(folder / "store"), PretrainedSpec(source="m"), {}, files, "judge")


def test_a_models_mark_is_its_expectation(chat: Artifact) -> None:
    judge = JudgeModel(best=3, least_probability=0.0)
    check_judge(chat, {"j": judge})
    (mark,) = open_judge(chat, "cpu").marks(judge, [SAMPLE])
    tokenizer = AutoTokenizer.from_pretrained(chat.local())
    model = AutoModelForCausalLM.from_pretrained(chat.local(), dtype=torch.float32).eval()
    begun = prompt_tokens(tokenizer, [{"role": "user", "content": judge.question(SAMPLE)}])
    written = [tokenizer.encode(f"[[{number}]]", add_special_tokens=False) for number in range(4)]
    shared = next(place for place in range(9) if len({tuple(ids[: place + 1]) for ids in written}) > 1)
    logits = model(torch.tensor([begun + written[0][:shared]])).logits[0, -1].detach().double()
    of_marks = logits.softmax(-1)[[ids[shared] for ids in written]]
    expected = sum(number * float(p) for number, p in enumerate(of_marks)) / float(of_marks.sum()) / 3
    assert mark == pytest.approx(expected, abs=1e-6) and 0 < expected < 1


def test_a_judge_that_would_write_something_else_has_failed(chat: Artifact) -> None:
    judging = open_judge(chat, "cpu")
    (unsure,) = judging.marks(JudgeModel(least_probability=0.9), [SAMPLE])
    assert isinstance(unsure, Failed) and "and a mark with probability" in unsure.why
    (long,) = judging.marks(JudgeModel(), [Sample([{"role": "user", "content": "x" * 5000}], "y", True)])
    assert isinstance(long, Failed) and "and the judge takes 1024" in long.why


def test_marks_without_tokens_of_their_own() -> None:
    class OneWord:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return [7, 7]

    assert mark_tokens(OneWord(), ["[[0]]", "[[1]]"]) is None


def test_a_reward_model_as_judge() -> None:
    class Model:
        def score_samples(self, samples: list[Sample]) -> list[float]:
            return [math.log(3), 0.0]

    judging = ScoreJudge(Model())  # type: ignore[arg-type]
    assert judging.marks(JudgeModel(), [SAMPLE, SAMPLE]) == pytest.approx([0.75, 0.5])


def test_the_judge_and_its_reward_go_together(chat: Artifact) -> None:
    spec = convert({"rewards": {"python_parses": 1.0, "judge_model": 0.0}}, RlhfSpec, "rlhf")
    with pytest.raises(SpecError, match="`judge_model` and the input `judge` go together"):
        spec.check_inputs({"model": chat, "prompts": chat})
    spec.check_inputs({"model": chat, "prompts": chat, "judge": chat})
    assert "judge" in RlhfSpec().unused_inputs() and "judge" not in spec.unused_inputs()
    assert spec.model_judges["judge_model"].watches and not JudgeModel().watches
    assert Judge(endpoint=ChatEndpoint(model="m"), weight=0).watches
    with pytest.raises(SpecError, match=r"rlhf.rewards.j.criteria: is empty"):
        convert({"rewards": {"j": {"type": "judge_model", "criteria": " "}}}, RlhfSpec, "rlhf")
    plain = {name: file for name, file in chat.record.files.items() if name != "chat_template.jinja"}
    bare = {name: chat.location.read_bytes(name) for name in plain}
    without = make(Store(Path(chat.store_url).parent / "bare"), PretrainedSpec(source="b"), {}, bare, "bare")
    with pytest.raises(InputError, match="has no chat template"):
        check_judge(without, {"j": JudgeModel()})
