"""ROUGE-1, -2, -L (Lin 2004) and BLEU-4 (Papineni et al. 2002) of answers against one reference each, from 0 to 1.

By rouge-score (a port of ROUGE-1.5.5; F measure, no stemming) and sacrebleu (over all texts at once), with bootstrapped
intervals (Efron and Tibshirani 1993, percentiles). `bleu4_sentence` is the convention of ChatGLM's and Huatuo's
evaluations: nltk's BLEU of each answer, smoothed by method 3 of Chen and Cherry 2014, and the mean of them; beside it
those take the ROUGE of jieba's words. Chinese is counted by characters and by words, each with metrics of its own.
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
    missing = [name for name in ("jieba", "nltk", "rouge_score", "sacrebleu") if not importlib.util.find_spec(name)]
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
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return (Units("_characters", _characters, "char"), Units("_words", lambda text: _words(jieba.lcut(text)), "none"))


def score(
    answers: Sequence[str], references: Sequence[str], ids: Sequence[str], *, language: str, task: str, seed: int
) -> tuple[list[Result], list[Outcome]]:
    """Every metric of the answers, and for those that are means what each answer gave. There must be an answer."""
    results: list[Result] = []
    outcomes: list[Outcome] = []
    for unit in units(language):
        for name, values in _each(answers, references, unit).items():
            metric = name + unit.suffix
            outcomes += [
                Outcome(task=task, metric=metric, id=id, value=float(value))
                for id, value in zip(ids, values, strict=True)
            ]
            results.append(bootstrapped(task, metric, values, seed))
        statistics = _bleu_statistics(answers, references, unit)
        results.append(bootstrapped(task, BLEU + unit.suffix, statistics, seed, _bleu))
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


def _words(words: list[str]) -> list[str]:
    return [word for word in words if not word.isspace()]
