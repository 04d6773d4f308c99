"""Formats: what each published shape of a record is read into, and what is refused rather than dropped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import SpecError
from pipelines.specs import ConversationsSpec
from pipelines.stages.tuning.conversation import BadRecord, Message, checked
from pipelines.stages.tuning.formats import AUTO, FORMATS, PROMPTS, Reader
from pipelines.stages.tuning.texts import Texts

ASK: Message = {"role": "user", "content": "Who?"}
ME: Message = {"role": "assistant", "content": "Me."}
BE: Message = {"role": "system", "content": "Be."}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}
CALLING: Any = {"role": "assistant", "content": "", "tool_calls": [CALL]}
SEEN: Message = {"role": "tool", "content": "It is."}
SCHEMA = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {"at": {}}}}
TOOLS = [{"type": "function", "function": SCHEMA}]
SAID = json.dumps({"name": "look", "arguments": {"at": "it"}})


def openai(call: Any, **more: Any) -> dict[str, Any]:
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [ASK, calling, {"role": "tool", "content": "It is.", **more}, ME], "tools": TOOLS}


TREE = {
    "message_tree_id": "t", "tree_state": "ready",
    "prompt": {"message_id": "1", "role": "prompter", "text": "Who?", "replies": [
        {"message_id": "2", "role": "assistant", "text": "Me.", "replies": [
            {"message_id": "3", "role": "prompter", "text": "You?", "replies": [
                {"message_id": "4", "role": "assistant", "text": "Yes.", "replies": []},
                {"message_id": "5", "role": "assistant", "text": "No.", "replies": []},
                {"message_id": "6", "role": "assistant", "text": "Spam", "replies": [], "deleted": True},
            ]},
            {"message_id": "7", "role": "prompter", "text": "Why?", "replies": []},
        ]},
        {"message_id": "8", "role": "assistant", "text": "They.", "replies": []},
        {"message_id": "9", "role": "assistant", "text": "Bad", "replies": [], "review_result": False},
    ]},
}  # fmt: skip
MOSS = {
    "conversation_id": "1", "num_turns": 1,
    "meta_instruction": "Be.\n- Web search: enabled. API: Search(query)\n- Calculator: disabled.\n",
    "chat": {"turn_1": {
        "Human": "<|Human|>: Who?<eoh>\n",
        "Inner Thoughts": "<|Inner Thoughts|>: I look.<eot>\n",
        "Commands": '<|Commands|>: Search("one"), Search("a \\"two\\"")<eoc>\n',
        "Tool Responses": "<|Results|>:\nIt is.<eor>\n",
        "MOSS": "<|MOSS|>: Me.<eom>\n",
    }},
}  # fmt: skip
SEARCHES = [
    {"type": "function", "function": {"name": "Search", "arguments": {"query": query}}} for query in ("one", 'a "two"')
]

BELOW_IS = "Below is an instruction that describes a task. Write a response."

# format, record, the turns it is read into
GOOD: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("messages", {"messages": [BE, ASK, ME, ASK, ME]}, [BE, ASK, ME, ASK, ME]),
    ("messages", {"messages": [{"role": "developer", "content": "Be."}, ASK, ME]}, [BE, ASK, ME]),
    ("messages", {"conversations": [ASK, ME]}, [ASK, ME]),
    (
        "messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "Me."}]},
            ]
        },
        [ASK, ME],
    ),
    ("messages", {"messages": [ASK, ME], "system": "Be."}, [BE, ASK, ME]),
    ("messages", {"messages": [BE, ASK, ME], "system": "Be."}, [BE, ASK, ME]),
    (
        "messages",
        {"messages": [ASK, {**ME, "weight": 0}, ASK, {**ME, "weight": 1}]},
        [ASK, {**ME, "learn": False}, ASK, ME],
    ),
    ("messages", {"messages": [ASK, {**ME, "weight": "1.0", "tool_calls": None}]}, [ASK, ME]),
    ("messages", {"messages": [ASK, {**ME, "reasoning_content": "Hm."}]}, [ASK, {**ME, "reasoning_content": "Hm."}]),
    (
        "messages",
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Me."}],
                },
            ]
        },
        [ASK, {**ME, "reasoning_content": "Hm."}],
    ),
    ("messages", openai(CALL), [ASK, CALLING, SEEN, ME]),
    ("messages", openai(json.loads(SAID)), [ASK, CALLING, SEEN, ME]),
    (
        "messages",
        {"messages": [ASK, CALLING, {"role": "tool", "content": None}, ME], "tools": TOOLS},
        [ASK, CALLING, {**SEEN, "content": ""}, ME],
    ),
    (
        "messages",
        {"messages": [ASK, CALLING, {"role": "tool", "content": {"it": ["is"]}}, ME], "tools": TOOLS},
        [ASK, CALLING, {**SEEN, "content": '{"it": ["is"]}'}, ME],
    ),
    (
        "messages",
        openai(
            {"id": "7", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}},
            tool_call_id="7",
            name="look",
        ),
        [ASK, {**CALLING, "tool_calls": [{**CALL, "id": "7"}]}, {**SEEN, "name": "look", "tool_call_id": "7"}, ME],
    ),
    (
        "messages",
        {
            "messages": [ASK, {"role": "assistant", "content": None, "function_call": json.loads(SAID)}],
            "functions": [SCHEMA],
        },
        [ASK, CALLING],
    ),
    ("messages", {"messages": [{**BE, "tools": json.dumps([SCHEMA])}, ASK, ME]}, [BE, ASK, ME]),
    (
        "messages",
        {
            "messages": [
                ASK,
                {"role": "tool", "name": "look", "parameters": {"at": "it"}, "observation": "It is."},
                ME,
            ],
            "tools": TOOLS,
        },
        [ASK, CALLING, {**SEEN, "name": "look"}, ME],
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}, [ASK, ME]),
    ("sharegpt", {"system": "Be.", "conversation": [{"human": "Who?", "assistant": "Me."}]}, [BE, ASK, ME]),
    ("sharegpt", {"data": ["Who?", "Me.", "Who?", "Me."]}, [ASK, ME, ASK, ME]),
    (
        "tool-calls",
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "function_call", "value": SAID},
                {"from": "observation", "value": "It is."},
                {"from": "gpt", "value": "Me."},
            ],
            "tools": json.dumps([SCHEMA]),
        },
        [ASK, CALLING, SEEN, ME],
    ),
    (
        "tool-calls",
        {
            "conversations": [
                {"from": "human", "value": "Who?"},
                {"from": "gpt", "value": "I look."},
                {"from": "function_call", "value": SAID},
                {"from": "function_response", "value": "It is."},
                {"from": "gpt", "value": "Me."},
            ],
            "tools": [SCHEMA],
        },
        [ASK, {**CALLING, "content": "I look."}, SEEN, ME],
    ),
    (
        "xlam",
        {
            "query": "Who?",
            "answers": f"[{SAID}]",
            "tools": json.dumps([{"name": "look", "description": "Look.", "parameters": {"at": {}}}]),
        },
        [ASK, CALLING],
    ),
    (
        "glaive",
        {
            "system": f"SYSTEM: Be. - {json.dumps(SCHEMA)}",
            "chat": 'USER: Who?\n\n\nASSISTANT: <functioncall> {"name": "look", "arguments": \'{"at": "it"}\'} '
            "<|endoftext|>\n\n\n"
            "FUNCTION RESPONSE: It is.\n\n\nASSISTANT: Me. <|endoftext|>\n\n\n",
        },
        [BE, ASK, CALLING, SEEN, ME],
    ),
    ("alpaca", {"instruction": "Who?", "input": "", "output": "Me."}, [ASK, ME]),
    (
        "alpaca",
        {"instruction": "Add.", "input": "1\u2028 1", "output": "Me.", "system": "Be.", "history": [["Who?", "Me."]]},
        [BE, ASK, ME, {**ASK, "content": "Add.\n1\u2028 1"}, ME],
    ),
    (
        "alpaca",
        {"instruction": "Who?", "output": "Me.", "reasoning_content": "Hm."},
        [ASK, {**ME, "reasoning_content": "Hm."}],
    ),
    ("cmtmedqa", {"instruct": "Who?", "output": "Me."}, [ASK, ME]),
    ("prompt-response", {"prompt": "Who?", "response": "Me."}, [ASK, ME]),
    ("prompt-completion", {"prompt": "Who?", "completion": "Me."}, [ASK, ME]),
    ("prompt-completion", {"prompt": [BE, ASK], "completion": [ME]}, [BE, ASK, ME]),
    (
        "dolly",
        {"instruction": "Who?", "context": "Here.", "response": "Me.", "category": "qa"},
        [{**ASK, "content": "Who?\nHere."}, ME],
    ),
    ("dolly", {"prompt": f"{BELOW_IS}\n\n### Instruction:\nWho?\n\n### Response:\n", "response": "Me."}, [ASK, ME]),
    ("advertisegen", {"content": "Who?", "summary": "Me."}, [ASK, ME]),
    ("firefly", {"kind": "x", "input": "Who?", "target": "Me."}, [ASK, ME]),
    ("input-output", {"input": "Who?", "output": "Me."}, [ASK, ME]),
    ("question-answer", {"question": "Who?", "answer": "Me."}, [ASK, ME]),
    ("question-answer", {"system_prompt": "Be.", "question": "Who?", "response": "Me."}, [BE, ASK, ME]),
    ("question-answer", {"department": "x", "title": "y", "ask": "Who?", "answer": "Me."}, [ASK, ME]),
    ("self-instruct", {"instruction": "Who?", "instances": [{"input": "", "output": "Me."}]}, [ASK, ME]),
    ("belle", {"question": "Who?", "std_answer": "Me.", "class": "qa"}, [ASK, ME]),
    (
        "belle",
        {"instruction": " Human:Who?\nAssistant: Me.\n Human:Who?\nAssistant:", "input": "", "output": "Me."},
        [ASK, ME, ASK, ME],
    ),
    (
        "coig",
        {
            "textbox_q_instruction": "Ask.",
            "textbox_q_context": "",
            "textbox_question": "Who?",
            "textbox_answer_analysis": "Hm.",
            "textbox_answer": "Me.",
        },
        [{**ASK, "content": "Ask.\nWho?"}, {**ME, "content": "Hm.\nMe."}],
    ),
    (
        "coig",
        {"trans_instruction": "Who?", "trans_input": "", "trans_output": "Me.", "instruction": "en", "output": "en"},
        [ASK, ME],
    ),
    (
        "coig",
        {
            "round_0": {"prompt": "p", "response": '{"Q": "Who?", "A": "Me."}'},
            "round_1": {"response": '{"Q": "Who?", "A": "Me."}'},
        },
        [ASK, ME, ASK, ME],
    ),
    (
        "genmedgpt",
        {"instruction": "Be a doctor.", "input": "Who?", "output": "Me."},
        [{**ASK, "content": "Be a doctor.\nWho?"}, ME],
    ),
    ("icliniq", {"input": "Who?", "answer_icliniq": "Me.", "answer_chatgpt": "x", "answer_chatdoctor": "y"}, [ASK, ME]),
    (
        "huatuo",
        {"instruction": " <user>: Who? <bot>: Me. <user>: Who?", "input": "", "output": "Me.", "id": 1},
        [ASK, ME, ASK, ME],
    ),
    ("huatuo", {"instruction": "Who?", "input": "", "output": "Me."}, [ASK, ME]),
    ("medicalgpt", {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}, [ASK, ME]),
    ("guanaco", {"text": "### Human: Who?### Assistant: Me.### Human: Who?\n### Assistant: Me."}, [ASK, ME, ASK, ME]),
    ("moss", {"prefix": "Be.", "plain_text": "[Human]: Who?<eoh> [MOSS]: Me.<eoa> ", "num_turns": 1}, [BE, ASK, ME]),
    (
        "moss",
        MOSS,
        [
            {**BE, "content": MOSS["meta_instruction"]},
            ASK,
            {**CALLING, "tool_calls": SEARCHES, "reasoning_content": "I look."},
            SEEN,
            ME,
        ],
    ),
]


@pytest.mark.parametrize(("format_", "record", "turns"), GOOD)
def test_a_record_is_read_by_its_format_and_by_what_is_in_it(format_: str, record: Any, turns: list[Any]) -> None:
    for name in (format_, AUTO):
        [found] = Reader(name).read(json.loads(json.dumps(record))).conversations
        assert checked(found["messages"]) == turns, name
        called = {call["function"]["name"] for turn in turns for call in turn.get("tool_calls", [])}
        assert called <= {tool["function"]["name"] for tool in found.get("tools", [])}


def test_every_format_is_read() -> None:
    names = {name for name, _, _ in GOOD} | {AUTO, PROMPTS, "oasst", "chatdoctor", "healthcaremagic"}
    assert names == set(FORMATS)


@pytest.mark.parametrize("name", ["oasst", AUTO])
def test_a_tree_is_all_its_paths_and_each_answer_is_learned_once(name: str) -> None:
    found = [each["messages"] for each in Reader(name).read(json.loads(json.dumps(TREE))).conversations]
    texts = [[message["content"] for message in messages] for messages in found]
    assert texts == [["Who?", "Me.", "You?", "Yes."], ["Who?", "Me.", "You?", "No."], ["Who?", "They."]]
    answers = [message for messages in found for message in messages if message["role"] == "assistant"]
    assert [each["content"] for each in answers if each.get("learn", True)] == ["Me.", "Yes.", "No.", "They."]
    for messages in found:
        checked(messages)


# format, record, what is said of it: nothing that changes the meaning is dropped
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {"messages": [ASK, {**ME, "weight": 0}]}, "nothing to learn"),
    ("messages", {"messages": [ASK, ME], "weight": 0}, "nothing to learn"),
    ("messages", {"messages": [ASK, {**ME, "weight": 0.5}]}, "weight: messages[1].weight is 0.5"),
    ("messages", {"messages": [BE, ASK, ME], "system": "Be otherwise."}, "two system turns"),
    ("messages", {"messages": [ASK, ME], "conversations": [ASK, ME]}, "two dialogues"),
    ("messages", {"messages": [{**ASK, "images": ["x.png"]}, ME]}, "unknown meaning: messages[0].images"),
    ("messages", {"messages": [ASK, ME], "images": ["x.png"]}, "unknown meaning: images"),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ME]},
        "'image_url'",
    ),
    ("messages", {"messages": [ASK, {"role": "assistant", "content": None}]}, "missing: messages[1].content"),
    ("messages", {"messages": [ASK, {**ME, "content": None, "refusal": "No."}]}, "missing: messages[1].content"),
    ("messages", {"messages": [ASK, {**ME, "prefix": True}]}, "unknown meaning: messages[1].prefix"),
    (
        "messages",
        {"messages": [{**ASK, "reasoning_content": "Hm."}, ME]},
        "unknown meaning: messages[0].reasoning_content",
    ),
    ("messages", openai({"type": "custom", "custom": {}}), "tool call"),
    ("messages", openai({"function": {"name": "look", "arguments": "{at: it}"}}), "not JSON"),
    ("messages", openai({"function": {"name": "look", "arguments": "[1]"}}), "tool call"),
    ("messages", openai({**CALL, "id": "7"}, tool_call_id="8"), "tool answer: of a call '8'"),
    ("messages", {"messages": [ASK, CALLING, ASK, ME]}, "out of turn: turn 3 is of the user, where the tool's belongs"),
    ("messages", {"messages": [ASK, SEEN, ME]}, "out of turn"),
    ("messages", {"messages": [ASK, ME, ME]}, "out of turn"),
    ("messages", {"messages": [ASK, BE, ME]}, "out of turn"),
    ("messages", {"messages": [ASK]}, "no answer: ends with the user's turn"),
    ("messages", {"messages": []}, "no turns"),
    ("messages", {"messages": [BE]}, "no turns"),
    ("messages", {"messages": [ASK, ME], "tools": "look"}, "not JSON: tools"),
    ("messages", {"messages": [{"role": "narrator", "content": "x"}, ASK, ME]}, "unknown role"),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}], "chosen": ME},
        "unknown meaning: chosen",
    ),
    ("alpaca", {"instruction": "Who?", "output": ["Me.", "You."]}, "list in a cell: output"),
    ("alpaca", {"instruction": "Who?", "output": ""}, "empty answer"),
    ("alpaca", {"instruction": "Who?", "output": None}, "missing: output"),
    ("alpaca", {"instruction": "Who?", "output": "Me.", "history": [["Who?"]]}, "history"),
    ("alpaca", {"instruction": "Who?", "output": "half \ud800"}, "broken text"),
    ("question-answer", {"question": "Who?", "answer": "A", "options": {"A": "Me."}}, "unknown meaning: options"),
    ("prompt-response", {"prompt": ["Who?"], "response": "Me."}, "list in a cell: prompt"),
    ("moss", {**MOSS, "num_turns": 2}, "num_turns is 2"),
    ("oasst", {"message_id": "1", "parent_id": None, "text": "x", "role": "prompter"}, "a message of a tree"),
    (
        "oasst",
        {"prompt": {"text": "Who?", "role": "prompter", "replies": []}},
        "empty answer: a tree without an answer",
    ),
]


@pytest.mark.parametrize(("format_", "record", "said"), BAD)
def test_what_cannot_be_honoured_is_refused(format_: str, record: dict[str, Any], said: str) -> None:
    for name in (format_, AUTO):
        with pytest.raises(BadRecord) as caught:
            for found in Reader(name).read(json.loads(json.dumps(record))).conversations:
                checked(found["messages"])
        assert said in str(caught.value), name


def test_what_is_left_out_is_named() -> None:
    record = {"messages": [{**ASK, "id": 1}, ME], "category": "qa", "score": 0.5, "empty": ""}
    found = Reader(AUTO).read(record)
    assert (found.left_out, found.notes) == (["category", "score"], ["field of a turn, left out: id"])


def test_columns_of_ones_own() -> None:
    reader = Reader(AUTO, {"prompt": "q.text", "response": "a", "system": "who", "context": "given"})
    [found] = reader.read({"q": {"text": "Who?"}, "a": "Me.", "who": "Be.", "given": "Here."}).conversations
    assert found["messages"] == [BE, {**ASK, "content": "Who?\nHere."}, ME]
    with pytest.raises(BadRecord, match=r"no known column: 'q.text' \(for prompt\) is not among 'question'"):
        reader.read({"question": "Who?", "a": "Me."})
    [found] = Reader(AUTO, {"prompt": "response", "response": "prompt"}).read({"prompt": "Me.", "response": "Who?"})[1]
    assert found["messages"] == [ASK, ME]
    [found] = Reader(AUTO, {"messages": "talk"}).read({"talk": [ASK, ME], "messages": 3}).conversations
    assert found["messages"] == [ASK, ME]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASK], "answer": "51"},
        {"question": "Who?", "answer": "51"},
        {"user_prompt": "Who?", "solution": "51"},
    ],
)
def test_requests_without_an_answer_keep_what_a_right_one_says(record: dict[str, Any]) -> None:
    [found] = Reader(PROMPTS).read(record).conversations
    assert found == {"messages": [ASK], "reference": "51"}
    checked(found["messages"], answered=False)


def test_control_tokens_are_counted_and_kept_taken_out_or_refused() -> None:
    def turns() -> list[Message]:
        return [{"role": "user", "content": "What is <eoh>?"}, {"role": "assistant", "content": "Me.<|im_end|>"}]

    kept, stripped = turns(), turns()
    notes = ["control token <eoh>, kept as text", "control token <|im_end|>, kept as text"]
    assert (Texts("keep", {}).seen(kept), kept) == (notes, turns())
    assert Texts("strip", {}).seen(stripped) == [note.replace("kept as text", "taken out") for note in notes]
    assert [turn["content"] for turn in stripped] == ["What is ?", "Me."]
    with pytest.raises(BadRecord, match="control token: <eoh> in turn 1"):
        Texts("reject", {}).seen(turns())
    blanks: list[Message] = [{"role": "assistant", "content": "I am {{name}} of {{author}}."}]
    assert Texts("keep", {"{{name}}": "Ada"}).seen(blanks) == ["blank {{author}}, not filled in"]
    assert blanks[0]["content"] == "I am Ada of {{author}}."


KEYS = sorted({key for _, record, _ in GOOD for key in record})
BELOW = ["role", "content", "from", "value", "text", "type", "function", "name", "arguments", "tool_calls", "weight"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(BELOW), inner | st.sampled_from(["user", "assistant", "gpt"]), max_size=4)
    ),
    max_leaves=12,
)


@given(name=st.sampled_from(sorted(FORMATS)), record=st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_any_record_is_read_or_refused(name: str, record: dict[str, Any]) -> None:
    try:
        found = Reader(name).read(record).conversations
        for each in found:
            checked(each["messages"], answered=name != PROMPTS)
    except BadRecord as error:
        assert str(error)
        return
    assert all(
        message["content"].strip() for each in found for message in each["messages"] if message["role"] == "user"
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "alpacca"}, "Did you mean 'alpaca'"),
        ({"columns": {"promt": "q"}}, "Did you mean 'prompt'"),
        ({"columns": {"prompt": "q"}}, "Map `messages`, or `prompt` and `response`"),
        ({"columns": {"messages": "q"}, "format": "alpaca"}, "Leave out the format"),
        ({"encoding": "utf8-ish"}, "no encoding 'utf8-ish'"),
    ],
)
def test_a_spec_says_what_is_wrong_with_it(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        ConversationsSpec(source="file", path="x.json", **fields).check()
    assert said in str(caught.value)
