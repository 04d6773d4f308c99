"""How to call a model that chats, for its card: template, and lines that run."""

from __future__ import annotations

from cluster.core.storage.artifact import Artifact

QUESTION = "What can you do?"


def usage(name: str, model: Artifact, base: str = "") -> list[str]:
    """The section on template and calling; `model` is the one that was tuned, of an adapter over `base`."""
    named = str(model.spec.get("template", ""))
    template = f"`{named}`" if named else "the base model's own" if base else "its own"
    opening = (
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "{name}")'
        if base
        else f'model = AutoModelForCausalLM.from_pretrained("{name}")'
    )
    imports = ["from peft import PeftModel"] if base else []
    code = [
        *imports,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        opening,
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]',
        "prompt = tokenizer.apply_chat_template("
        'messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")',
        "answer = model.generate(**prompt, max_new_tokens=128)[0, prompt['input_ids'].shape[1] :]",
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]
    lines = "\n".join(code)
    return [
        "## How to call it",
        f"It takes conversations in one chat template, {template}, which its tokenizer brings (`chat_template.jinja`).",
        f"```python\n{lines}\n```",
    ]
