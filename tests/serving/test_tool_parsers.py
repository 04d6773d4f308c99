"""Which parser of vLLM's reads the calls of a template, and that vLLM has it."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest

from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from serving.tool_parsers import PARSERS, chat_template, form_of_calls, tool_parser
from tests.conftest import ROOT
from tests.made import make

TEMPLATES = ROOT / "pipelines" / "stages" / "tuning" / "templates"
OWN = {"chatml": "hermes", "qwen2.5": "hermes", "qwen3": "hermes", "llama3.1": "llama3_json", "mistral": "mistral"}


@pytest.mark.parametrize("name", sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
def test_the_templates_that_models_are_tuned_with(name: str, tmp_path: Path) -> None:
    template = (TEMPLATES / f"{name}.jinja").read_bytes()
    tokens = json.dumps({"added_tokens": [{"id": 1, "content": "[TOOL_CALLS]"}]}).encode()
    files = {"chat_template.jinja": template, "tokenizer.json": tokens}
    model = make(Store(tmp_path), PretrainSpec(), {}, files, "m")
    assert tool_parser(model) == OWN.get(name, "")
    assert form_of_calls(model) == ("native" if name in OWN else "moss" if name == "moss" else "text")


def test_where_a_template_stands(tmp_path: Path) -> None:
    store = Store(tmp_path)
    several = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "tools <tool_call>"}]
    for number, (given, parser) in enumerate(
        (("x {{ tools }} <tool_call>", "hermes"), (several, "hermes"), (None, ""))
    ):
        files = {"tokenizer_config.json": json.dumps({"chat_template": given}).encode()}
        model = make(store, PretrainSpec(seed=number), {}, files, f"m{number}")
        assert tool_parser(model) == parser
    bare = make(store, PretrainSpec(seed=99), {}, {"x": b""}, "bare")
    assert chat_template(bare) == "" and tool_parser(bare) == ""
    mistral = make(store, PretrainSpec(seed=98), {}, {"chat_template.jinja": b"tools [TOOL_CALLS]"}, "no-token")
    assert tool_parser(mistral) == "", "its marker is no token here, which vLLM's parser asks"


def test_vllm_has_the_parsers() -> None:
    registry = Path(sysconfig.get_path("purelib")) / "vllm" / "tool_parsers" / "__init__.py"
    if not registry.exists():
        pytest.skip("vLLM is not installed")
    text = registry.read_text()
    assert all(f'"{parser}":' in text for _, parser in PARSERS)
