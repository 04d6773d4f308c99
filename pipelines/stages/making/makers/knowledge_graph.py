"""Questions from a knowledge graph, as HuaTuo (Wang et al. 2023, arXiv:2304.06975) made its own from CMeKG."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.core.errors import InputError
from pipelines.stages.making.makers.facts import Entity, FactsMaker
from pipelines.stages.making.sources import read_objects

ENTITY_FIELDS = ("中心词", "entity", "name")
PROMPTS = {
    "english": """These facts about "{name}" are from a knowledge graph:
{facts}

Write {count} questions that somebody who knows nothing of the graph could ask, each with its answer. Some are short,
some describe a case first. An answer is a few sentences that say what follows from the facts, in good English, and
nothing that contradicts them or goes far beyond them; do not mention the facts or a graph. Write each as a JSON object
with the fields "question" and "answer", one a line, and nothing else.""",
    "chinese": """以下是知识图谱中关于“{name}”的事实：
{facts}

请写出 {count} 个不了解该图谱的人可能提出的问题，并给出回答。有的问题简短，有的先描述具体情况。
回答用几句通顺的中文，说明由这些事实可以得出的结论，不得与之矛盾，也不要远远超出它们；不要提到“事实”或“图谱”。
每个问题写成一行 JSON 对象，含 "question" 和 "answer" 两个字段，除此之外什么都不写。""",
}


class KnowledgeGraph(FactsMaker, frozen=True):
    """Questions about the entities of a knowledge graph: JSON, one object an entity, in CMeKG's shape.

    `{"class": ..., "中心词": "肝癌", "药物": ["索拉非尼", ...], "发病部位": ["肝脏"]}`: a field for the entity, others
    for its relations, each with a text or a list of texts.
    """

    entity_field: str = ""
    """Field with the entity; empty: the first there is of `中心词`, `entity`, `name`."""
    ignored_fields: tuple[str, ...] = ("class", "id")
    """Fields that are no relations."""

    def entities(self) -> Iterator[Entity]:
        for line, record in read_objects(self.path):
            fields = (self.entity_field,) if self.entity_field else ENTITY_FIELDS
            field = next((name for name in fields if isinstance(record.get(name), str) and record[name].strip()), "")
            if not field:
                raise InputError(
                    f"{self.path}, line {line}: no text in {' or '.join(fields)}, where the entity belongs",
                    f"Name its field in maker.entity_field; there are {', '.join(map(str, record))[:200]}.",
                )
            facts = {}
            for relation, values in record.items():
                if relation in (field, *self.ignored_fields):
                    continue
                listed = values if isinstance(values, list) else [values]
                if wrong := next((value for value in listed if not isinstance(value, str)), None):
                    raise InputError(
                        f"{self.path}, line {line}: {relation} holds {type(wrong).__name__}, where text belongs",
                        "Leave the field out by maker.ignored_fields.",
                    )
                facts[relation] = [value.strip() for value in listed if value and value.strip()]
            yield Entity(record[field].strip(), facts)

    def prompt(self, name: str, facts: str, count: int) -> str:
        return PROMPTS[self.language].format(name=name, facts=facts, count=count)
