"""Talks of patients and doctors from a table of diseases, as ChatDoctor (Li et al. 2023, arXiv:2303.14070) made
GenMedGPT-5k from its own."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator

from cluster.core.errors import InputError
from pipelines.stages.making.makers.facts import Entity, FactsMaker
from pipelines.stages.making.makers.maker import Positive
from pipelines.stages.making.sources import read_table

PROMPTS = {
    "english": """From a table of diseases, about {name}:
{facts}

Write {count} exchanges of a patient and a doctor. The patient tells, in the first person and in everyday words, some
of these symptoms and what else a patient would say, and does not know the disease. The doctor says which disease it may
be, which tests would tell, and what is commonly given for it, as far as the table has it. Let the patients differ.
Write each as a JSON object with the fields "question" (the patient) and "answer" (the doctor), one a line, and nothing
else.""",
    "chinese": """疾病表中关于“{name}”的内容：
{facts}

请写出 {count} 段病人与医生的对话。
病人用日常语言、以第一人称讲述其中一些症状和病人通常会说的其他情况，并不知道自己得了什么病。
医生说明可能是什么病、哪些检查可以确诊、通常用什么治疗，以表中内容为限。各个病人要不同。
每段写成一行 JSON 对象，含 "question"（病人）和 "answer"（医生）两个字段，除此之外什么都不写。""",
}


class DiseaseTable(FactsMaker, frozen=True):
    """Patients' words and a doctor's answers from a table in CSV, one row a disease, in ChatDoctor's shape.

    A cell is a text, or a list as Python writes one (`['Insomnia', 'Dizziness']`), over several lines, too.
    """

    name_column: str = "disease"
    """Column of the disease's name."""
    columns: tuple[str, ...] = ("Symptom", "TestsAndProcedures", "commonMedications")
    """Columns of the facts that are told; as ChatDoctor's table calls them (`reason` is long)."""
    pairs_per_request: Positive = 1
    """Talks that a request asks for."""
    requests_per_entity: Positive = 7
    """Requests about each disease, with facts of their own choice; 796 diseases make some 5,500 talks."""

    def entities(self) -> Iterator[Entity]:
        for line, row in read_table(self.path):
            if missing := [name for name in (self.name_column, *self.columns) if name not in row]:
                raise InputError(
                    f"{self.path} has no column {', '.join(missing)}, but {', '.join(row)}",
                    "Set maker.name_column and maker.columns.",
                )
            name = row[self.name_column].strip()
            if not name:
                raise InputError(f"{self.path}, line {line}: nothing under {self.name_column}", "Give each row a name.")
            yield Entity(name, {column: self._values(row[column], line, column) for column in self.columns})

    def prompt(self, name: str, facts: str, count: int) -> str:
        return PROMPTS[self.language].format(name=name, facts=facts, count=count)

    def _values(self, cell: str, line: int, column: str) -> list[str]:
        """The values of a cell."""
        text = cell.strip()
        if not text.startswith("["):
            return [text] if text else []
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        texts = isinstance(found, list) and all(isinstance(value, str) for value in found)
        if not texts or len(found) != _strings(text):  # without a comma two texts are one
            raise InputError(
                f"{self.path}, line {line}: the cell under {column} begins like a list and is none: {text[:60]!r}",
                "Write it as ['one', 'two'], or as text.",
            )
        return [" ".join(value.split()) for value in found if value.strip()]


def _strings(text: str) -> int:
    """How many texts in quotes there are."""
    return sum(token.type == tokenize.STRING for token in tokenize.generate_tokens(io.StringIO(text).readline))
