"""COIG (BAAI): exam questions, translated instructions, and rounds of chat whose turns are JSON within JSON."""

from __future__ import annotations

from pipelines.stages.tuning.conversation import BadRecord, Conversation, Message
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.pairs import Names, pairs
from pipelines.stages.tuning.formats.record import Record, conversation, from_json, joined, plain_text

EXAM = ("textbox_q_instruction", "textbox_q_context", "textbox_question")


def _exam_fits(record: Record) -> bool:
    return record.has("textbox_question")


def _exam_read(record: Record) -> list[Conversation]:
    """The request is instruction, context and question; the answer is the reasoning, if there is any, and the key."""
    request = joined(record.text(field, optional=True) for field in EXAM)
    answer = joined(record.text(field, optional=True) for field in ("textbox_answer_analysis", "textbox_answer"))
    messages: list[Message] = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return [conversation(record, messages)]


def _rounds_fits(record: Record) -> bool:
    return "round_0" in record or "round_1" in record


def _rounds_read(record: Record) -> list[Conversation]:
    messages: list[Message] = []
    for name in sorted((each for each in record if each.startswith("round_")), key=lambda each: (len(each), each)):
        round_ = record.take(name)
        said = from_json(round_.get("response"), name) if isinstance(round_, dict) else None
        if not isinstance(said, dict):
            raise BadRecord(f"missing: {name}.response, an object of Q and A")
        messages.append({"role": "user", "content": plain_text(said.get("Q"), f"{name}.Q")})
        messages.append({"role": "assistant", "content": plain_text(said.get("A"), f"{name}.A")})
    return [conversation(record, messages)]


EXAMS = Layout("coig-exam", ("textbox_question",), _exam_fits, _exam_read)
ROUNDS = Layout("coig-rounds", ("round_0", "round_1"), _rounds_fits, _rounds_read)
TRANSLATED = pairs("coig-translated", Names("trans_instruction", "trans_output", ("trans_input",)))
