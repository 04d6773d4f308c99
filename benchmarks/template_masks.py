"""Token ids and loss masks against TRL's: the same conversations under the templates that both know.

    pip install --no-deps --target FOLDER trl && python benchmarks/template_masks.py FOLDER

TRL swaps a published chat template for one of its own with marks around what is learned (`assistant_only_loss`), and so
does this program, by TRL's code. We take the published template as the model's own. The tokenizer is SmolLM2's with the
special tokens of each family, and cuts words as theirs do; the conversations are the questions that ship with the
project, alone and in pairs.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import AutoTokenizer

from cluster.core.encoding import Encoded, examples
from cluster.core.typed_text import control
from pipelines.specs import PretrainedSpec
from pipelines.stages.tuning.formats import Reader
from pipelines.stages.tuning.pretrained import find
from pipelines.stages.tuning.templates import NAMED, prepare

FAMILIES = {  # TRL's name of a published template, and ours
    "llama3": "llama3",
    "gemma": "gemma",
    "qwen2_5": "qwen2.5",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "phi3_5": "phi3",
    "deepseek_r1_distill": "deepseek-r1",
    "deepseekv3": "deepseek-r1",  # by this name TRL has the template of DeepSeek-R1, which opens a thought
}
WORDS = (  # of Llama 3's tokenizer; those of the other families differ in numbers only
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BOS, EOS = "<bos>", "<eos>"
QUESTIONS = Path(__file__).resolve().parents[1] / "pipelines" / "data" / "assistant.jsonl"


@dataclass
class Tally:
    """How many conversations are alike, and what differs in the others."""

    conversations: int = 0
    ids: int = 0
    masks: int = 0
    named: int = 0
    split: int = 0
    theirs_only: Counter[str] = field(default_factory=Counter)
    ours_only: Counter[str] = field(default_factory=Counter)


def conversations(limit: int, system: bool) -> list[list[dict[str, str]]]:
    lines = QUESTIONS.read_text().splitlines()[:limit]
    reader = Reader("prompt-response")
    single: list[Any] = [reader.read(json.loads(line)).conversations[0]["messages"] for line in lines]
    pairs = [first + second for first, second in zip(single[::2], single[1::2], strict=False)]
    ruled = [[{"role": "system", "content": "Be brief."}, *each] for each in pairs] if system else []
    return single + pairs + ruled


def compare(tokenizer: Any, theirs: str, ours: str, limit: int) -> Tally:
    from trl import chat_template_utils as trl

    published, own, named = (copy.deepcopy(tokenizer) for _ in range(3))
    for tokenizer in (published, own, named):
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Split(Regex(WORDS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.add_special_tokens({"bos_token": BOS, "eos_token": EOS})
        specials = [*NAMED[ours].needed, "<｜end▁of▁sentence｜>"]
        tokenizer.add_special_tokens({"extra_special_tokens": specials}, replace_extra_special_tokens=False)
        if ours.startswith("deepseek"):
            tokenizer.eos_token = "<｜end▁of▁sentence｜>"
        tokenizer.chat_template = getattr(trl, f"{theirs}_chat_template")
    training = trl.get_training_chat_template(published)
    prepare(own, "")
    prepare(named, ours)
    tally = Tally()
    for messages in conversations(limit, system="gemma" not in theirs):
        marked = published.apply_chat_template(
            messages, chat_template=training, return_assistant_tokens_mask=True, return_dict=True
        )
        ids, mask = marked["input_ids"], [bool(learn) for learn in marked["assistant_masks"]]
        tally.conversations += 1
        mine, by_name = examples(own, messages), examples(named, messages)
        tally.named += list(map(until_learned, mine)) == list(map(until_learned, by_name))
        if len(mine) != 1:
            tally.split += 1
            continue
        tally.ids += mine[0].tokens == ids
        tally.masks += mine[0].tokens == ids and mine[0].learn == mask
        if mine[0].tokens == ids:
            for token, we, they in zip(ids, mine[0].learn, mask, strict=True):
                if we != they:
                    (tally.ours_only if we else tally.theirs_only)[_word(own, token)] += 1
    return tally


def until_learned(example: Encoded) -> list[tuple[int, bool]]:
    """An example up to the last token that is learned."""
    last = max(at for at, learn in enumerate(example.learn) if learn)
    return list(zip(example.tokens, example.learn, strict=True))[: last + 1]


def _word(tokenizer: Any, token: int) -> str:
    text = str(tokenizer.decode([token]))
    return text if text in control(tokenizer).tokens else repr(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trl", help="the folder that TRL was installed into")
    parser.add_argument("--limit", type=int, default=100, help="questions")
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), help="templates by TRL's names")
    asked = parser.parse_args()
    sys.path.append(asked.trl)
    model = find(PretrainedSpec())
    tokenizer = AutoTokenizer.from_pretrained(model.folder, gguf_file=model.gguf)
    for theirs in asked.only:
        found = compare(tokenizer, theirs, FAMILIES[theirs], asked.limit)
        print(
            f"{theirs}: {found.conversations} conversations, {found.split} become several examples; ids equal in "
            f"{found.ids}, masks in {found.masks}; TRL alone learns {dict(found.theirs_only)}, we alone "
            f"{dict(found.ours_only)}; `{FAMILIES[theirs]}` by name as the published template in {found.named}",
            flush=True,
        )


if __name__ == "__main__":
    main()
