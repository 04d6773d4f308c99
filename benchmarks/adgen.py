"""SmolLM2-135M-Instruct on AdvertiseGen by every method: held-out loss, ROUGE and BLEU before and after, in one run.

    python benchmarks/adgen.py AdvertiseGen/dev.json [--only full lora ...] [--steps 12] [--prompts 12] [--store FOLDER]

Small, for a CPU: steps of 4 pairs, cut to 160 tokens, of which an English vocabulary needs two or three for a Chinese
character. Loss and answers are those of the artifacts, opened by transformers as `ctl chat` does, of QLoRA thus merged
into the unpacked base; beside it stands the training's own loss of its packed model. Before is the base, on the same
pairs. Answers are greedy, of 48 tokens at most, and counted as ChatGLM's evaluate.sh does.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoTokenizer

from cluster.control import runtime
from cluster.core.adapters import open_model
from cluster.core.build import build
from cluster.core.encoding import encode, prompt_tokens
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, Full, Lora, PretrainedSpec, PTuningV2, QLora, ScalingSpec, SftSpec
from pipelines.stages.evaluation.overlap import score
from pipelines.stages.generation import plain
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import as_served
from pipelines.stages.tuning.truncation import Fitting

LENGTH, BATCH, HELDOUT, ANSWER_TOKENS = 160, 4, 20, 48
METHODS: dict[str, tuple[Any, float]] = {  # what is trained, and its learning rate
    "full": (Full(), 1e-4),
    "lora": (Lora(), 1e-3),
    "qlora nf4": (QLora(), 1e-3),
    "qlora int8": (QLora(weights="int8"), 1e-3),
    "p-tuning-v2": (PTuningV2(pre_seq_len=8), 2e-2),
}
BEFORE = "before"
METRICS = ("chatglm_rouge1", "chatglm_rouge2", "chatglm_rougeL", "chatglm_bleu4")


def spec_of(name: str, steps: int, pairs: int) -> SftSpec:
    method, rate = METHODS[name]
    return SftSpec(
        method=method,
        epochs=steps * BATCH / pairs,
        global_batch_size=BATCH,
        sequence_length=LENGTH,
        too_long="cut-end",
        learning_rate=rate,
        warmup_steps=2,
        schedule="linear",
        validation_sequences=HELDOUT,
    )


@torch.inference_mode()
def heldout_loss(model: Any, tokenizer: Any, rows: list[Any]) -> float:
    """Nats a learned token of the held-out pairs, as the stage cuts them."""
    fitting = Fitting(lambda row: [encode(tokenizer, row["messages"])], LENGTH, "cut-end")
    sequences = Sequences.collect(one for examples in fitting.examples(rows) for one in examples)
    total = count = 0.0
    for number in range(min(len(sequences), HELDOUT)):
        batch = sequences.batch([number])
        tokens, learn = batch["tokens"], batch["learn"]
        logs = torch.log_softmax(model(tokens[:, :-1], use_cache=False).logits.float(), -1)
        found = -logs.gather(-1, tokens[:, 1:, None])[..., 0][learn]
        total, count = total + float(found.sum()), count + len(found)
    return total / count


def measure(artifact: Artifact, rows: list[Any], prompts: int) -> tuple[dict[str, float], str]:
    """Loss, ROUGE and BLEU of a model, and its first answer."""
    model = open_model(artifact, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(artifact.local())
    as_served(tokenizer)
    loss = heldout_loss(model, tokenizer, rows)
    asked = rows[:prompts]
    ids = [prompt_tokens(tokenizer, row["messages"][:-1]) for row in asked]
    quiet: Any = lambda *of, **more: None  # noqa: E731
    end = tokenizer.eos_token_id
    found = plain.answer(model, ids, [0] * len(ids), ANSWER_TOKENS, quiet, temperature=0.0, top_p=1.0, eos_token_id=end)
    answers = [tokenizer.decode(each.tokens, skip_special_tokens=True).strip() for each in found]
    references = [row["messages"][-1]["content"] for row in asked]
    results, _ = score(answers, references, [row["id"] for row in asked], language="chinese", task="adgen", seed=0)
    return {"loss": loss} | {r.metric: r.value for r in results if r.metric in METRICS}, answers[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="AdvertiseGen's dev.json or train.json")
    parser.add_argument("--only", nargs="*", default=[BEFORE, *METHODS], choices=[BEFORE, *METHODS])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--store", default="")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scaling = ScalingSpec(num_workers=1, zero_stage=0, micro_batch_size=BATCH, log_every=4)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(asked.store or folder)
        base = build(PretrainedSpec(), {}, store=store, name="adgen")
        data = ConversationsSpec(source="file", path=asked.data, format="advertisegen", heldout_fraction=0.1)
        pairs = build(data, {}, store=store, name="adgen")
        rows = read_conversations(pairs.local(), "heldout")
        trained = len(read_conversations(pairs.local(), "train"))

        def tell(name: str, artifact: Artifact) -> None:
            figures, answer = measure(artifact, rows, asked.prompts)
            own = artifact.metrics.get("validation_loss", math.nan)
            told = ", ".join(f"{metric} {value:.4f}" for metric, value in figures.items())
            print(f"{name}: {told}; the training's own loss {own:.4f}\n  {answer}", flush=True)

        if BEFORE in asked.only:
            tell(BEFORE, base)
        runtime.connect(scaling)
        for name in (each for each in asked.only if each != BEFORE):
            inputs = {"model": base, "conversations": pairs}
            spec = spec_of(name, asked.steps, trained)
            tell(name, build(spec, inputs, store=store, name=name.replace(" ", "-"), scaling=scaling))


if __name__ == "__main__":
    main()
