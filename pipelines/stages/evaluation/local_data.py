"""Data of lm-eval's tasks out of local files, in the fields that the tasks expect of the hub's data sets.

Only the data are replaced: prompt, choices and metrics stay lm-eval's own. Several published files hold prompts that
are formatted already (open_lm, llm-foundry); what their format added is taken off again, so that each record is what
the hub's is, and the prompt is lm-eval's. docs/evaluation.md has the table, and where data differ from the hub's.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.core.errors import InputError, nearest

Row = dict[str, Any]
Place = Path | zipfile.Path
LETTERS = "ABCD"
LABEL = re.compile(r"^[A-Z][A-Z0-9 ,;:/&'()-]*\. ")  # `BACKGROUND. ` before a part of an abstract


@dataclass(frozen=True)
class LocalTask:
    """The documents of one task: the questions, and solved examples where the files hold some."""

    test: list[Row]
    dev: list[Row] | None = None


def load(folder: Path, name: str) -> dict[str, LocalTask]:
    """The documents of a task, or of the subjects of a group that are there, by lm-eval's name of the task.

    Raises InputError for a task that no reader knows, and for files that are missing, ambiguous or not as published.
    """
    if not folder.is_dir():
        raise InputError(f"benchmark.data: {folder} is not a folder")
    if name in SINGLE:
        patterns, read = SINGLE[name]
        path = _find(folder, name, patterns)
        try:
            rows = list(read(path))
        except (KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
            raise InputError(f"{path}: not the data of {name} as published: {error!r}") from None
        return {name: LocalTask(_filled(rows, path))}
    for group, (patterns, layout) in GROUPS.items():
        if name == group or name.startswith(layout.prefix):
            found = _find(folder, group, patterns)
            place = zipfile.Path(found) if found.suffix == ".zip" else found.parent
            subjects = dict(_subjects(place, layout))
            chosen = {name: subjects[name]} if name in subjects else subjects if name == group else {}
            if not chosen:
                raise InputError(f"{found} has nothing of {name}", nearest(name, list(subjects)))
            return chosen
    raise InputError(
        f"benchmark.tasks: there is no reader of local files for {name}",
        f"{nearest(name, [*SINGLE, *GROUPS])} Or leave benchmark.data empty, for the hub's.",
    )


def _find(folder: Path, name: str, patterns: tuple[str, ...]) -> Path:
    """What matches the first pattern that anything matches."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise InputError(
                f"benchmark.data: {found[0]} and {found[1]} could both be {name}", "Name a smaller folder."
            )
        if found:
            return found[0]
    raise InputError(f"benchmark.data: {folder} holds no data of {name}", f"It needs {' or '.join(patterns)}.")


def _filled(rows: list[Row], path: Place) -> list[Row]:
    if not rows:
        raise InputError(f"{path} is empty")
    return rows


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, filter(str.strip, file))


def read_arc(path: Path) -> Iterator[Row]:
    """open_lm's `query`, `choices`, `gold` as AI2's `question`, `choices`, `answerKey`."""
    for row in _json_lines(path):
        question = re.fullmatch(r"Question: (.*)\n", row["query"], re.DOTALL)[1]  # type: ignore[index]
        labels = list(LETTERS)[: len(row["choices"])]
        yield {
            "question": question,
            "choices": {"text": row["choices"], "label": labels},
            "answerKey": labels[row["gold"]],
        }


def read_copa(path: Path) -> Iterator[Row]:
    """open_lm's joined premise and connector (`The man ..., therefore`) as SuperGLUE's fields."""
    asked = {"because": "cause", "therefore": "effect"}
    for row in _json_lines(path):
        premise, connector = row["query"].rsplit(", ", 1)
        first, second = row["choices"]
        # The last character of a premise is its full stop, which lm-eval takes off.
        yield {
            "premise": premise + ".",
            "question": asked[connector],
            "choice1": first,
            "choice2": second,
            "label": row["gold"],
        }


def read_lambada(path: Path) -> Iterator[Row]:
    """open_lm's `context` and `continuation` as one text, whose last word is asked for."""
    for row in _json_lines(path):
        yield {"text": f"{row['context']} {row['continuation']}"}


