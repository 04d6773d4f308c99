"""The stage that asks a model once what it thinks of the answers of preferences, so that no training has to.

A sequence is known by a digest of its tokens: another template, length or tokenizer finds nothing, and says so. The
batches are the same whatever the workers, so that the numbers are, too; each is a file, from which a run goes on.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import AutoTokenizer

from cluster.control.runtime import connect, require_gpus
from cluster.core.context import Context
from cluster.core.encoding import Encoded
from cluster.core.errors import InputError, SpecError
from cluster.core.model_files import fitting_tokens
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from pipelines.specs import DpoSpec, ReferenceSpec
from pipelines.stages.alignment.offline.answers import AnswerReader, digest
from pipelines.stages.alignment.offline.logprobs import AnswerLogprobs
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.training.models.models import load_model, require_rows, require_trainable
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import missing, prepare

LOGPROBS_FILE = "logprobs.npz"
BATCH = 16  # sequences of about one length, in one pass
ASKED_FILE = "asked.npz"


@dataclass(frozen=True)
class ReferenceLogprobs:
    """The sums of log-probabilities of answers (nats) by the digest of their sequence."""

    ref: str
    known: dict[int, float]

    @staticmethod
    def read(artifact: Artifact) -> ReferenceLogprobs:
        with np.load(io.BytesIO(artifact.location.read_bytes(LOGPROBS_FILE))) as file:
            known = dict(zip(file["digests"].tolist(), file["logprobs"].tolist(), strict=True))
        return ReferenceLogprobs(artifact.record.ref, known)

    def of(self, encoded: Sequence[Encoded]) -> NDArray[np.float64]:
        """Those of some sequences, (sequences,). Raises InputError where one was not asked for."""
        found = [self.known.get(digest(one)) for one in encoded]
        if missing := sum(value is None for value in found):
            raise InputError(
                f"{self.ref} does not have {missing} of the {len(found)} sequences that are to be compared with it",
                "Build it of the same preferences, with the template, sequence_length and too_long of the dpo step, "
                "and for kto with `mismatched: true`.",
            )
        return np.array(found, dtype=np.float64)


@dataclass(frozen=True)
class Asked:
    """What a worker is to do; travels pickled."""

    model: Artifact
    state: Location
    precision: str
    threads: int


def build(ctx: Context[ReferenceSpec]) -> dict[str, Any]:
    """Write logprobs.npz: digests (sequences,) uint64 and logprobs (sequences,) float64.

    Raises SpecError and InputError before any cluster time.
    """
    spec, model = ctx.spec, ctx.inputs["model"]
    fields = require_trainable(model)
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    require_tokens(tokenizer, spec)
    prepare(tokenizer, spec.template)
    require_rows(model, fields, tokenizer)
    longest = fitting_tokens(fields, spec.sequence_length)
    sequences = {digest(one): one for split in ("train", "heldout") for one in encoded(ctx, tokenizer, split, longest)}
    ordered = sorted(sequences.items(), key=lambda item: (len(item[1].tokens), item[0]))
    state = ctx.output / STATE
    Sequences.collect(one for _, one in ordered).save(state, ASKED_FILE)
    connect(ctx.scaling)
    require_gpus(ctx.scaling.num_workers * ctx.scaling.gpus_per_worker)
    from pipelines.stages.training.launch import run_workers  # Ray Train reads its environment when it is imported

    parts = -(-len(ordered) // BATCH)

    def watch() -> None:
        ctx.progress(sum(state.exists(part_name(number)) for number in range(parts)), parts, "batches")

    asked = Asked(model, state, spec.precision, max(1, int(ctx.scaling.cpus_per_worker)))
    run_workers(ask, asked, ctx.scaling, watch, ctx.notice)
    logprobs = np.concatenate([np.frombuffer(state.read_bytes(part_name(number))) for number in range(parts)])
    buffer = io.BytesIO()
    np.savez(buffer, digests=np.array([key for key, _ in ordered], np.uint64), logprobs=logprobs)
    ctx.output.write_bytes(LOGPROBS_FILE, buffer.getvalue())
    ctx.output.remove(STATE)
    counted = [sum(one.learn) for _, one in ordered]
    return {
        "sequences": len(ordered),
        "answer_tokens": sum(counted),
        "mean_logprob": float(logprobs.sum() / sum(counted)),  # nats a token
    }


def require_tokens(tokenizer: Any, spec: ReferenceSpec | DpoSpec) -> None:
    """Raise SpecError where a template writes tokens that the model does not have."""
    if absent := missing(tokenizer, spec.template):
        raise SpecError(
            f"{spec.kind}.template: {spec.template} needs {', '.join(absent)}, which the model's tokenizer has not",
            "Fine-tune the model with this template first (`sft`), or leave it empty for the model's own.",
        )


def encoded(ctx: Context[ReferenceSpec], tokenizer: Any, split: str, longest: int) -> list[Encoded]:
    """All sequences of a split that a loss may ask for."""
    spec, given = ctx.spec, ctx.inputs["preferences"]
    rows, found = read_preferences(given.local(), split), []
    for paired in (True, False):  # a pair can be left out for one answer of it, and the other stays
        reader = AnswerReader(tokenizer, longest, spec.too_long, paired)
        answers, one = reader.read(rows)
        found += one
        if spec.mismatched and not paired:
            found += reader.mismatched(answers)
    reader.require(f"{given.record.ref}, {split}")
    return found


def part_name(number: int) -> str:
    return f"part-{number:06d}"


def ask(asked: Asked, interruption: Any) -> dict[str, Any]:
    """Ask the model about this worker's batches."""
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    sequences = Sequences.load(asked.state, ASKED_FILE)
    model = AnswerLogprobs(load_model(asked.model.local()), asked.precision).to(device).eval()
    for number, start in enumerate(range(0, len(sequences), BATCH)):
        name = part_name(number)
        if number % dist.get_world_size() != dist.get_rank() or asked.state.exists(name):
            continue
        batch = sequences.batch(list(range(start, min(start + BATCH, len(sequences)))))
        with torch.inference_mode():
            found = model.of({key: tensor.to(device) for key, tensor in batch.items()})
        asked.state.write_bytes(name, found.double().cpu().numpy().tobytes())
    dist.barrier()
    return {}
