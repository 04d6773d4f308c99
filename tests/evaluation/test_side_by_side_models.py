"""Models side by side: what one of them cannot be asked, none is."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.core.encoding import Refused, prompt_tokens
from pipelines.stages.evaluation.comparison import ask_all
from pipelines.stages.tuning.templates import prepare
from tests.tuning.tokenizers import by_hand

USER, ANSWER = {"role": "user", "content": "sum"}, {"role": "assistant", "content": "1"}
RULED = {"role": "system", "content": "Be brief."}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def tokenizers(*templates: str) -> dict[str, Any]:
    found = {template: by_hand() for template in templates}
    for template, tokenizer in found.items():
        prepare(tokenizer, template)
    return found


def test_a_prompt_that_one_template_refuses_is_left_out_for_all() -> None:
    models = tokenizers("chatml", "alpaca")
    rows = [
        {"messages": [RULED, USER, ANSWER, USER, ANSWER]},
        {"messages": [USER, ANSWER], "tools": [TOOL]},
        {"messages": [USER, ANSWER]},
    ]
    requests, prompts, refused = ask_all(models, rows)
    assert requests == [[RULED, USER], [USER]]
    assert prompts == {name: [prompt_tokens(each, asked) for asked in requests] for name, each in models.items()}
    assert refused == {"has no place for the tools that are offered": 1}
    with pytest.raises(Refused, match="no place for the tools"):
        ask_all(models, rows[1:2])
    assert len(ask_all(tokenizers("chatml"), rows)[0]) == 3
