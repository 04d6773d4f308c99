"""Preferences out of an endpoint's log of feedback (cluster/core/feedback.py): what people said of its answers.

A choice is a pair; an edit, too, of which the answer is the worse one; a thumb is a single answer, wanted or not. All
have the whole conversation before them. Of who said it only the id of the key is told, and nothing without consent.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.core.errors import InputError
from cluster.core.feedback import Choice, Edit, Line, Thumb, Withdrawal, answers, counting, read
from cluster.core.storage.location import Location
from pipelines.specs import PreferencesSpec
from pipelines.stages import licenses
from pipelines.stages.alignment.formats.layout import pair, require_answer
from pipelines.stages.tuning.conversation import BadRecord, Message

Row = dict[str, Any]

SOURCE = "feedback"
NO_CONSENT = "no consent: whoever said it did not agree that it is kept"


def read_feedback(spec: PreferencesSpec) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """The rows of a log, what of it is not used, with the reason, and what there is to tell.

    Raises InputError where there is no log, or where more than `max_bad_fraction` of its lines are none of ours.
    """
    lines: list[Line] = []
    places: dict[str, str] = {}
    bad: list[Row] = []
    for where, found in read(Location(spec.path)):
        if isinstance(found, str):
            bad.append({"id": where, "reason": found})
        else:
            lines.append(found)
            places[found.id] = where
    if not lines and not bad:
        raise InputError(
            f"{spec.path} holds no feedback", "Check preferences.path: it is what endpoint.feedback.path says."
        )
    if len(bad) > spec.max_bad_fraction * (len(lines) + len(bad)):
        raise InputError(
            f"{spec.path}: {len(bad)} of {len(lines) + len(bad)} lines are no feedback, the first {bad[0]['id']}: "
            f"{bad[0]['reason']}",
            "Check the folder, or raise preferences.max_bad_fraction.",
        )
    license = licenses.normalize(spec.license) if spec.license else licenses.UNKNOWN
    counted, others = counting(lines)
    rejected = [*bad, *({"id": places[line.id], "reason": reason} for line, reason in others)]
    rows: list[Row] = []
    used: list[Line] = []
    for line in counted:
        try:
            row = _row(line)
        except BadRecord as error:
            rejected.append({"id": places[line.id], "reason": str(error)})
            continue
        told = {"source": SOURCE, "license": license, "key": line.key, "consent": True}
        rows.append({"id": places[line.id], **row, **told, "answered_by": _answered_by(line)})
        used.append(line)
    return rows, rejected, _told(used)


def _row(line: Line) -> Row:
    """The preference that a line is. Raises BadRecord."""
    said = line.said
    assert not isinstance(said, Withdrawal)  # of which none counts
    if not said.consent:
        raise BadRecord(NO_CONSENT)
    prompt: list[Message] = [{"role": each.role, "content": each.content} for each in said.messages]
    if isinstance(said, Choice):
        return pair(prompt, said.chosen.text, said.rejected.text) | {"how": "choice"}
    if isinstance(said, Edit):
        return pair(prompt, said.edit, said.answer.text) | {"how": "edit"}
    assert isinstance(said, Thumb)
    answer = require_answer(prompt, said.answer.text)
    return {"prompt": prompt, "answer": answer, "desirable": said.thumb == "up", "how": "thumb"}


def _answered_by(line: Line) -> list[str]:
    """The artifacts whose answers are judged, the better one's first."""
    return [answer.artifact for answer in answers(line.said)]


def _told(lines: list[Line]) -> dict[str, Any]:
    """Whose answers were judged, by which keys, and when (seconds since 1970): the lineage of what is learned."""
    artifacts = Counter(artifact for line in lines for artifact in set(_answered_by(line)))
    times = [line.at for line in lines]
    return {
        "answered_by": dict(artifacts.most_common()),
        "keys": dict(Counter(line.key or "none" for line in lines).most_common()),
        "consent": len(lines),
        "said_from": min(times, default=0.0),
        "said_to": max(times, default=0.0),
    }
