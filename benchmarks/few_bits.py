"""What INT8 and INT4 cost SmolLM2-135M-Instruct, by ways to make them: bytes of the weights and perplexity, beside
bfloat16's in the same run.

    python benchmarks/few_bits.py alpaca.json wikitext-2/valid.txt [--conversations 250] [--windows 64] [--way NAME ...]

Each way is a QuantizeSpec, calibrated on sequences out of the training part of the conversations, and its checkpoint is
written as by the stage. Each model is scored by vLLM in bfloat16, as it is served, in a process of
its own: on held-out answers, and on windows of 512 tokens of a text of another kind. Intervals are of 95 %, of paired
differences over conversations and windows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
from transformers import AutoTokenizer
from transformers.utils import logging

from cluster.core.build import build
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import Awq, ConversationsSpec, Gptq, PretrainedSpec, QuantizeSpec, SmoothQuant
from pipelines.stages.compression.calibration import calibration_sequences
from pipelines.stages.compression.paired import Change, perplexity
from pipelines.stages.compression.quality import read_questions
from pipelines.stages.compression.weights import quantize

WINDOW = 512  # tokens of a window of plain text
FOUR: dict[str, Any] = {"scheme": "int4", "zero_points": True, "embeddings": "int8"}
EIGHT: dict[str, Any] = {"embeddings": "int8", "balancing": SmoothQuant(), "rounding": Gptq()}
QKV = ("q_proj", "k_proj", "v_proj")
WAYS = {
    "int8, nearest": QuantizeSpec(embeddings="int8"),
    "int8, smooth_quant, gptq": QuantizeSpec(**EIGHT),
    "int8, the same, q, k, v and outliers kept": QuantizeSpec(keep=QKV, spare_above=40, **EIGHT),
    "int4, nearest": QuantizeSpec(**FOUR),
    "int4, awq": QuantizeSpec(balancing=Awq(), **FOUR),
    "int4, gptq": QuantizeSpec(rounding=Gptq(), **FOUR),
    "int4, gptq, o and down of 8": QuantizeSpec(rounding=Gptq(), eight_bits=("o_proj", "down_proj"), **FOUR),
}

Scores = list[list[float]]


def score(folder: str, sequences: str) -> None:
    """Print the log-probabilities of a file's sequences of token ids, by the engine that serves the model."""
    from pipelines.stages.generation.engine import EngineOptions, GenerationEngine

    asked = json.loads(Path(sequences).read_bytes())
    longest = max(map(len, asked)) + 1
    engine = GenerationEngine(Location(folder), EngineOptions(max_model_len=longest, dtype="bfloat16", threads=2))
    print(json.dumps(engine.score(asked)))


def scored(folder: Path, sequences: Path) -> Scores:
    command = [sys.executable, __file__, "--score", str(folder), str(sequences)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [[float(each) for each in one] for one in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("alpaca", help="conversations in Alpaca's form")
    parser.add_argument("text", help="plain text of another kind")
    parser.add_argument("--conversations", type=int, default=250)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=128, help="of the calibration")
    parser.add_argument("--sequence-tokens", type=int, default=512, help="of each of them")
    parser.add_argument("--way", action="append", choices=[*WAYS], help="these alone")
    parser.add_argument("--store", default="", help="where the inputs are built, and found again")
    given = parser.parse_args()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        store = Store(given.store or Path(place) / "store")
        model = build(PretrainedSpec(), {}, store=store, name="smollm2")
        texts = build(ConversationsSpec(source="file", path=given.alpaca), {}, store=store, name="alpaca")
        folder = model.local()
        asked = read_questions(folder, texts, QuantizeSpec(report_conversations=given.conversations)).whole
        ids = AutoTokenizer.from_pretrained(folder)(Path(given.text).read_text(encoding="utf-8"), verbose=False)
        windows = [ids["input_ids"][WINDOW * i : WINDOW * (i + 1)] for i in range(given.windows)]
        sequences = Path(place) / "sequences.json"
        sequences.write_text(json.dumps([each.tokens for each in asked] + windows))

        def nats(of: Path) -> dict[str, Scores]:
            """Of each token that counts, in each conversation and each window."""
            found = scored(of, sequences)
            answers = [
                [-log for log, learn in zip(logs, each.learn[1:], strict=True) if learn]
                for logs, each in zip(found[: len(asked)], asked, strict=True)
            ]
            return {"answers": answers, "text": [[-log for log in logs] for logs in found[len(asked) :]]}

        def megabytes(of: Path, share: float = 1.0) -> float:
            return sum(file.stat().st_size for file in of.glob("*.safetensors")) * share / 1e6

        base, whole = nats(folder), megabytes(folder, share=0.5)  # stored in float32
        told = "; ".join(
            f"{name} {perplexity(each):.4f} ({len(each)} of {sum(map(len, each)):,} tokens)"
            for name, each in base.items()
        )
        print(f"bfloat16: {whole:.1f} MB; perplexity of {told}", flush=True)
        calibration = {"calibration_sequences": given.sequences, "calibration_tokens": given.sequence_tokens}
        for name in given.way or WAYS:
            spec = msgspec.structs.replace(WAYS[name], **calibration)
            began, into = time.monotonic(), Path(place) / "quantized"
            drawn = calibration_sequences(folder, texts, spec) if spec.calibrated else ()
            quantize(folder, spec, into, lambda *_: None, drawn)
            seconds, size = time.monotonic() - began, megabytes(into)
            parts = []
            for kind, each in nats(into).items():
                change = Change.of(base[kind], each)
                assert change.interval
                low, high = change.interval
                parts.append(f"{kind} {perplexity(each):.4f}, {change.share:+.2%} ({low:+.2%} to {high:+.2%})")
            print(f"{name}: {size:.1f} MB, {size / whole:.1%}; {'; '.join(parts)}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--score"]:
        score(*sys.argv[2:])
    else:
        main()
