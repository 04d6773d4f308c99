"""Which of vLLM's parsers reads the tool calls that a model's chat template writes.

A template is a program and does not say which form that is; what it puts around a call does. Where none is known the
engine gives calls as text.
"""

from __future__ import annotations

import json

from cluster.core.storage.artifact import Artifact
from serving.plugins.moss import MARKER as MOSS_MARKER

TEMPLATE_FILE, CONFIG_FILE, TOKENIZER_FILE = "chat_template.jinja", "tokenizer_config.json", "tokenizer.json"
# What stands in a template beside its calls, and the parser; the first that fits.
PARSERS = (
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("Environment: ipython", "llama3_json"),
)
AS_TOKEN = ("mistral",)  # parsers that want their marker to be a token of the model


def tool_parser(model: Artifact) -> str:
    """The parser of a model's own template; empty where it has none, or calls no tools in a form that is known."""
    template = chat_template(model)
    if "tools" not in template:
        return ""
    for marker, parser in PARSERS:
        if marker in template:
            return parser if parser not in AS_TOKEN or _is_token(model, marker) else ""
    return ""


def form_of_calls(model: Artifact) -> str:
    """How a model's calls of tools come: `native`, read by vLLM; `moss`, in MOSS's form; `text`, as it is told to."""
    if tool_parser(model):
        return "native"
    return "moss" if MOSS_MARKER in chat_template(model) else "text"


def chat_template(model: Artifact) -> str:
    """A model's chat template, of several all of them; empty where it has none."""
    files = model.record.files
    if TEMPLATE_FILE in files:
        return model.location.read_bytes(TEMPLATE_FILE).decode()
    if CONFIG_FILE not in files:
        return ""
    given = json.loads(model.location.read_bytes(CONFIG_FILE)).get("chat_template") or ""
    return given if isinstance(given, str) else "\n".join(str(each.get("template", "")) for each in given)


def _is_token(model: Artifact, text: str) -> bool:
    if TOKENIZER_FILE not in model.record.files:
        return False
    added = json.loads(model.location.read_bytes(TOKENIZER_FILE)).get("added_tokens") or ()
    return any(token.get("content") == text for token in added)
