"""What makers made: kept, or left out and counted by the reason."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Any

from pipelines.specs import SyntheticSpec
from pipelines.stages.making.makers.maker import Made
from pipelines.stages.making.novelty import Novelty

# Signs by which chat models mark turns: whoever wrote them did not mean text.
CONTROL = re.compile(r"<\|[a-z_]{2,24}\|>|<eo[a-z]{1,2}>|</?s>|\[/?INST\]|<(?:start|end)_of_turn>|</?think>")
SHOWN_REASONS = 3

Row = dict[str, Any]


class Gathered:
    """The `Collection` that the stage writes."""

    def __init__(self, spec: SyntheticSpec, license: str) -> None:
        self._spec, self._license = spec, license
        self.rows: list[Row] = []
        self.topics: dict[str, str] = {}
        """Topic of each row that has one, by its id."""
        self.rejected: list[dict[str, str]] = []
        self.reasons: Counter[str] = Counter()
        self._whole: dict[str, str] = {}
        self._novel: dict[str, tuple[Novelty, list[str]]] = {}

    def offer(self, made: Made) -> bool:
        reason = self._unfit(made) or self._repeated(made)
        if reason:
            self.reject(made.id, reason)
            return False
        messages = [
            *([{"role": "system", "content": made.system}] if made.system else []),
            {"role": "user", "content": made.request},
            {"role": "assistant", "content": made.answer},
        ]
        maker = self._spec.maker.__struct_config__.tag
        origin = {
            "maker": maker,
            "request": made.asked.key,
            "model": made.asked.model,
            "endpoint": self._spec.endpoint.url,
            "seed": made.asked.seed,
        }
        source = f"{maker} by {made.asked.model}"
        self.rows.append(
            {"id": made.id, "messages": messages, "source": source, "license": self._license, "origin": origin}
        )
        if made.topic:
            self.topics[made.id] = made.topic
        return True

    def reject(self, id: str, reason: str) -> None:
        self.rejected.append({"id": id, "reason": reason})
        self.reasons[reason.partition(":")[0]] += 1

    def know(self, text: str, name: str) -> None:
        novelty, names = self._of_topic("")
        novelty.add(text)
        names.append(name)

    def commonest(self) -> str:
        shown = [f"{reason}: {count}" for reason, count in self.reasons.most_common(SHOWN_REASONS)]
        return ", ".join(shown) or "nothing was offered"

    def _unfit(self, made: Made) -> str:
        spec = self._spec
        bounds = (
            ("request", made.request, spec.min_request_chars, spec.max_request_chars),
            ("answer", made.answer, spec.min_answer_chars, spec.max_answer_chars),
        )
        for name, text, least, most in bounds:
            if len(text) < least:
                return f"{name} too short: {len(text)} characters"
            if len(text) > most:
                return f"{name} too long: {len(text)} characters"
            if found := CONTROL.search(text):
                return f"control token: {found[0]}"
        plain = made.answer.casefold()
        for phrase in spec.refused_phrases:
            if phrase.casefold() in plain:
                return f"refused phrase: {phrase}"
        return ""

    def _repeated(self, made: Made) -> str:
        """Why it is not new; what is new is from now on known."""
        twin = self._whole.setdefault(_plain(made.request), made.id)
        if twin != made.id:
            return f"repeated: {twin}"
        novelty, names = self._of_topic(made.topic)
        text = made.compared or made.request
        if found := novelty.nearest(text):
            return f"similar: {found[0]:.2f} to {names[found[1]]}"
        novelty.add(text)
        names.append(made.id)
        return ""

    def _of_topic(self, topic: str) -> tuple[Novelty, list[str]]:
        if topic not in self._novel:
            self._novel[topic] = Novelty(self._spec.max_rouge_l), []
        return self._novel[topic]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
