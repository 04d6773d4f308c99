"""Questions and answers about things of which facts are known, however they are stored: what two makers share."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from pipelines.stages.corpus.documents import keyed_hash
from pipelines.stages.making.makers.maker import Language, Made, Maker, Means, Positive, records
from pipelines.stages.making.parsing import Unreadable, said


@dataclass(frozen=True)
class Entity:
    """A thing and what is known of it: relation to values."""

    name: str
    facts: dict[str, list[str]]


class FactsMaker(Maker, frozen=True):
    """Base of the makers that ask about facts."""

    path: File = ""
    """The file of facts."""
    language: Language = "english"
    """Language of the prompt."""
    requests_per_entity: Positive = 1
    """Requests about each thing, with facts of their own choice."""
    pairs_per_request: Positive = 5
    """Questions, with their answers, that a request asks for."""
    facts_per_request: Positive = 12
    """Facts told in a request, drawn from those of the thing."""
    grounded: bool = True
    """Leave out answers that name none of the facts that were told."""
    max_entities: int = 0
    """Things to ask about, the first ones; 0 takes all."""
    system: str = ""
    """A system message that is put before every conversation."""

    def entities(self) -> Iterator[Entity]:
        """The things of the file. Raises InputError, with the line, where one cannot be read."""
        raise NotImplementedError

    def prompt(self, name: str, facts: str, count: int) -> str:
        """What is asked for `count` questions about a thing."""
        raise NotImplementedError

    def check(self, where: str) -> None:
        if not self.path:
            raise SpecError(f"{where}.path: is empty", "Name the file of facts.")

    def make(self, means: Means) -> None:
        from pipelines.stages.generation.asking import Request

        entities = list(self.entities())[: self.max_entities or None]
        requests: list[Any] = []
        told: list[tuple[Entity, list[str]]] = []
        for number, entity in enumerate(entities):
            if not any(entity.facts.values()):
                means.collection.reject(str(number), f"no facts: {entity.name}")
                continue
            for k in range(self.requests_per_entity):
                draw = random.Random(keyed_hash(means.seed, "facts", f"{number}.{k}"))
                facts = _chosen(entity.facts, self.facts_per_request, draw)
                lines = "\n".join(f"- {relation}: {'; '.join(values)}" for relation, values in facts.items())
                text = self.prompt(entity.name, lines, self.pairs_per_request)
                requests.append(Request(f"{number}.{k}", [{"role": "user", "content": text}]))
                told.append((entity, [value for values in facts.values() for value in values]))
        for answer, (entity, values) in zip(means.ask(requests), told, strict=True):
            self._take(answer, entity, values, means)

    def _take(self, answer: Any, entity: Entity, values: list[str], means: Means) -> None:
        for id, record in records(answer, means.collection):
            try:
                question, reply = said(record, "question"), said(record, "answer")
            except Unreadable as error:
                means.collection.reject(id, str(error))
                continue
            if self.grounded and not _names_one(reply, values):
                means.collection.reject(id, "names no fact")
                continue
            means.collection.offer(Made(id, question, reply, answer, topic=entity.name, system=self.system))


def _chosen(facts: dict[str, list[str]], most: int, draw: random.Random) -> dict[str, list[str]]:
    """At most so many values, in their order, under their relations."""
    every = [(relation, place) for relation, values in facts.items() for place in range(len(values))]
    taken = set(draw.sample(every, min(most, len(every))))
    found = {
        relation: [value for place, value in enumerate(values) if (relation, place) in taken]
        for relation, values in facts.items()
    }
    return {relation: values for relation, values in found.items() if values}


def _names_one(text: str, values: list[str]) -> bool:
    """Whether a text names a value; of one with another name in brackets, either."""
    text = text.casefold()
    parts = (part for value in values for part in value.casefold().replace("（", "(").replace("）", ")").split("("))
    return any(part.strip(" )") in text for part in parts if part.strip(" )"))
