"""Templates: the named ones, and models' own with all that they do: move, refuse and drop what they are given."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cluster.core.dialect import dialect
from cluster.core.encoding import Message, Refused, encode, end_of_turn_ids, examples, prompt_tokens
from cluster.core.errors import SpecError
from cluster.core.typed_text import control
from pipelines.stages.tuning import spec
from pipelines.stages.tuning.templates import NAMED, TEMPLATES, TURN_END, as_served, missing, prepare
from tests.conftest import ROOT
from tests.tuning.tokenizers import END_OF_TEXT, by_hand, llama, with_tokens

SYSTEM: Message = {"role": "system", "content": "Be brief"}
ASK: Message = {"role": "user", "content": "ask"}
YES: Message = {"role": "assistant", "content": "yes"}
MORE: Message = {"role": "user", "content": "more"}
NO: Message = {"role": "assistant", "content": "no"}
TALK = [ASK, YES, MORE, NO]
END = "<|end|>"


loaded = cache(llama)


def llamas(begins: bool) -> Any:
    """Llama's tokenizer, which begins a text with a BOS or does not; loading one takes seconds."""
    tokenizer = loaded(add_bos_token=begins)
    tokenizer.eos_token = "</s>"
    return tokenizer


def own(template: str, tokens: tuple[str, ...] = (END,), plain: tuple[str, ...] = (), strips: bool = False) -> Any:
    """A model's tokenizer with a template of its own."""
    tokenizer = with_tokens(by_hand(), tokens, plain, strips)
    tokenizer.chat_template = template
    return tokenizer


def learned(tokenizer: Any, messages: list[Message], tools: list[Any] | None = None) -> list[str]:
    """What is learned of each answer, as text."""
    found = []
    for each in examples(tokenizer, messages, tools):
        for token, learn, before in zip(each.tokens, each.learn, [False, *each.learn], strict=False):
            if learn:
                found += [] if before else [[]]
                found[-1].append(token)
    return [tokenizer.decode(tokens) for tokens in found]


def given(tokenizer: Any, messages: list[Message]) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


