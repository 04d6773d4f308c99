"""What tuning cost of ARC-easy: a model and the one that it was tuned from, question by question, told as it goes.

    python benchmarks/arc_paired.py ../shared/data/eval/open_lm/arc_easy.jsonl BASE_FOLDER TUNED_FOLDER [--limit N]

Scored as lm-eval's `arc_easy` does: `acc` is the choice of the highest likelihood behind the question and `Answer:`,
`acc_norm` that by character. Both models get the same questions, so that a run that is stopped has its figures: counts,
and the interval of the paired difference. All questions by lm-eval itself: `ctl run pipelines/benchmark.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

Right = tuple[bool, bool]


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, row: dict[str, Any]) -> Right:
    """Whether the likeliest choice is right, by sum and by character."""
    begin = f"{row['query']}Answer:"
    wholes = [tokenizer(f"{begin} {choice}")["input_ids"] for choice in row["choices"]]
    start = len(tokenizer(begin)["input_ids"])
    batch = pad_sequence([torch.tensor(whole) for whole in wholes], batch_first=True)
    logits = model(batch, logits_to_keep=batch.size(1) - start + 1, use_cache=False).logits
    logs = torch.log_softmax(logits[:, :-1].float(), -1)
    told = logs.gather(-1, batch[:, start:, None])[..., 0]
    sums = torch.stack([told[i, : len(whole) - start].sum() for i, whole in enumerate(wholes)])
    lengths = torch.tensor([len(choice) for choice in row["choices"]])
    return int(sums.argmax()) == row["gold"], int((sums / lengths).argmax()) == row["gold"]


def tell(found: list[tuple[Right, Right]]) -> str:
    parts = []
    for number, name in enumerate(("acc", "acc_norm")):
        pairs = [(base[number], tuned[number]) for base, tuned in found]
        differences = [tuned - base for base, tuned in pairs]
        mean = sum(differences) / len(found)
        variance = sum((each - mean) ** 2 for each in differences) / max(1, len(found) - 1)
        half = 1.96 * math.sqrt(variance / len(found))
        base, tuned = (sum(side) / len(found) for side in zip(*pairs, strict=True))
        parts.append(f"{name} {base:.4f} to {tuned:.4f}, {100 * mean:+.1f} points (+-{100 * half:.1f})")
    return f"{len(found)} questions: {'; '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("base")
    parser.add_argument("tuned")
    parser.add_argument("--limit", type=int, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folders = asked.base, asked.tuned
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    sides = list(zip(models, map(AutoTokenizer.from_pretrained, folders), strict=True))
    found: list[tuple[Right, Right]] = []
    with open(asked.questions, encoding="utf-8") as file:
        for row in [json.loads(line) for line in file][: asked.limit]:
            base, tuned = (answer(model, tokenizer, row) for model, tokenizer in sides)
            found.append((base, tuned))
            if len(found) % 25 == 0:
                print(tell(found), flush=True)
    print(tell(found), flush=True)


if __name__ == "__main__":
    main()