def read_pubmedqa(path: Path) -> Iterator[Row]:
    """llm-foundry's prompt as PubMedQA's parts of the abstract (their labels taken off), question and decision."""
    for row in _json_lines(path):
        prompt = re.fullmatch(
            r"Context: (.*)\nQuestion: (.*)\nA\. yes\nB\. no\nC\. maybe\nAnswer: ", row["context"], 16
        )
        contexts = [LABEL.sub("", line) for line in prompt[1].split("\n")]  # type: ignore[index]
        decision = row["continuation"]
        yield {"CONTEXTS": contexts, "QUESTION": prompt[2], "final_decision": decision}  # type: ignore[index]


def read_wikitext(path: Path) -> Iterator[Row]:
    """The articles of a WikiText file, one a page: each begins with a line ` = Title = `."""
    page: list[str] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        bare = line.replace("= = =", "===").replace("= =", "==").strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            if "".join(page).strip():
                yield {"page": "\n".join(page)}
            page = []
        page.append(line)
    if "".join(page).strip():
        yield {"page": "\n".join(page)}


def read_mmlu(place: Place) -> Iterator[Row]:
    """MMLU's CSV, without a header: question, four choices, letter."""
    with place.open(encoding="utf-8", newline="") as file:
        for question, *choices, letter in csv.reader(file):
            yield {"question": question, "choices": choices, "answer": LETTERS.index(letter)}


def read_headed(place: Place) -> Iterator[Row]:
    """CSV with a header (CMMLU, C-Eval), whose names are the fields of the hub's data set."""
    with place.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            if None in row.values() or None in row:
                raise ValueError(f"a row of another length than the header: {row}")
            yield {name: value for name, value in row.items() if name}


@dataclass(frozen=True)
class Layout:
    """How the files of a group lie: a folder of questions and one of solved examples, a file a subject."""

    prefix: str
    """What lm-eval's tasks are called before the subject."""
    split: str
    ending: str
    """Of the questions' files, after the subject; `{}` stands for the split."""
    read: Callable[[Place], Iterator[Row]]
    metrics: tuple[str, ...]
    """What the group's figures are: means over the questions of all subjects that are there."""


def _subjects(place: Place, layout: Layout) -> Iterator[tuple[str, LocalTask]]:
    ending = layout.ending.format(layout.split)
    files: list[Any] = list((place / layout.split).iterdir())
    for file in sorted(files, key=lambda one: one.name):
        if not file.name.endswith(ending):
            continue
        subject = file.name.removesuffix(ending)
        examples = place / "dev" / (subject + layout.ending.format("dev"))
        try:
            test = _filled(list(layout.read(file)), file)
            dev = _filled(list(layout.read(examples)), examples) if examples.exists() else None
        except (KeyError, ValueError) as error:
            raise InputError(f"{file}: not as published: {error!r}") from None
        yield layout.prefix + subject, LocalTask(test, dev)


SINGLE: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[Row]]]] = {
    "arc_easy": (("**/arc_easy.jsonl",), read_arc),
    "arc_challenge": (("**/arc_challenge.jsonl",), read_arc),
    "copa": (("**/copa.jsonl",), read_copa),
    "lambada_openai": (("**/lambada_openai.jsonl",), read_lambada),
    "pubmedqa": (("**/pubmed_qa_labeled.jsonl",), read_pubmedqa),
    "wikitext": (("**/wiki.test.raw", "**/wikitext-2/test.txt", "**/wikitext-2/valid.txt"), read_wikitext),
}
GROUPS: dict[str, tuple[tuple[str, ...], Layout]] = {
    "mmlu": (("**/mmlu/test", "**/mmlu/data/test"), Layout("mmlu_", "test", "_{}.csv", read_mmlu, ("acc",))),
    "cmmlu": (
        ("**/cmmlu/test", "**/cmmlu/data/test"),
        Layout("cmmlu_", "test", ".csv", read_headed, ("acc", "acc_norm")),
    ),
    "ceval-valid": (
        ("**/ceval*.zip", "**/ceval/val"),
        Layout("ceval-valid_", "val", "_{}.csv", read_headed, ("acc", "acc_norm")),
    ),
}