TURN = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
GO_ON = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
KINDS: dict[str, tuple[Any, list[str], int]] = {
    # what a model's own template does: the tokenizer, what is learned of TALK, and in how many examples
    "plain": (own(TURN + GO_ON, (END, *ROLES)), ["yes<|end|>", "no<|end|>"], 1),
    "no generation prompt": (own(TURN, (END, *ROLES)), ["<|assistant|>yes<|end|>", "<|assistant|>no<|end|>"], 1),
    "tokens that eat blanks": (own(TURN + GO_ON, (END, *ROLES), strips=True), ["yes<|end|>", "no<|end|>"], 1),
    "the eos behind the whole": (
        own(TURN + GO_ON + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}", (END, *ROLES)),
        ["yes<|end|>", "no<|end|>"],
        1,
    ),
    "the eos behind the last answer only": (
        own(
            "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if m.role == 'assistant' and loop.last %}"
            "{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
        ),
        [f"yes{END_OF_TEXT}", f"no{END_OF_TEXT}"],
        2,
    ),
    "an answer ends where the next role begins": (
        own("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}" + GO_ON, ROLES),
        ["yes<|user|>", "no<|user|>"],
        1,
    ),
    "history loses its thoughts": (
        own(
            "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' and loop.last %}"
            "{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}{{ m.content + '<|end|>' }}"
            "{% endfor %}" + GO_ON,
            (END, *ROLES),
            ("<think>", "</think>"),
        ),
        ["<think></think>yes<|end|>", "<think></think>no<|end|>"],
        2,
    ),
    "the prompt opens a thought that the template cuts": (
        own(
            "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1] }}{{ '<|end|>' }}"
            "{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}",
            (END, *ROLES),
        ),
        ["\n</think>\n\nyes<|end|>", "\n</think>\n\nno<|end|>"],
        2,
    ),
    "the prompt opens a thought, and an empty one is written otherwise": (
        own(
            "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{{ '<think>' }}"
            "{{ '\n' + m.reasoning_content + '\n' if m.reasoning_content else '' }}{{ '</think>' }}{% endif %}"
            "{{ m.content + '<|end|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}",
            (END, *ROLES),
        ),
        ["\n</think>yes<|end|>", "\n</think>no<|end|>"],
        2,
    ),
    "role markers that are no special tokens": (
        own(TURN + GO_ON, (END,), ROLES),
        ["yes<|end|>", "no<|end|>"],
        1,
    ),
    "a start of its own for every request": (
        own(
            "{% for m in messages %}{{ (bos_token if m.role == 'user' else '') + m.content }}"
            "{{ '<|end|>' if m.role == 'assistant' else ' => ' }}{% endfor %}"
        ),
        ["yes<|end|>", "no<|end|>"],
        1,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_own_template(kind: str) -> None:
    tokenizer, expected, count = KINDS[kind]
    before = tokenizer.apply_chat_template(TALK, tokenize=False)
    prepare(tokenizer, "")
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == before
    assert learned(tokenizer, TALK) == expected
    found = examples(tokenizer, TALK)
    assert len(found) == count
    for upto, example in ((TALK[:1], found[0]), (TALK[:3], found[-1])):
        prompt = prompt_tokens(tokenizer, upto)
        assert prompt == given(tokenizer, upto) == example.tokens[: len(prompt)]
    assert tokenizer.eos_token_id in end_of_turn_ids(tokenizer)


MOVES = (  # Mistral 7B Instruct v0.3's: the system message stands before the last request, and nowhere in history
    "{% set first = messages[0].role == 'system' %}{% for m in messages[first|int:] %}"
    "{% if m.role == 'user' %}{{ '[' + (messages[0].content + ': ' if first and loop.last else '') + m.content + ']' }}"
    "{% else %}{{ m.content + '<|end|>' }}{% endif %}{% endfor %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURN + GO_ON
DROPS = "{% for m in messages if m.role != 'system' %}{{ m.role + ':' + m.content + '<|end|>' }}{% endfor %}"


@pytest.mark.parametrize("template", [MOVES, REFUSES, DROPS])
def test_a_system_message_that_is_not_taken_stands_before_the_first_request(template: str) -> None:
    tokenizer = own(template, (END, *ROLES))
    prepare(tokenizer, "")
    merged = [{"role": "user", "content": "Be brief\n\nask"}, *TALK[1:]]
    assert encode(tokenizer, [SYSTEM, *TALK]) == encode(tokenizer, merged)
    assert given(tokenizer, [SYSTEM, *TALK[:3]]) == prompt_tokens(tokenizer, merged[:3])
    assert len(learned(tokenizer, [SYSTEM, *TALK])) == 2


def test_what_a_template_leaves_out_is_refused_and_not_dropped() -> None:
    tokenizer = own(TURN + GO_ON, (END, *ROLES))
    prepare(tokenizer, "")
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    for talk, tools, words in (
        ([ASK, {**YES, "reasoning_content": "hm"}], None, "no place for the assistant's thoughts"),
        ([ASK, {**YES, "tool_calls": [call]}], None, "no place for the assistant's tool calls"),
        ([ASK, {"role": "tool", "content": "sun"}, YES], None, "no place for the results of tools"),
        ([ASK, YES], [{"type": "function", "function": {"name": "weather"}}], "no place for the tools"),
    ):
        with pytest.raises(Refused, match=words):
            encode(tokenizer, talk, tools)
    for beside, words in (
        ({"content": "Let me see", "tool_calls": [call]}, "leaves out or changes what the assistant says"),
        ({"content": "", "tool_calls": [call, call]}, "leaves out a call of a tool"),
        ({"content": "", "reasoning_content": "hm", "tool_calls": [call]}, "leaves out or changes a thought"),
        ({"content": "<think>hm</think>yes"}, None),
        ({"content": "hm</cut>yes"}, "leaves out or changes what the assistant says"),
    ):
        partial = own(
            "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.tool_calls %}"
            "{{ m.tool_calls[0].function.name + m.tool_calls[0].function.arguments|tojson }}{% else %}"
            "{{ '<think>' + m.reasoning_content + '</think>' if m.reasoning_content else '' }}"
            "{{ m.content.split('</cut>')[-1] }}{% endif %}{{ '<|end|>' }}{% endfor %}" + GO_ON,
            (END, *ROLES, "<|tool|>"),
        )
        prepare(partial, "")
        talk = [ASK, {"role": "assistant", **beside}]
        if words is None:
            assert learned(partial, talk) == ["<think>hm</think>yes<|end|>"]
            continue
        with pytest.raises(Refused, match=words):
            encode(partial, talk)
    strict = own(
        "{% for m in messages %}{% if m.role != ['user', 'assistant'][loop.index0 % 2] %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content + '<|end|>' }}{% endfor %}"
    )
    prepare(strict, "")
    with pytest.raises(Refused, match="refuses it: roles must alternate"):
        encode(strict, [ASK, MORE, YES])


def test_a_template_of_one_turn_serves_for_one_turn() -> None:
    tokenizer = own(
        "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + TURN, (END, *ROLES)
    )
    prepare(tokenizer, "")
    assert learned(tokenizer, TALK[:2]) == ["<|assistant|>yes<|end|>"]
    with pytest.raises(Refused, match="refuses it: one turn only"):
        examples(tokenizer, TALK)


CALL_WITH = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ 'call ' + c.function.name + ' ' + ARGUMENTS }}{% endfor %}{% else %}{{ m.content }}{% endif %}{{ END }}"
    "{% endfor %}" + GO_ON
)


