"""ROUGE-1, -2, -L (Lin 2004) and BLEU-4 (Papineni et al. 2002) of answers against one reference each, from 0 to 1.

By rouge-score (a port of ROUGE-1.5.5; F measure, no stemming) and sacrebleu (over all texts at once), with bootstrapped
intervals (Efron and Tibshirani 1993, percentiles). `bleu4_sentence` is nltk's BLEU of each answer, smoothed by method 3
of Chen and Cherry 2014, and the mean of them. Chinese is counted by characters and by words, each with metrics of its
own, and once more as ChatGLM's and HuaTuo's evaluations do (`chatglm_...`).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cluster.core.errors import NotReadyError
from pipelines.stages.evaluation.results import Outcome, Result, percentiles, resample

ROUGE = ("rouge1", "rouge2", "rougeL")
BLEU, SENTENCE_BLEU = "bleu4", "bleu4_sentence"
CHATGLM = {"rouge-1": "chatglm_rouge1", "rouge-2": "chatglm_rouge2", "rouge-l": "chatglm_rougeL"}
CHATGLM_BLEU = "chatglm_bleu4"
PACKAGES = ("jieba", "nltk", "rouge_chinese", "rouge_score", "sacrebleu")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """What n-grams are made of. `bleu` is sacrebleu's name for the same, `none` for texts cut by `cut`."""

    suffix: str
    cut: Callable[[str], list[str]]
    bleu: str

    def tokenize(self, text: str) -> list[str]:  # as rouge-score calls it
        return self.cut(text)


def require() -> None:
    """Raise NotReadyError where a package is missing that scores."""
    missing = [name for name in PACKAGES if not importlib.util.find_spec(name)]
    if missing:
        raise NotReadyError(
            f"generation: ROUGE and BLEU need {', '.join(missing)}", "`pip install 'trunkline[evaluate]'`."
        )


@functools.cache
def units(language: str) -> tuple[Units, ...]:
    """How texts of a language are cut."""
    if language == "english":
        from rouge_score.tokenizers import DefaultTokenizer

        return (Units("", DefaultTokenizer(use_stemmer=False).tokenize, "13a"),)
    return (Units("_characters", _characters, "char"), Units("_words", lambda text: _words(_jieba(text)), "none"))


def score(
    answers: Sequence[str], references: Sequence[str], ids: Sequence[str], *, language: str, task: str, seed: int
) -> tuple[list[Result], list[Outcome]]:
    """Every metric of the answers, and for those that are means what each answer gave. There must be an answer."""
    results: list[Result] = []
    outcomes: list[Outcome] = []

    def means(each: dict[str, Array]) -> None:
        for metric, values in each.items():
            pairs = zip(ids, values, strict=True)
            outcomes.extend(Outcome(task=task, metric=metric, id=id, value=float(value)) for id, value in pairs)
            results.append(bootstrapped(task, metric, values, seed))

    for unit in units(language):
        means({name + unit.suffix: values for name, values in _each(answers, references, unit).items()})
        statistics = _bleu_statistics(answers, references, unit)
        results.append(bootstrapped(task, BLEU + unit.suffix, statistics, seed, _bleu))
    if language == "chinese":
        means(chatglm(answers, references))
    return results, outcomes


def bootstrapped(
    task: str, metric: str, rows: Array, seed: int, figure: Callable[[Array], float] | None = None
) -> Result:
    """A figure of rows (one a sample), or their mean, and its 95 % interval from rows drawn again with replacement."""
    aggregation: Literal["", "mean"] = "" if figure else "mean"
    figure = figure or (lambda chosen: float(chosen.mean()))
    drawn = resample(lambda chosen: figure(rows[list(chosen)]), len(rows), seed)
    low, high = percentiles(drawn)
    return Result(
        task=task,
        metric=metric,
        value=figure(rows),
        stderr=float(np.std(drawn, ddof=1)),
        ci_low=low,
        ci_high=high,
        ci_method="bootstrap",
        samples=len(rows),
        aggregation=aggregation,
    )


def _each(answers: Sequence[str], references: Sequence[str], unit: Units) -> dict[str, Array]:
    """Metrics that are means over answers: metric to values, shape (answers,)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_score.rouge_scorer import RougeScorer

    scorer, smooth = RougeScorer(list(ROUGE), tokenizer=unit), SmoothingFunction().method3
    found: dict[str, list[float]] = {name: [] for name in (*ROUGE, SENTENCE_BLEU)}
    for answer, reference in zip(answers, references, strict=True):
        for name, value in scorer.score(reference, answer).items():
            found[name].append(value.fmeasure)
        bleu = sentence_bleu([unit.cut(reference)], unit.cut(answer), smoothing_function=smooth)
        found[SENTENCE_BLEU].append(float(bleu))
    return {name: np.array(values) for name, values in found.items()}


def chatglm(answers: Sequence[str], references: Sequence[str]) -> dict[str, Array]:
    """The metrics of ChatGLM-6B's evaluate.sh (ptuning/main.py), from 0 to 1: metric to values, shape (answers,).

    ROUGE by rouge-chinese on jieba's words, BLEU-4 by nltk on all characters, blanks too, smoothed by method 3. Where
    answer or reference is empty, at which rouge-chinese fails, all are 0.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from rouge_chinese import Rouge

    rouge, smooth = Rouge(), SmoothingFunction().method3
    found: dict[str, list[float]] = {name: [] for name in (*CHATGLM.values(), CHATGLM_BLEU)}
    for answer, reference in zip(answers, references, strict=True):
        if not answer.strip() or not reference.strip():
            for values in found.values():
                values.append(0.0)
            continue
        (scores,) = rouge.get_scores(" ".join(_jieba(answer)), " ".join(_jieba(reference)))
        for theirs, ours in CHATGLM.items():
            found[ours].append(float(scores[theirs]["f"]))
        bleu = sentence_bleu([list(reference)], list(answer), smoothing_function=smooth)
        found[CHATGLM_BLEU].append(float(bleu))
    return {name: np.array(values) for name, values in found.items()}


def _bleu_statistics(answers: Sequence[str], references: Sequence[str], unit: Units) -> Array:
    """Lengths of answer and reference, n-grams found and n-grams there are (n from 1 to 4); shape (answers, 10)."""
    from sacrebleu.metrics.bleu import BLEU as Bleu

    metric = Bleu(tokenize=unit.bleu, effective_order=True)  # which bears on single sentences' scores alone
    rows = []
    for texts in zip(answers, references, strict=True):
        answer, reference = (" ".join(unit.cut(text)) if unit.bleu == "none" else text for text in texts)
        found: Any = metric.sentence_score(answer, [reference])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return np.array(rows, dtype=np.float64)


def _bleu(statistics: Array) -> float:
    from sacrebleu.metrics.bleu import BLEU as Bleu

    sums = statistics.sum(axis=0).astype(int).tolist()
    return float(Bleu.compute_bleu(sums[2:6], sums[6:10], sums[0], sums[1], smooth_method="exp").score) / 100


def _characters(text: str) -> list[str]:
    return [character for character in text if not character.isspace()]


def _jieba(text: str) -> list[str]:
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return list(jieba.cut(text))


def _words(words: list[str]) -> list[str]:
    return [word for word in words if not word.isspace()]
