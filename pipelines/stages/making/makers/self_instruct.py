"""Self-Instruct (Wang et al. 2022, arXiv:2212.10560): tasks that a model writes, shown a few that are there already.

As Alpaca (Taori et al. 2023) simplified it: one request asks for several tasks with their inputs and outputs at once,
and classification is no kind of its own. Rounds are as the paper's: what a round kept may be shown in the next.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.naming import File
from pipelines.stages.corpus.documents import keyed_hash
from pipelines.stages.making.makers.maker import Count, Language, Made, Maker, Means, Positive, records
from pipelines.stages.making.novelty import words
from pipelines.stages.making.parsing import Unreadable, said, said_or_nothing
from pipelines.stages.making.sources import read_objects

if TYPE_CHECKING:
    from pipelines.stages.generation.asking import Answer

ROUNDS_IN_VAIN = 10
PROMPTS = {
    "english": """Write {count} new tasks that someone could set an assistant which reads and writes text.

- Let them differ: in kind (explain, rewrite, classify, compute, plan, compare, invent, write code, hold a conversation,
  ...), in subject, in length and in wording; some are questions, some are orders.
- A task must be solvable by text alone: no pictures, no sound, no files, no web page, nothing done in the world.
- "instruction": the task in one or two sentences of English. "input": what the task is about, in full and realistic,
  at most 100 words, where the task needs it; else an empty string. "output": the best answer.
- Write one JSON object with these three fields for each task, each on a line of its own, and nothing else.

Tasks that exist already:
{examples}

{count} new ones:""",
    "chinese": """请为一个只能读写文字的助手编写 {count} 个新的任务。

- 任务要多样：类型不同（解释、改写、分类、计算、计划、比较、创作、编程、对话等），
  题材、长短和说法也不同；有的是提问，有的是要求。
- 任务必须只靠文字就能完成：不涉及图片、声音、文件、网页，也不需要在现实中做任何事。
- "instruction"：用一两句中文写出任务。
  "input"：任务需要的内容，完整而真实，不超过 200 字；不需要时为空字符串。"output"：最好的回答。
- 每个任务写成一行 JSON 对象，含这三个字段，除此之外什么都不写。

已有的任务：
{examples}