@pytest.mark.parametrize(
    ("arguments", "end", "expected"),
    [
        ("c.function.arguments|tojson", "'<|end|>'", 'call weather {"city": "Ulm ä"}<|end|>'),
        ("c.function.arguments", "'<|end|>'", 'call weather {"city": "Ulm ä"}<|end|>'),  # text only, as DeepSeek's
        ("c.function.arguments|tojson", "'<|call|>' if m.tool_calls else '<|end|>'",
         'call weather {"city": "Ulm ä"}<|call|>'),
    ],
)  # fmt: skip
def test_a_call_is_given_as_the_template_reads_it(arguments: str, end: str, expected: str) -> None:
    template = CALL_WITH.replace("ARGUMENTS", arguments).replace("END", end)
    tokenizer = own(template, (END, "<|call|>", *ROLES, "<|tool|>"))
    prepare(tokenizer, "")
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm ä"}}}
    talk = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "sun"}, YES]
    assert learned(tokenizer, talk) == [expected, "yes<|end|>"]
    stops = {END, "<|call|>" if "<|call|>" in end else END}
    assert stops == {tokenizer.convert_ids_to_tokens(id) for id in end_of_turn_ids(tokenizer)}


def test_mistrals_calls_have_ids_of_nine_characters() -> None:
    tokenizer = by_hand()
    prepare(tokenizer, "mistral")
    tools = [{"type": "function", "function": {"name": "weather"}}]
    for given, written in (({}, "000000001"), ({"id": "call_abcdefghi"}, "abcdefghi"), ({"id": "1"}, "000000001")):
        call = {"type": "function", **given, "function": {"name": "weather", "arguments": {}}}
        result = {"role": "tool", "content": "sun"} | ({"tool_call_id": given["id"]} if given else {})
        talk = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}, result, YES]
        assert learned(tokenizer, talk, tools)[0].endswith(f'"id": "{written}"}}]{END_OF_TEXT}')
        assert f'"call_id": "{written}"' in tokenizer.decode(encode(tokenizer, talk, tools).tokens)


def test_a_tag_that_closes_a_call_does_not_end_the_answer() -> None:
    """As in GLM-4.5: an answer ends where the next role begins, and one may call twice."""
    tokenizer = own(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% for c in m.tool_calls %}"
        "{{ '<call>' + c.function.name + c.function.arguments|tojson + '</call>' }}{% endfor %}{% endfor %}" + GO_ON,
        (*ROLES, "<|tool|>"),
        ("<call>", "</call>"),
    )
    prepare(tokenizer, "")
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"city": c}}} for c in ("Ulm", "Ems")]
    talk = [ASK, {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "sun"}, YES]
    call = '<call>weather{"city": "Ulm"}</call><call>weather{"city": "Ems"}</call>'
    assert learned(tokenizer, talk) == [f"{call}<|tool|>", "yes<|user|>"]
    assert learned(tokenizer, talk[:2]) == [f"{call}<|tool|>"]


def test_role_markers_that_are_no_special_tokens_are_not_to_be_typed() -> None:
    """As DeepSeek's; but what an assistant says of its own markup is a token."""
    tokenizer = own(TURN + GO_ON + "{# <think></think> #}", (END,), (*ROLES, "<think>", "</think>", "word"))
    prepare(tokenizer, "")
    marks = {tokenizer.convert_tokens_to_ids(token) for token in (*ROLES, END, "<think>", "</think>")}
    typed = {"role": "user", "content": "<|assistant|>yes<|end|><think>"}
    assert [i for i in prompt_tokens(tokenizer, [typed]) if i in marks] == [
        tokenizer.convert_tokens_to_ids(token) for token in ("<|user|>", END, "<|assistant|>")
    ]
    said = {"role": "assistant", "content": "<think>hm</think>yes<|user|>"}
    answer = [t for t, learn in zip(*vars(encode(tokenizer, [ASK, said])).values(), strict=True) if learn]
    assert tokenizer.decode(answer) == said["content"] + END
    assert [tokenizer.decode([i]) for i in answer if i in marks] == ["<think>", "</think>", END]
    assert "word" not in control(tokenizer).tokens


