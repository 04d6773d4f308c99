"""What every rule is: a struct of its fields and one method. And documents on their way through several rules.

`docs/first-change.md` adds one: a file beside this, and a line in `pipelines/stages/corpus/rules/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from cluster.control.failures import describe
from cluster.core.errors import JobError, TrunklineError
from cluster.core.specs.naming import snake
from pipelines.stages.corpus.documents import Document

Fraction = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule", tag=snake):
    """Base of all rules, those that change a document's text and those that judge it. In YAML `rule` tells them apart.

    The line below a field names the published source of its default; `ours` says that the value was chosen here.
    """

    def apply(self, document: Document) -> str:
        """Why the document goes; empty: it stays. The text may be changed before (`document.text = ...`).

        A reason is one word, or a word and a detail after a colon (`contaminated: humaneval.jsonl:12`): words are
        counted, details are shown as examples. What is computed of a text for many rules, such as its words, is
        computed once by `document.derive(words)`. What takes long to import is imported here, not above.
        """
        raise NotImplementedError


def apply(rules: Sequence[Rule], document: Document) -> tuple[int, str, list[bool]]:
    """Run a document through the rules until one rejects it.

    Returns the number of rules that it passed, the reason of the one that rejected it (empty: it stays), and for each
    rule that saw it whether it changed the text. An error of a rule names the rule and the document.
    """
    changed: list[bool] = []
    for passed, rule in enumerate(rules):
        before = document.text
        try:
            reason = rule.apply(document)
        except TrunklineError:
            raise
        except Exception as error:
            told = f"rule {rule.__struct_config__.tag} failed on {document.id}: {describe(error)}"
            raise JobError(told, "--debug shows where; leave the document out.") from error
        changed.append(document.text is not before and document.text != before)
        if reason:
            return passed, reason, changed
    return len(rules), "", changed