{count} 个新任务：""",
}


@dataclass(frozen=True)
class Task:
    """An instruction, what it is about ("" where it needs nothing), and an answer."""

    instruction: str
    input: str
    output: str

    def line(self) -> str:
        return json.dumps(self.__dict__, ensure_ascii=False)


class SelfInstruct(Maker, frozen=True):
    """Tasks in the manner of Self-Instruct, as many as are wanted."""

    counts: ClassVar[bool] = True
    seeds: File = "package:pipelines/data/seed_tasks.jsonl"
    """Tasks written by people, JSON lines or an array: `instruction`, `input`, `output`, or `instances` of the last
    two, as Self-Instruct's file has them."""
    tasks: Positive = 1000
    """Tasks to make; published are 52,000."""
    language: Language = "english"
    """Language of the prompt."""
    seed_examples: Positive = 6
    """Seed tasks shown in each request; as the paper's (Alpaca: 3)."""
    made_examples: Count = 2
    """Tasks made before that are shown in each request; as the paper's (Alpaca: 0)."""
    tasks_per_request: Positive = 20
    """Tasks asked for at once; as Alpaca's."""
    requests_per_round: Positive = 5
    """Requests that know of the same tasks; as published. More are asked at once, fewer see newer tasks."""
    min_words: Positive = 4
    """Shortest instruction; a Chinese character is a word. As published."""
    max_words: Positive = 150
    """Longest instruction; as published."""
    refused_words: tuple[str, ...] = (
        "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
        "go to", "video", "audio", "music", "flowchart", "diagram",
    )  # fmt: skip
    """Words of instructions that text alone cannot follow; as published (Alpaca's list)."""
    refused_beginnings: tuple[str, ...] = ("write a program",)
    """Beginnings of instructions that models fall into; as published."""

    def check(self, where: str) -> None:
        if self.min_words > self.max_words:
            raise SpecError(f"{where}.min_words: above max_words", "Lower it.")

    def make(self, means: Means) -> None:
        seeds = read_seeds(self.seeds)
        if len(seeds) < self.seed_examples:
            raise InputError(
                f"{self.seeds}: {len(seeds)} seed tasks, and a request shows {self.seed_examples}",
                "Give more, or lower maker.seed_examples.",
            )
        for number, seed in enumerate(seeds):  # what is made may not be like them
            means.collection.know(seed.instruction, f"seed {number + 1}")
        made: list[Task] = []
        number = in_vain = 0
        while len(made) < self.tasks:
            draw = random.Random(keyed_hash(means.seed, "examples", str(number)))
            requests = [self._request(number, k, seeds, made, draw) for k in range(self.requests_per_round)]
            before = len(made)
            for answer in means.ask(requests):
                made += self._kept(answer, means, self.tasks - len(made))
            in_vain = 0 if len(made) > before else in_vain + 1
            if in_vain == ROUNDS_IN_VAIN:
                means.notice(
                    f"self-instruct ends with {len(made)} of {self.tasks} tasks: {in_vain} rounds in a row made none "
                    f"that could be kept ({means.collection.commonest()})"
                )
                return
            means.progress(len(made), self.tasks)
            number += 1

    def _request(self, number: int, k: int, seeds: list[Task], made: list[Task], draw: random.Random) -> Any:
        from pipelines.stages.generation.asking import Request

        shown = draw.sample(seeds, self.seed_examples) + draw.sample(made, min(self.made_examples, len(made)))
        draw.shuffle(shown)
        examples = "\n".join(task.line() for task in shown)
        text = PROMPTS[self.language].format(count=self.tasks_per_request, examples=examples)
        return Request(f"{number}.{k}", [{"role": "user", "content": text}])

    def _kept(self, answer: Answer, means: Means, wanted: int) -> Iterator[Task]:
        """The tasks of an answer that are kept, at most so many as are wanted; the others are counted."""
        for id, record in records(answer, means.collection):
            try:
                task = Task(said(record, "instruction"), said_or_nothing(record, "input"), said(record, "output"))
            except Unreadable as error:
                means.collection.reject(id, str(error))
                continue
            if reason := "more than were wanted" if not wanted else self._unfit(task.instruction):
                means.collection.reject(id, reason)
                continue
            whole = f"{task.instruction}\n{task.input}" if task.input else task.instruction
            if means.collection.offer(Made(id, whole, task.output, answer, compared=task.instruction)):
                wanted -= 1
                yield task

    def _unfit(self, instruction: str) -> str:
        """Why an instruction is not used; empty: it is."""
        count = len(words(instruction))
        if count < self.min_words:
            return f"instruction too short: {count} words"
        if count > self.max_words:
            return f"instruction too long: {count} words"
        for word in self.refused_words:
            if re.search(rf"\b{re.escape(word)}\b", instruction, re.IGNORECASE):
                return f"refused word: {word}"
        for beginning in self.refused_beginnings:
            if instruction.casefold().startswith(beginning.casefold()):
                return f"refused beginning: {beginning}"
        if not (instruction[0].isalnum() or instruction[0] in "\"'“‘「《¿¡("):
            return "begins with a sign"
        return ""


def read_seeds(path: str) -> list[Task]:
    """Seed tasks, one of each instruction. Raises InputError, with the line, where one is not as it should be."""
    found = []
    for line, record in read_objects(path):
        instance = record
        if "instances" in record:
            instances = record["instances"]
            if not (isinstance(instances, list) and instances and isinstance(instances[0], dict)):
                raise InputError(f"{path}, line {line}: `instances` is no list of objects")
            instance = instances[0]
        try:
            task = Task(said(record, "instruction"), said_or_nothing(instance, "input"), said(instance, "output"))
        except Unreadable as error:
            field = str(error).partition(": ")[2]
            raise InputError(f"{path}, line {line}: {field}", "A seed has instruction, input and output.") from None
        found.append(task)
    return found