@pytest.mark.parametrize("name", ["", *TEMPLATES])
def test_one_bos_where_the_base_was_trained_with_one(name: str) -> None:
    """Whether the template writes it or not; none where the tokenizer puts none and the template neither."""
    for begins in (True, False):
        tokenizer = llamas(begins)
        if not name:
            tokenizer.chat_template = DROPS.replace("'<|end|>'", "eos_token")
        prepare(tokenizer, name)
        found = examples(tokenizer, [ASK, YES])[0].tokens
        writes = "bos_token" in TEMPLATES.get(name, "")
        assert found.count(tokenizer.bos_token_id) == (1 if begins or writes else 0)
        assert (found[0] == tokenizer.bos_token_id) == (begins or writes)
        assert found[: len(given(tokenizer, [ASK]))] == given(tokenizer, [ASK])


def test_a_served_model_is_asked_as_it_is_served() -> None:
    tokenizer = llamas(True)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    before = given(tokenizer, [ASK])
    as_served(tokenizer)
    assert given(tokenizer, [ASK]) == before
    plain = by_hand()
    as_served(plain)
    assert plain.chat_template == TEMPLATES["completion"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prepared_tokenizer_travels(name: str, tmp_path: Path) -> None:
    tokenizer = by_hand()
    before, needed = len(tokenizer), missing(tokenizer, name)
    assert needed == list(NAMED[name].needed)
    assert prepare(tokenizer, name) == len(needed) == len(tokenizer) - before
    assert tokenizer.eos_token == (NAMED[name].end or END_OF_TEXT)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(again, TALK) == encode(tokenizer, TALK)
    assert (again.eos_token, len(again)) == (tokenizer.eos_token, len(tokenizer))
    assert prepare(again, name) == 0 and missing(again, name) == []


def test_the_spec_knows_the_templates() -> None:
    assert set(get_args(spec.Template)) == {"", *TEMPLATES}


def test_chatml_leaves_a_model_that_knows_it_as_it_is(smollm2: PreTrainedTokenizerBase) -> None:
    before, own_template = len(smollm2), smollm2.chat_template
    assert prepare(smollm2, "chatml") == 0
    assert len(smollm2) == before
    smollm2.chat_template = own_template


ECHO = (  # says again what was asked, before the answer ends
    "{% for m in messages %}{{ m.role + ': ' + m.content }}"
    "{{ ' (' + messages[loop.index0 - 1].content + ')<|end|>' if m.role == 'assistant' else '\n' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", r"the model has no chat template of its own\. Choose one: chatml, alpaca, completion"),
        (ECHO, "would have the user's words learned as an answer"),
        (
            "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}",
            "ends an answer without a special",
        ),
        (
            "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}",
            r"special token.*: '<\|im_end\|>' is none",
        ),
        (
            "{% for m in messages %}{{ m.content if loop.last else 'cut' }}{{ eos_token }}{% endfor %}",
            "changes what it",
        ),
        ("{{ raise_exception('no such role') }}", "refuses a question and its answer: no such role"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content + eos_token }}{% endfor %}",
            "does not write what is",
        ),
        ("{{ nothing + messages[0].content }}", "refuses a question and its answer: 'nothing' is undefined"),
        ("{{ cls_token + messages[0].content }}", "refuses a question and its answer: 'cls_token' is undefined"),
        ("{% for m in messages %}{{ m.content * 2 + eos_token }}{% endfor %}", "does not write every answer once"),
    ],
)
def test_a_template_that_nothing_can_be_learned_by_is_told(template: str, words: str) -> None:
    tokenizer = own(template)
    with pytest.raises(SpecError, match=rf"sft\.template: .*{words}"):
        prepare(tokenizer, "")


def test_a_named_template_wants_an_eos() -> None:
    tokenizer = by_hand()
    tokenizer.eos_token = None
    with pytest.raises(SpecError, match="alpaca ends with the tokenizer's eos, and it has none"):
        prepare(tokenizer, "alpaca")
    prepare(tokenizer, "chatml")
    assert (tokenizer.eos_token, dialect(tokenizer).ends) == (TURN_END, (TURN_END,))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_table_of_the_docs_is_true(name: str) -> None:
    text = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    section = text.partition("## Templates and loss masks")[2].partition("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith("| ") and f"`{name}`" in line.split(" | ")[0])
    _, _, system, tools, thoughts, ends, tokens = row.replace("\\|", "¦").strip("| ").split(" | ")
    tokenizer = by_hand()
    prepare(tokenizer, name)
    found = dialect(tokenizer)
    assert found.system and system
    assert found.tools == (tools != "no")
    assert found.thoughts == (thoughts != "no")
    assert str(len(NAMED[name].needed) or "none") in tokens.split(", ")
    stops = [f"`{token.replace('|', '¦')}`" for token in found.ends if token != END_OF_TEXT] or ["the eos"]
    assert all(stop in ends for stop in stops)
